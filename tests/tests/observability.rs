//! What docs/observability.md says is emitted is what is emitted, and the dashboard asks for nothing else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use metrics::{Recorder, Unit};
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_util::MetricKind;
use metrics_util::debugging::DebuggingRecorder;
use switchboard::client::reqwest::Discovery;
use switchboard::prelude::*;
use switchboard::{MemoryRegistry, consul::ConsulRegistry, mdns::MdnsRegistry};

/// A metric: its type, its unit, and the values of its labels, of which "…" is any.
#[derive(Debug, PartialEq)]
struct Told {
    kind: &'static str,
    unit: &'static str,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// By name.
type Metrics = BTreeMap<String, Told>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn document() -> String {
    fs::read_to_string(root().join("docs/observability.md")).unwrap()
}

/// The cells of the document's rows that have so many.
fn rows(cells: usize) -> Vec<Vec<String>> {
    let document = document();
    let row = |line: &str| -> Option<Vec<String>> {
        let line = line.strip_prefix("| ")?.strip_suffix(" |")?;
        Some(line.split(" | ").map(|cell| cell.trim_matches(['|', ' ']).to_owned()).collect())
    };
    document.lines().filter_map(row).filter(|row| row.len() == cells).collect()
}

fn documented() -> Metrics {
    let quoted =
        |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let metric = |row: Vec<String>| {
        let name = quoted(&row[0]).pop()?;
        let kind = ["counter", "gauge", "histogram"].into_iter().find(|kind| *kind == row[1]).expect(&name);
        let unit = ["1", "s"].into_iter().find(|unit| *unit == row[2]).expect(&name);
        let mut labels = BTreeMap::new();
        // `service`, `outcome`: `success`, `failure`
        let (any, few) = row[3].split_once(": ").unwrap_or((&row[3], ""));
        for label in quoted(any) {
            labels.insert(label, BTreeSet::from(["…".to_owned()]));
        }
        if !few.is_empty() {
            labels.insert(quoted(any).pop().unwrap(), quoted(few).into_iter().collect());
        }
        Some((name, Told { kind, unit, labels }))
    };
    rows(5).into_iter().filter_map(metric).collect()
}

/// One of everything that tells metrics.
async fn everything() {
    let registry = MemoryRegistry::new();
    let instance = Instance::builder("any").address("127.0.0.1:1").build().unwrap();
    let running = Registrar::new(registry.handle(), instance).start().await.unwrap();
    let selector = Selector::new(Directory::new(registry.handle()));
    let client = Discovery::new(selector).client().unwrap();
    client.get("http://any/").send().await.unwrap_err();
    running.shutdown().await.unwrap();
    let consul = ConsulRegistry::builder().ignore_env().address("127.0.0.1:1").build().unwrap();
    consul.close().await.unwrap();
    let port = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let mdns = MdnsRegistry::builder().interface("lo").port(port).open().await.unwrap();
    mdns.close().await.unwrap();
}

fn recorded() -> Vec<(metrics::Key, MetricKind, Unit)> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(everything());
    });
    let metric = |(key, unit, about, _): (metrics_util::CompositeKey, Option<Unit>, Option<_>, _)| {
        let (kind, key) = key.into_parts();
        assert!(about.is_some(), "{key} is not described");
        let unit = unit.unwrap_or_else(|| panic!("{key} has no unit"));
        (key, kind, unit)
    };
    snapshotter.snapshot().into_vec().into_iter().map(metric).collect()
}

fn emitted(recorded: &[(metrics::Key, MetricKind, Unit)]) -> Metrics {
    let mut all = Metrics::new();
    for (key, kind, unit) in recorded {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let unit = match unit {
            Unit::Count => "1",
            Unit::Seconds => "s",
            other => panic!("{key} is in {other:?}"),
        };
        let told = all.entry(key.name().to_owned()).or_insert(Told { kind, unit, labels: BTreeMap::new() });
        assert_eq!((told.kind, told.unit), (kind, unit), "{key}");
        for label in key.labels() {
            let is_any = ["service", "agent"].contains(&label.key());
            let value = if is_any { "…" } else { label.value() };
            told.labels.entry(label.key().to_owned()).or_default().insert(value.to_owned());
        }
    }
    all
}

#[test]
fn the_documented_metrics_are_those_emitted() {
    let (documented, emitted) = (documented(), emitted(&recorded()));
    assert!(!documented.is_empty());
    for (name, told) in &emitted {
        assert_eq!(Some(told), documented.get(name), "{name}, emitted and documented");
    }
    let only: Vec<_> = documented.keys().filter(|name| !emitted.contains_key(*name)).collect();
    assert!(only.is_empty(), "documented and not emitted: {only:?}");
}

