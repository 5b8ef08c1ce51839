//! A list as text, and back: in a URL, in TOML, in JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;
use switchboard_core::{
    Address, Endpoint, Health, HealthReason, Instance, InstanceBuilder, InstanceId, InstanceKey, Invalid,
    ServiceName, Snapshot,
};
use toml::Spanned;

use crate::Format;

/// What stands for something else in a list in a URL.
const SPECIAL: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'=').add(b',').add(b';').add(b'?').add(b'#');

/// The instances of a list, none of them twice.
#[derive(Debug, Default)]
pub(crate) struct Instances(pub(crate) Vec<Instance>);

impl Instances {
    /// The list in a URL: `orders=10.0.0.1:80,10.0.0.2:80;stock=…`.
    pub(crate) fn from_url(list: &str) -> Result<Self, Invalid> {
        let mut services = BTreeMap::new();
        for part in list.split(';').filter(|part| !part.is_empty()) {
            let refuse = |why: &str| Invalid::quoting("list of a service", part, why);
            let (service, addresses) = part
                .split_once('=')
                .ok_or_else(|| refuse("has no addresses; write SERVICE=HOST:PORT,HOST:PORT"))?;
            let service: ServiceName = decoded(service)?.parse()?;
            let mut instances = Vec::new();
            for address in addresses.split(',').filter(|address| !address.is_empty()) {
                let address: Address = decoded(address)?.parse()?;
                let id = default_id(&address)?;
                instances.push(Instance::builder(&service).id(id).address(address).build()?);
            }
            if instances.is_empty() {
                return Err(refuse("has no address; leave the service out, or write HOST:PORT after the ="));
            }
            if services.insert(service, instances).is_some() {
                return Err(refuse(
                    "is the second of this service; write one, with commas between addresses",
                ));
            }
        }
        if services.is_empty() {
            let why = "lists no service; write static:SERVICE=HOST:PORT,HOST:PORT;SERVICE=…";
            return Err(Invalid::new("static URL", why));
        }
        Self::unique(services.into_values().flatten())
    }

    /// Refuses ids given twice.
    pub(crate) fn unique(instances: impl IntoIterator<Item = Instance>) -> Result<Self, Invalid> {
        let (mut known, mut list) = (BTreeSet::new(), Vec::new());
        for instance in instances {
            check_new(&mut known, &instance)?;
            list.push(instance);
        }
        Ok(Self(list))
    }

    /// The list in a file, or what is wrong with it and where.
    pub(crate) fn from_text(bytes: &[u8], format: Format) -> Result<Self, Mistake> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            Mistake::at(&bytes[..error.valid_up_to()], "there is something that is not UTF-8")
        })?;
        // Editors on Windows begin a file so.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            let nothing = match format {
                Format::Toml => "instances = []",
                Format::Json => "[]",
            };
            let what = format!("the file is empty; a list without instances is `{nothing}`");
            return Err(Mistake { line: 1, column: 1, what });
        }
        match format {
            Format::Toml => Self::from_toml(text),
            Format::Json => Self::from_json(text),
        }
    }

    fn from_toml(text: &str) -> Result<Self, Mistake> {
        let document: TomlDocument = toml::from_str(text).map_err(|error| {
            Mistake::behind(text, error.span().map_or(0, |span| span.start), error.message())
        })?;
        let entries = document.instances.into_iter();
        Self::one_by_one(text, entries.map(|entry| Ok((entry.span().start, entry.into_inner()))))
    }

    fn from_json(text: &str) -> Result<Self, Mistake> {
        let entries = if text.trim_start().starts_with('[') {
            serde_json::from_str(text)
        } else {
            serde_json::from_str(text).map(|document: JsonDocument<'_>| document.instances)
        };
        let wrong = |error| Mistake::behind(text, read_until(text, &error), &said(&error));
        let entries: Vec<&RawValue> = entries.map_err(wrong)?;
        let entries = entries.into_iter().map(|entry| {
            let entry = entry.get();
            // It is a part of the text itself.
            let start = entry.as_ptr().addr() - text.as_ptr().addr();
            let read = serde_json::from_str(entry).map_err(|error| {
                let until = read_until(entry, &error);
                // What is wrong with all of it, as a key that is missing, is found at its end.
                let until = if until + 1 < entry.len() { until } else { 0 };
                Mistake::behind(text, start + until, &said(&error))
            });
            Ok((start, read?))
        });
        Self::one_by_one(text, entries)
    }

    /// Entries and where in the text they begin. What is wrong with one as a whole is told there.
    fn one_by_one(
        text: &str,
        entries: impl Iterator<Item = Result<(usize, Entry), Mistake>>,
    ) -> Result<Self, Mistake> {
        let (mut known, mut list) = (BTreeSet::new(), Vec::new());
        for entry in entries {
            let (start, entry) = entry?;
            let wrong = |invalid: Invalid| Mistake::behind(text, start, &invalid.to_string());
            let instance = Instance::try_from(entry).map_err(wrong)?;
            check_new(&mut known, &instance).map_err(wrong)?;
            list.push(instance);
        }
        Ok(Self(list))
    }

    /// The snapshots of all services in it.
    pub(crate) fn snapshots(self) -> Vec<Snapshot> {
        let mut services: BTreeMap<ServiceName, Vec<Instance>> = BTreeMap::new();
        for instance in self.0 {
            services.entry(instance.service().clone()).or_default().push(instance);
        }
        services.into_iter().map(|(service, instances)| Snapshot::new(service, instances)).collect()
    }
}

