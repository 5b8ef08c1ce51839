//! Which services have changed, from what Consul tells about all of them.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What differs between two answers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Services that changed, their names in lower case as Consul compares them.
    pub(crate) services: BTreeSet<String>,
    /// Whether instances have come, gone or been registered anew, and not only changed their health.
    pub(crate) registered: bool,
    /// At which of Consul's indexes they did, as far as the answer says.
    pub(crate) at: BTreeSet<u64>,
    /// Whether a check of a node changed, which is one of every service on it.
    pub(crate) nodes: bool,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.nodes
    }
}

/// The state of all checks (<https://developer.hashicorp.com/consul/api-docs/health#list-checks-in-state>).
#[derive(Default)]
pub(crate) struct Checks {
    known: HashMap<u64, Known>,
    hasher: RandomState,
}

#[derive(Clone)]
struct Known {
    /// In lower case; empty for a check of the node.
    service: String,
    /// What a registration makes of it.
    registered: u64,
    /// What says how the instance is, but for the output: that may be another at every run, and is no news.
    health: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check<'a> {
    #[serde(borrow)]
    node: Cow<'a, str>,
    #[serde(rename = "CheckID", borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    output: Cow<'a, str>,
    #[serde(rename = "ServiceID", borrow, default)]
    service_id: Cow<'a, str>,
    #[serde(borrow, default)]
    service_name: Cow<'a, str>,
    #[serde(borrow, default)]
    service_tags: Option<&'a RawValue>,
    #[serde(default)]
    create_index: u64,
    #[serde(default)]
    modify_index: u64,
}

impl Checks {
    /// Takes an answer; what differs from the one before.
    pub(crate) fn take(&mut self, body: &[u8]) -> serde_json::Result<Changes> {
        let checks: Vec<Check<'_>> = serde_json::from_slice(body)?;
        let mut known = HashMap::with_capacity(checks.len());
        let mut changes = Changes::default();
        for check in checks {
            let tags = check.service_tags.map(RawValue::get);
            let key = self.hasher.hash_one((&check.node, &check.id));
            let now = Known {
                service: check.service_name.to_lowercase(),
                registered: self.hasher.hash_one((&check.service_id, tags, check.create_index)),
                health: self.hasher.hash_one((&check.status, &check.name, check.output.is_empty())),
            };
            let old = self.known.remove(&key);
            let registered =
                old.as_ref().is_none_or(|old| old.service != now.service || old.registered != now.registered);
            if registered {
                changes.at.extend([check.create_index, check.modify_index]);
            }
            if let Some(old) = old.as_ref().filter(|old| old.service != now.service) {
                changes.note(old.service.clone(), true);
            }
            if registered || old.is_some_and(|old| old.health != now.health) {
                changes.note(now.service.clone(), registered);
            }
            known.insert(key, now);
        }
        // What is left is gone.
        for (_, old) in std::mem::replace(&mut self.known, known) {
            changes.note(old.service, true);
        }
        Ok(changes)
    }
}

impl Changes {
    fn note(&mut self, service: String, registered: bool) {
        if service.is_empty() {
            self.nodes = true;
        } else {
            self.services.insert(service);
            self.registered |= registered;
        }
    }
}

/// All names and their tags (<https://developer.hashicorp.com/consul/api-docs/catalog#list-services>).
#[derive(Default)]
pub(crate) struct Catalog {
    known: BTreeMap<String, BTreeSet<String>>,
}

impl Catalog {
    /// Takes an answer; what differs from the one before.
    pub(crate) fn take(&mut self, body: &[u8]) -> serde_json::Result<Changes> {
        let names: BTreeMap<String, Option<Vec<String>>> = serde_json::from_slice(body)?;
        let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, tags) in names {
            // Consul tells the tags in any order, and those of `Web` and `web` apart.
            known.entry(name.to_lowercase()).or_default().extend(tags.unwrap_or_default());
        }
        let mut changes = Changes::default();
        for (name, tags) in &known {
            if self.known.remove(name).as_ref() != Some(tags) {
                changes.note(name.clone(), true);
            }
        }
        for (name, _) in std::mem::replace(&mut self.known, known) {
            changes.note(name, true);
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(node: &str, service: &str, id: &str, status: &str, output: &str) -> String {
        format!(
            r#"{{"Node":"{node}","CheckID":"service:{id}","Name":"c","Status":"{status}","Output":"{output}","ServiceID":"{id}","ServiceName":"{service}","ServiceTags":["a"],"CreateIndex":5,"ModifyIndex":6}}"#
        )
    }

    fn changes(services: &[&str], registered: bool, nodes: bool) -> Changes {
        let services = services.iter().map(ToString::to_string).collect();
        Changes { services, registered, nodes, at: BTreeSet::new() }
    }

    #[test]
    fn checks_tell_which_services_changed_and_how() {
        let mut checks = Checks::default();
        let mut take = |list: &[String]| {
            let changes = checks.take(format!("[{}]", list.join(",")).as_bytes()).unwrap();
            // The index of what came is known, and of what went it is that of the answer.
            assert!(changes.at.iter().all(|at| [5, 6, 0].contains(at)), "{changes:?}");
            Changes { at: BTreeSet::new(), ..changes }
        };
        let a = |status: &str, output: &str| check("n1", "A", "1", status, output);
        let b = |node: &str| check(node, "b", "1", "passing", "ok");
        assert_eq!(take(&[a("passing", "ok"), b("n2")]), changes(&["a", "b"], true, false));
        assert_eq!(
            take(&[a("passing", "other"), b("n2")]),
            changes(&[], false, false),
            "an output is no news"
        );
        assert_eq!(take(&[a("critical", "other"), b("n2")]), changes(&["a"], false, false));
        assert_eq!(
            take(&[a("critical", ""), b("n2")]),
            changes(&["a"], false, false),
            "that there is one is"
        );
        assert_eq!(
            take(&[a("critical", ""), b("n3")]),
            changes(&["b"], true, false),
            "one came and one went"
        );
        assert_eq!(take(&[a("critical", "")]), changes(&["b"], true, false));
        let node = |status| check("n1", "", "", status, "x");
        assert_eq!(take(&[a("critical", ""), node("passing")]), changes(&[], false, true));
        assert_eq!(take(&[a("critical", ""), node("critical")]), changes(&[], false, true));
        assert!(checks.take(b"[{}]").is_err());
        assert!(checks.take(b"").is_err());
    }

    #[test]
    fn the_catalog_tells_names_and_tags_in_any_order_and_case() {
        let mut catalog = Catalog::default();
        let mut take = |json: &str| catalog.take(json.as_bytes()).unwrap();
        assert_eq!(take(r#"{"A":["x","y"],"b":[]}"#), changes(&["a", "b"], true, false));
        assert_eq!(take(r#"{"A":["y","x"],"b":null}"#), changes(&[], false, false));
        assert_eq!(take(r#"{"A":["x"],"a":["y"],"b":[]}"#), changes(&[], false, false));
        assert_eq!(take(r#"{"A":["x"],"c":[]}"#), changes(&["a", "b", "c"], true, false));
        assert!(catalog.take(b"[]").is_err());
    }
}
