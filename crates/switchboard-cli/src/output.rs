//! What is written: text and tables for people, JSON for machines, complaints on standard error.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use serde::Serialize;
use switchboard::{Address, Endpoint, Health, HealthReason, Host, Instance, Snapshot};
use tracing_subscriber::filter::LevelFilter;

const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const FAINT: Style = Style::new().dimmed();

/// How a line looks on a terminal; elsewhere all look the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Plain,
    Heading,
    Good,
    Doubtful,
    Bad,
    Faint,
}

impl Look {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Heading => HEADING,
            Self::Good => GOOD,
            Self::Doubtful => DOUBTFUL,
            Self::Bad => BAD,
            Self::Faint => FAINT,
        }
    }

    /// How instances of this health look in a list.
    pub(crate) fn of(health: Health) -> Self {
        match health {
            Health::Passing => Self::Plain,
            Health::Warning => Self::Doubtful,
            _ => Self::Bad,
        }
    }
}

/// Writes one line to standard output.
pub(crate) fn line(look: Look, text: &str) -> io::Result<()> {
    let style = look.style();
    // Locked and flushed line by line: a reader at the other end of a pipe sees each at once.
    let mut out = anstream::stdout().lock();
    writeln!(out, "{style}{text}{style:#}")?;
    out.flush()
}

/// Writes what has its own line ends, at once.
pub(crate) fn text(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes JSON: readable on a terminal, one line elsewhere.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let text = if io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    line(Look::Plain, &text?)
}

/// Writes JSON in one line, for streams of objects.
pub(crate) fn json_line(value: &impl Serialize) -> io::Result<()> {
    line(Look::Plain, &serde_json::to_string(value)?)
}

/// The same on standard error, for a command whose standard output is somebody else's.
pub(crate) fn json_line_to_error(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        // Nothing can be done when standard error is gone.
        let _ = writeln!(anstream::stderr(), "{text}");
    }
}

/// The time of an event: in UTC, as RFC 3339 has it.
#[allow(clippy::disallowed_types, reason = "a time for people and logs, from which nothing is reckoned")]
pub(crate) fn now() -> String {
    humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string()
}

/// A time in seconds, to the millisecond.
pub(crate) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Says something on standard error that is not the result.
pub(crate) fn note(text: &str) {
    say(Look::Faint, text);
}

/// Says on standard error that a look may not have been the whole.
pub(crate) fn warn_of_part(registry: &impl Display, snapshots: &[Snapshot]) {
    if !snapshots.iter().all(Snapshot::is_complete) {
        say(
            Look::Doubtful,
            &format!("{registry} may have more: not everything that is announced was heard in time"),
        );
    }
}

/// Says on standard error what went wrong, in one line.
pub(crate) fn complain(text: &str) {
    say(Look::Bad, text);
}

fn say(look: Look, text: &str) {
    let style = look.style();
    // Nothing can be done when standard error is gone.
    let _ = writeln!(anstream::stderr(), "{style}switchboard:{style:#} {}", clean(text));
}

/// A table whose rows each take one line, and which leaves out columns with nothing in them.
#[derive(Debug)]
pub(crate) struct Listing {
    heads: Vec<&'static str>,
    heads_shown: bool,
    rows: Vec<(Look, Vec<String>)>,
}

impl Listing {
    pub(crate) fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), heads_shown: true, rows: Vec::new() }
    }

    /// With the heads of the columns, or without.
    pub(crate) fn heads_shown(mut self, shown: bool) -> Self {
        self.heads_shown = shown;
        self
    }

    pub(crate) fn row(&mut self, look: Look, cells: Vec<String>) {
        let cells = cells.into_iter().map(|cell| clean(&cell)).collect();
        self.rows.push((look, cells));
    }

    pub(crate) fn print(&self) -> io::Result<()> {
        for (look, text) in self.lines().into_iter().skip(usize::from(!self.heads_shown)) {
            line(look, &text)?;
        }
        Ok(())
    }

    fn lines(&self) -> Vec<(Look, String)> {
        let used: Vec<usize> = (0..self.heads.len())
            .filter(|&column| self.rows.iter().any(|(_, cells)| !cells[column].is_empty()))
            .collect();
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.add_row(used.iter().map(|&column| self.heads[column]));
        for (_, cells) in &self.rows {
            let cell = |&column: &usize| if cells[column].is_empty() { "-" } else { &cells[column] };
            table.add_row(used.iter().map(cell));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let looks = std::iter::once(Look::Heading).chain(self.rows.iter().map(|(look, _)| *look));
        looks.zip(table.lines()).map(|(look, line)| (look, line.trim_end().to_owned())).collect()
    }
}