/// The id of an instance that is given none: its first address, so that it is the same whenever the list is read.
fn default_id(address: &Address) -> Result<InstanceId, Invalid> {
    InstanceId::new(address.to_string())
}

fn check_new(known: &mut BTreeSet<InstanceKey>, instance: &Instance) -> Result<(), Invalid> {
    if known.insert(instance.key()) {
        return Ok(());
    }
    Err(Invalid::new(format!("instance {}", instance.key()), "is given twice; ids are unique in a service"))
}

fn decoded(text: &str) -> Result<String, Invalid> {
    match percent_decode_str(text.trim()).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Invalid::quoting("part of a list", text, "is not UTF-8 when it is percent-decoded")),
    }
}

/// The list as it stands in a URL, for as much as a URL can tell.
pub(crate) fn to_url(snapshots: &[Snapshot]) -> String {
    let mut url = String::from("static:");
    for (at, snapshot) in snapshots.iter().enumerate() {
        let between = if at == 0 { "" } else { ";" };
        let addresses = snapshot.all().iter().map(|instance| escaped(&instance.address().to_string()));
        let addresses = addresses.collect::<Vec<_>>().join(",");
        // Writing to a string cannot fail.
        let _ = write!(url, "{between}{}={addresses}", escaped(snapshot.service().as_str()));
    }
    url
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, SPECIAL).to_string()
}

/// What is wrong with a file, and where; lines and columns count from 1, columns in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    line: usize,
    column: usize,
    what: String,
}

impl Mistake {
    /// Behind so many bytes of a text.
    fn behind(text: &str, bytes: usize, what: &str) -> Self {
        Self::at(text.as_bytes().get(..bytes).unwrap_or_default(), what)
    }

    /// Behind `before`.
    fn at(before: &[u8], what: &str) -> Self {
        let line = before.split(|byte| *byte == b'\n').count();
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        Self { line, column, what: one_line(what) }
    }
}

/// How many bytes stand before the one that the error was met at.
fn read_until(text: &str, error: &serde_json::Error) -> usize {
    let before = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    // A column is the number of bytes that were read of its line.
    before.map(str::len).sum::<usize>() + error.column().saturating_sub(1)
}

/// The error without its place.
fn said(error: &serde_json::Error) -> String {
    let (line, column, what) = (error.line(), error.column(), error.to_string());
    let place = format!(" at line {line} column {column}");
    what.strip_suffix(&place).unwrap_or(&what).to_owned()
}

