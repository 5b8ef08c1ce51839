//! The contract, kept by lists in files, JSON and TOML, with the system's words and without.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard_conformance::{Backend, Outage, Profile, async_trait};
use switchboard_core::{Instance, Registry, ServiceName};
use switchboard_static::{FileBuilder, StaticRegistry};
use tempfile::TempDir;

type Write = fn(&[Instance]) -> String;

/// A file in a folder of its own.
struct InFile {
    folder: TempDir,
    name: &'static str,
    write: Write,
    with: fn(FileBuilder) -> FileBuilder,
    services: Mutex<BTreeMap<ServiceName, Vec<Instance>>>,
}

impl InFile {
    fn new(name: &'static str, write: Write, with: fn(FileBuilder) -> FileBuilder) -> Self {
        let world = Self { folder: TempDir::new().unwrap(), name, write, with, services: Mutex::default() };
        replace(&world.path(), &write(&[]));
        world
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    fn open_at(&self, path: &Path) -> Arc<dyn Registry> {
        Arc::new((self.with)(StaticRegistry::file(path)).open().unwrap())
    }
}

/// As those do who know that others read.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, path).unwrap();
}

/// A way to the file that can be cut.
struct Link {
    from: PathBuf,
    to: PathBuf,
    _folder: TempDir,
}

#[async_trait]
impl Outage for Link {
    async fn begin(&self) {
        fs::remove_file(&self.from).unwrap();
    }

    async fn end(&self) {
        std::os::unix::fs::symlink(&self.to, &self.from).unwrap();
    }
}

#[async_trait]
impl Backend for InFile {
    fn profile(&self) -> Profile {
        Profile::new().quiet(Duration::from_millis(400)).reads(Instance::clone).shared_ids(true)
    }

    async fn open(&self) -> Arc<dyn Registry> {
        self.open_at(&self.path())
    }

    async fn write(&self, service: &ServiceName, instances: &[Instance]) -> bool {
        let mut services = self.services.lock().unwrap();
        services.insert(service.clone(), instances.to_vec());
        let all: Vec<Instance> = services.values().flatten().cloned().collect();
        replace(&self.path(), &(self.write)(&all));
        true
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let folder = TempDir::new().unwrap();
        let link = Link { from: folder.path().join(self.name), to: self.path(), _folder: folder };
        link.end().await;
        Some((self.open_at(&link.from), Box::new(link)))
    }
}

fn json(instances: &[Instance]) -> String {
    serde_json::to_string_pretty(instances).unwrap()
}

/// A key of TOML may hold JSON's strings, and all that is no table is written as in JSON.
fn toml(instances: &[Instance]) -> String {
    fn value(json: &serde_json::Value) -> String {
        match json {
            serde_json::Value::Object(map) => {
                let pairs =
                    map.iter().map(|(key, inner)| format!("{} = {}", serde_json::json!(key), value(inner)));
                format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
            }
            serde_json::Value::Array(list) => {
                format!("[{}]", list.iter().map(value).collect::<Vec<_>>().join(", "))
            }
            other => other.to_string(),
        }
    }
    let mut text = if instances.is_empty() { "instances = []\n".to_owned() } else { String::new() };
    for instance in instances {
        text.push_str("[[instances]]\n");
        for (key, inner) in serde_json::to_value(instance).unwrap().as_object().unwrap() {
            writeln!(text, "{key} = {}", value(inner)).unwrap();
        }
    }
    text
}

mod json_file {
    switchboard_conformance::suite!(super::InFile::new("list.json", super::json, |file| file));
}

mod toml_file {
    switchboard_conformance::suite!(super::InFile::new("list.toml", super::toml, |file| file));
}

/// Looked at so often that the system's words are not needed; that they are not is in the unit tests.
mod looked_at {
    use std::time::Duration;

    switchboard_conformance::suite!(
        super::InFile::new("list.json", super::json, |file| file.poll(Duration::from_millis(20)))
    );
}