/// The names and labels of what the exporter makes of these.
fn for_prometheus(recorded: &[(metrics::Key, MetricKind, Unit)]) -> BTreeMap<String, BTreeSet<String>> {
    let builder = PrometheusBuilder::new().with_recommended_naming(true).set_buckets(&[1.0]).unwrap();
    let recorder = builder.build_recorder();
    let metadata = metrics::Metadata::new("", metrics::Level::INFO, None);
    for (key, kind, unit) in recorded {
        let (name, unit) = (key.name().to_owned().into(), Some(*unit));
        match kind {
            MetricKind::Counter => {
                recorder.describe_counter(name, unit, "".into());
                recorder.register_counter(key, &metadata).increment(1);
            }
            MetricKind::Gauge => {
                recorder.describe_gauge(name, unit, "".into());
                recorder.register_gauge(key, &metadata).set(1.0);
            }
            MetricKind::Histogram => {
                recorder.describe_histogram(name, unit, "".into());
                recorder.register_histogram(key, &metadata).record(1.0);
            }
        }
    }
    let mut series = BTreeMap::<String, BTreeSet<String>>::new();
    let rendered = recorder.handle().render();
    for line in rendered.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, labels) = line.rsplit_once(' ').unwrap().0.split_once('{').unwrap_or((line, ""));
        let name = name.split(' ').next().unwrap();
        let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        series.entry(name.to_owned()).or_default().extend(labels);
    }
    series
}

/// The words of a query, in order; what is quoted is none.
fn words(query: &str) -> Vec<&str> {
    let plain = query.split('"').step_by(2);
    plain
        .flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .filter(|word| !word.is_empty())
        .collect()
}

#[test]
fn the_dashboard_asks_for_documented_metrics_and_labels_and_for_all_of_them() {
    const OF_THE_LANGUAGE: [&str; 8] =
        ["sum", "max", "by", "rate", "time", "histogram_quantile", "__rate_interval", "service"];
    let recorded = recorded();
    let series = for_prometheus(&recorded);
    let dashboard = fs::read_to_string(root().join("docs/observability/dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let targets =
        dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array());
    let queries: Vec<&str> = targets.flatten().map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(!queries.is_empty());
    let mut asked = BTreeSet::new();
    for query in queries {
        let names: Vec<_> =
            words(query).into_iter().filter(|word| word.starts_with("switchboard_")).collect();
        assert!(!names.is_empty(), "{query}");
        for name in names {
            let labels = series.get(name).unwrap_or_else(|| panic!("{name} is none of {:?}", series.keys()));
            for word in words(query) {
                let is_known = labels.contains(word) || OF_THE_LANGUAGE.contains(&word);
                let is_number = word.chars().all(|c| c.is_ascii_digit());
                assert!(is_known || is_number || series.contains_key(word), "{word:?} in {query}");
            }
            asked.insert(name);
        }
    }
    for name in series.keys() {
        let is_part = ["_sum", "_count"].iter().any(|part| name.ends_with(part));
        assert!(is_part || asked.contains(name.as_str()), "nothing shows {name}");
    }
}

/// Events in the source of a library: level and message.
fn events(source: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for rest in source.split("tracing::").skip(1) {
        let Some((level, rest)) = rest.split_once("!(") else { continue };
        if !["error", "warn", "info", "debug", "trace"].contains(&level) {
            continue;
        }
        // Up to the parenthesis that closes it; the message is the last string.
        let (mut depth, mut message, mut string) = (1, String::new(), None::<String>);
        let mut chars = rest.chars().peekable();
        while depth > 0 {
            let c = chars.next().expect("it is closed");
            match (&mut string, c) {
                (Some(_), '"') => message = string.take().unwrap(),
                (Some(_), '\\') if chars.peek() == Some(&'\n') => {
                    while chars.next_if(|c| c.is_whitespace()).is_some() {}
                }
                (Some(text), '\\') => text.extend(chars.next()),
                (Some(text), c) => text.push(c),
                (None, '"') => string = Some(String::new()),
                (None, '(') => depth += 1,
                (None, ')') => depth -= 1,
                (None, _) => {}
            }
        }
        found.insert((level.to_uppercase(), message));
    }
    found
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_documented_events_are_those_of_the_libraries() {
    let mut emitted = BTreeSet::new();
    for name in ["registrar", "watcher", "selector", "client", "mdns", "consul", "net", "core"] {
        let folder = root().join(format!("crates/switchboard-{name}/src"));
        for source in sources(&folder) {
            let events = events(&fs::read_to_string(source).unwrap());
            emitted.extend(events.into_iter().map(|(level, message)| (format!("`{name}`"), level, message)));
        }
    }
    let is_event = |row: &Vec<String>| ["WARN", "INFO", "DEBUG", "ERROR", "TRACE"].contains(&&*row[1]);
    let documented = rows(3).into_iter().filter(is_event);
    let documented: BTreeSet<_> =
        documented.map(|row| (row[0].clone(), row[1].clone(), row[2].clone())).collect();
    let missing: Vec<_> = emitted.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&emitted).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "docs/observability.md, under Events, lacks {missing:#?} and has what is no more: {gone:#?}"
    );
}

#[test]
fn the_documented_fields_are_those_of_the_span() {
    let source = fs::read_to_string(root().join("crates/switchboard-client/src/span.rs")).unwrap();
    let span = source.split_once("info_span!(").unwrap().1.split_once(");").unwrap().0;
    let fields = span.lines().filter_map(|line| Some(line.split_once(" = ")?.0.trim().to_owned()));
    let document = document();
    let table = document.split_once("## Spans").unwrap().1.split_once("##").unwrap().0;
    let rows =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" |")).map(|(cell, _)| cell);
    let documented: BTreeSet<_> = rows
        .flat_map(|cell| cell.split("`, `"))
        .map(|field| field.trim_end_matches('`').to_owned())
        .collect();
    assert_eq!(fields.collect::<BTreeSet<_>>(), documented);
}