/// What others registered, fit for a terminal: no character in it can move the cursor, break the line or change the
/// direction of writing.
pub(crate) fn clean(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(steers) {
        return text.into();
    }
    text.chars().flat_map(|c| if steers(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// `text` in at most `widest` characters, with an ellipsis where something is missing.
pub(crate) fn cut(text: String, widest: usize) -> String {
    match text.char_indices().nth(widest) {
        None => text,
        Some(_) => text.chars().take(widest.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// An instance in JSON, always with the same keys.
#[derive(Debug, Serialize)]
pub(crate) struct InstanceJson<'a> {
    service: &'a str,
    id: &'a str,
    version: Option<&'a str>,
    addresses: &'a [Address],
    tags: &'a BTreeSet<String>,
    metadata: &'a BTreeMap<String, String>,
    endpoints: &'a [Endpoint],
    weight: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning_weight: Option<u16>,
    health: Health,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    health_reasons: Vec<ReasonJson<'a>>,
    /// Where it is known, if there are several registries.
    #[serde(skip_serializing_if = "Option::is_none")]
    registries: Option<&'a [String]>,
}

impl<'a> InstanceJson<'a> {
    pub(crate) fn known_at(self, registries: Option<&'a [String]>) -> Self {
        Self { registries, ..self }
    }
}

/// Why an instance is not passing.
#[derive(Debug, Serialize)]
struct ReasonJson<'a> {
    check: &'a str,
    health: Health,
    output: &'a str,
    notes: &'a str,
    /// For how long at least, where a watch has seen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    seen_for_seconds: Option<u64>,
}

impl<'a> From<&'a HealthReason> for ReasonJson<'a> {
    fn from(reason: &'a HealthReason) -> Self {
        Self {
            check: &reason.check,
            health: reason.health,
            output: &reason.output,
            notes: &reason.notes,
            seen_for_seconds: reason.seen_since.map(|since| since.elapsed().as_secs()),
        }
    }
}

/// Why an instance is not passing, in a part of a line; empty where nothing is told.
pub(crate) fn why(instance: &Instance) -> String {
    match instance.health_reasons() {
        [] => String::new(),
        [reason] => reason.to_string(),
        [reason, others @ ..] => format!("{reason} (and {} more)", others.len()),
    }
}

/// The same with what templates want to have at hand.
#[derive(Debug, Serialize)]
pub(crate) struct InstanceItem<'a> {
    #[serde(flatten)]
    json: InstanceJson<'a>,
    /// The first address, and its parts; an IPv6 host is in brackets.
    address: String,
    host: String,
    port: u16,
}

impl<'a> From<&'a Instance> for InstanceItem<'a> {
    fn from(instance: &'a Instance) -> Self {
        let address = instance.address();
        let host = host(address);
        Self { json: instance.into(), address: address.to_string(), host, port: address.port() }
    }
}

impl<'a> InstanceItem<'a> {
    pub(crate) fn known_at(self, registries: Option<&'a [String]>) -> Self {
        Self { json: self.json.known_at(registries), ..self }
    }
}

/// The host of an address as URLs and configuration files have it.
pub(crate) fn host(address: &Address) -> String {
    match address.host() {
        Host::Ip(ip) if ip.is_ipv6() => format!("[{ip}]"),
        host => host.to_string(),
    }
}

impl<'a> From<&'a Instance> for InstanceJson<'a> {
    fn from(instance: &'a Instance) -> Self {
        Self {
            service: instance.service().as_str(),
            id: instance.id().as_str(),
            version: instance.version(),
            addresses: instance.addresses(),
            tags: instance.tags(),
            metadata: instance.metadata(),
            endpoints: instance.endpoints(),
            weight: instance.weight().get(),
            warning_weight: instance.warning_weight(),
            health: instance.health(),
            health_reasons: instance.health_reasons().iter().map(ReasonJson::from).collect(),
            registries: None,
        }
    }
}

/// Words separated by commas.
pub(crate) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

/// Lets the libraries speak on standard error, as loud as asked for.
pub(crate) fn log(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(clean("plain é 漢"), "plain é 漢");
        assert_eq!(clean("a\x1b[2Jb\nc\u{202e}d"), "a\\u{1b}[2Jb\\nc\\u{202e}d");
    }

    #[test]
    fn why_is_a_short_part_of_a_line_and_all_of_it_in_json() {
        let reason =
            |output: &str| HealthReason::new("http", Health::Critical).output(output).notes("ask ops");
        let base = || Instance::builder("a").id("1").address("h:1").health(Health::Critical);
        let says = |output: &str| why(&base().health_reason(reason(output)).build().unwrap());
        assert_eq!(why(&base().build().unwrap()), "");
        assert_eq!(says("\n refused \nmore"), "http: refused");
        assert_eq!(says(""), "http: ask ops");
        assert_eq!(says(&"é".repeat(200)), format!("http: {}…", "é".repeat(100)));
        let two = base().health_reason(reason("a\nb")).health_reason(reason("c")).build().unwrap();
        assert_eq!(why(&two), "http: a (and 1 more)");
        let json = serde_json::to_value(InstanceJson::from(&two)).unwrap();
        assert_eq!(
            json["health_reasons"][0],
            serde_json::json!({"check": "http", "health": "critical", "output": "a\nb", "notes": "ask ops"})
        );
        assert!(
            serde_json::to_value(InstanceJson::from(&base().build().unwrap()))
                .unwrap()
                .get("health_reasons")
                .is_none()
        );
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(cut("éé".into(), 2), "éé");
        assert_eq!(cut("ééé".into(), 2), "é…");
        assert_eq!(cut("a".into(), 0), "…");
    }

    #[test]
    fn a_listing_leaves_out_empty_columns_and_marks_empty_cells() {
        let mut listing = Listing::new(&["ID", "VERSION", "TAGS"]);
        listing.row(Look::Plain, vec!["a".into(), "1".into(), String::new()]);
        listing.row(Look::Bad, vec!["longer".into(), String::new(), String::new()]);
        let lines = listing.lines();
        let text: Vec<&str> = lines.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(text, ["ID      VERSION", "a       1", "longer  -"]);
        assert_eq!(lines[2].0, Look::Bad);
    }
}