fn one_line(what: &str) -> String {
    what.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

/// The entries as text, so that the place of each is known.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonDocument<'a> {
    #[serde(borrow)]
    instances: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlDocument {
    instances: Vec<Spanned<Entry>>,
}

/// An instance as it is written: the keys of `switchboard instances --json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an instance, with keys such as `service` and `addresses`")]
struct Entry {
    service: ServiceName,
    id: Option<InstanceId>,
    version: Option<String>,
    addresses: Vec<Address>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    weight: Option<u16>,
    warning_weight: Option<u16>,
    #[serde(default)]
    health: Health,
    #[serde(default)]
    health_reasons: Vec<HealthReason>,
}

impl TryFrom<Entry> for Instance {
    type Error = Invalid;

    fn try_from(entry: Entry) -> Result<Self, Invalid> {
        let id = match (entry.id, entry.addresses.first()) {
            (Some(id), _) => Some(id),
            (None, Some(address)) => Some(default_id(address)?),
            // Refused below, in the words for it.
            (None, None) => None,
        };
        let mut instance =
            Instance::builder(entry.service).weight(entry.weight.unwrap_or(1)).health(entry.health);
        if let Some(id) = id {
            instance = instance.id(id);
        }
        if let Some(version) = entry.version {
            instance = instance.version(version);
        }
        if let Some(weight) = entry.warning_weight {
            instance = instance.warning_weight(weight);
        }
        instance = entry.addresses.into_iter().fold(instance, InstanceBuilder::address);
        instance = entry.tags.into_iter().fold(instance, InstanceBuilder::tag);
        instance =
            entry.metadata.into_iter().fold(instance, |instance, (key, value)| instance.metadata(key, value));
        instance = entry.endpoints.into_iter().fold(instance, InstanceBuilder::endpoint);
        instance = entry.health_reasons.into_iter().fold(instance, InstanceBuilder::health_reason);
        instance.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(list: &Instances) -> Vec<String> {
        list.0.iter().map(|instance| format!("{} at {}", instance.key(), instance.address())).collect()
    }

    #[test]
    fn a_list_in_a_url() {
        let list = Instances::from_url("orders=10.0.0.1:80,[::1]:81;a%3Bb%20c=db.example:5432;").unwrap();
        let expected = [
            "a;b c/db.example:5432 at db.example:5432",
            "orders/10.0.0.1:80 at 10.0.0.1:80",
            "orders/[::1]:81 at [::1]:81",
        ];
        assert_eq!(keys(&list), expected);
        let url = "static:a%3Bb%20c=db.example:5432;orders=10.0.0.1:80,[::1]:81";
        assert_eq!(to_url(&list.snapshots()), url);
        for (url, message) in [
            ("", "static URL: lists no service; write static:SERVICE=HOST:PORT,HOST:PORT;SERVICE=…"),
            ("orders", "list of a service \"orders\": has no addresses; write SERVICE=HOST:PORT,HOST:PORT"),
            (
                "orders=",
                "list of a service \"orders=\": has no address; leave the service out, or write HOST:PORT after the =",
            ),
            (
                "a=h:1;a=h:2",
                "list of a service \"a=h:2\": is the second of this service; write one, with commas between addresses",
            ),
            ("a=h:1,h:1", "instance a/h:1: is given twice; ids are unique in a service"),
            ("=h:1", "service name \"\": is empty"),
            ("a%ff=h:1", "part of a list \"a%ff\": is not UTF-8 when it is percent-decoded"),
        ] {
            assert_eq!(Instances::from_url(url).unwrap_err().to_string(), message);
        }
        assert!(Instances::from_url("a=10.0.0.1").is_err());
    }

    #[test]
    fn toml_and_json_are_the_same() {
        let toml = r#"
            [[instances]]
            service = "orders"
            addresses = ["10.0.0.1:80", "orders.example:80"]

            [[instances]]
            service = "orders"
            id = "two"
            version = "1.2"
            addresses = ["10.0.0.2:80"]
            tags = ["canary"]
            metadata = { zone = "eu-1" }
            endpoints = [{ name = "Orders.Place", request = { name = "r", type = "R" } }]
            weight = 5
            warning_weight = 0
            health = "critical"
            health_reasons = [{ check = "disk", health = "critical", seen_for_seconds = 3 }]
        "#;
        let json = r#"[
            {"service": "orders", "addresses": ["10.0.0.1:80", "orders.example:80"], "version": null},
            {"service": "orders", "id": "two", "version": "1.2", "addresses": ["10.0.0.2:80"], "tags": ["canary"],
             "metadata": {"zone": "eu-1"}, "endpoints": [{"name": "Orders.Place", "request": {"name": "r", "type": "R"}}],
             "weight": 5, "warning_weight": 0, "health": "critical", "health_reasons": [{"check": "disk", "health": "critical"}]}
        ]"#;
        let whole = Instances::from_text(toml.as_bytes(), Format::Toml).unwrap().0;
        assert_eq!(whole[0].id().as_str(), "10.0.0.1:80");
        assert_eq!((whole[1].health(), whole[1].weight().get()), (Health::Critical, 5));
        for json in [json.to_owned(), format!("\u{feff}{{\"instances\": {json}}}")] {
            assert_eq!(Instances::from_text(json.as_bytes(), Format::Json).unwrap().0, whole);
        }
        for (nothing, format) in [("instances = []", Format::Toml), (" []", Format::Json)] {
            assert!(Instances::from_text(nothing.as_bytes(), format).unwrap().0.is_empty());
        }
    }

    #[test]
    fn mistakes_have_a_place_and_one_line() {
        let toml = |text: &str| Instances::from_text(text.as_bytes(), Format::Toml).unwrap_err().to_string();
        let json = |text: &str| Instances::from_text(text.as_bytes(), Format::Json).unwrap_err().to_string();
        let entry = "[[instances]]\nservice = \"a\"\naddresses = [\"h:1\"]\n";
        for (said, expected) in [
            (toml(""), "line 1, column 1: the file is empty; a list without instances is `instances = []`"),
            (json(" \n"), "line 1, column 1: the file is empty; a list without instances is `[]`"),
            (toml("# to come"), "line 1, column 1: missing field `instances`"),
            (
                toml(&format!("{entry}adress = 1\n")),
                "line 4, column 1: unknown field `adress`, expected one of `service`, `id`, `version`, `addresses`, `tags`, \
                 `metadata`, `endpoints`, `weight`, `warning_weight`, `health`, `health_reasons`",
            ),
            (
                toml(&format!("{entry}{}", entry.replace("h:1", "h"))),
                "line 6, column 13: address \"h\": has no port; write host:port",
            ),
            (
                toml(&format!("{entry}weight = 0\n")),
                "line 1, column 1: weight 0: is too small; a weight is 1 to 65535",
            ),
            (
                toml(&format!("{entry}\n{entry}")),
                "line 5, column 1: instance a/h:1: is given twice; ids are unique in a service",
            ),
            (
                json("[{\"service\": \"a\",\n \"addresses\": [\"h\"]}]"),
                "line 2, column 19: address \"h\": has no port; write host:port",
            ),
            (
                json("[\n{\"service\": \"a\", \"addresses\": []}]"),
                "line 2, column 1: instance of \"a\": has no address; it needs at least one",
            ),
            (
                json("[1]"),
                "line 1, column 2: invalid type: integer `1`, expected an instance, with keys such as `service` and `addresses`",
            ),
            (json("[{\"service\": \"a\""), "line 1, column 16: EOF while parsing an object"),
        ] {
            assert_eq!(said, expected);
        }
        let error = Instances::from_text(b"a = 1\nb = \"\xff\"", Format::Toml).unwrap_err();
        assert_eq!(error.to_string(), "line 2, column 6: there is something that is not UTF-8");
    }

    /// What is wrong with an entry is told where that begins; what is wrong with a value, in its line.
    #[test]
    fn mistakes_in_json_are_told_where_they_are() {
        let entry =
            |more: &str| format!("  {{\n    \"service\": \"a\",{more}\n    \"addresses\": [\"h:1\"]\n  }}");
        let (good, list) = (entry(r#" "id": "1","#), |entries: &[String]| entries.join(",\n"));
        for (wrong, expected) in [
            (entry(r#" "weight": 0,"#), "line 6, column 3: weight 0: is too small; a weight is 1 to 65535"),
            (
                entry(r#" "id": "1","#),
                "line 6, column 3: instance a/1: is given twice; ids are unique in a service",
            ),
            ("  {\n  \"addresses\": [\"h:1\"]\n  }".into(), "line 6, column 3: missing field `service`"),
            (entry("\n\"wieght\": 5,"), "line 8, column 8: unknown field `wieght`"),
            (entry("\n\"weight\": \"5\","), "line 8, column 13: invalid type: string \"5\", expected u16"),
            (entry("\n\"health\": \"é\","), "line 8, column 14: unknown variant `é`"),
            (entry("\n\"endpoints\": [\n{}],"), "line 9, column 2: missing field `name`"),
            ("  {,}".into(), "line 6, column 4: key must be a string"),
            (String::new(), "line 6, column 1: expected value"),
        ] {
            let list = list(&[good.clone(), wrong, entry("")]);
            for (list, format) in [
                (format!("[\n{list}\n]"), "a list"),
                (format!("{{\"instances\": [\n{list}\n]}}"), "an object"),
            ] {
                let said = Instances::from_text(list.as_bytes(), Format::Json).unwrap_err().to_string();
                assert!(said.starts_with(expected), "in {format}: {said}, not {expected}");
            }
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in any::<Vec<u8>>(), text in any::<String>()) {
            for format in [Format::Toml, Format::Json] {
                let _ = Instances::from_text(&bytes, format);
                let _ = Instances::from_text(text.as_bytes(), format);
            }
            let _ = Instances::from_url(&text);
        }

        #[test]
        fn a_url_is_read_as_it_is_written(names in proptest::collection::btree_set("[ -~äß]{1,20}", 1..5)) {
            let instances = names.iter().filter_map(|name| {
                Instance::builder(name.as_str()).id("h:1").address("h:1").build().ok()
            });
            let snapshots = Instances::unique(instances).unwrap().snapshots();
            prop_assume!(!snapshots.is_empty());
            let url = to_url(&snapshots);
            prop_assert_eq!(Instances::from_url(&url["static:".len()..]).unwrap().snapshots(), snapshots);
        }
    }
}
