//! In what an instance differs from how it was.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::Instance;

/// Each difference in a few words, such as `zone=a -> zone=b`; empty where it is in what is never shown.
pub(crate) fn differences(old: &Instance, new: &Instance) -> Vec<String> {
    let mut found = Vec::new();
    let mut turned = |name: &str, old: String, new: String| {
        if old != new {
            let name = if name.is_empty() { name.into() } else { format!("{name} ") };
            let shown = |text: String| if text.is_empty() { "none".into() } else { text };
            found.push(format!("{name}{} -> {}", shown(old), shown(new)));
        }
    };
    turned("", old.health().to_string(), new.health().to_string());
    turned("at", list(old.addresses()), list(new.addresses()));
    let version = |instance: &Instance| instance.version().unwrap_or_default().to_owned();
    turned("version", version(old), version(new));
    turned("weight", old.weight().to_string(), new.weight().to_string());
    let warning = |instance: &Instance| instance.warning_weight().map(|weight| weight.to_string());
    turned("weight when warning", warning(old).unwrap_or_default(), warning(new).unwrap_or_default());
    found.extend(metadata(old.metadata(), new.metadata()));
    found.extend(new.tags().difference(old.tags()).map(|tag| format!("+tag {tag}")));
    found.extend(old.tags().difference(new.tags()).map(|tag| format!("-tag {tag}")));
    let names = |instance: &Instance| list(instance.endpoints().iter().map(|endpoint| &endpoint.name));
    if names(old) != names(new) {
        found.push(format!("endpoints {}", names(new)));
    } else if old.endpoints() != new.endpoints() {
        found.push("endpoints' details".into());
    }
    let why = |instance: &Instance| instance.health_reasons().first().map(ToString::to_string);
    if why(old) != why(new) {
        found.extend(why(new));
    }
    found
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

fn metadata(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let mut gone: BTreeMap<&String, &String> = old.iter().collect();
    let mut found = Vec::new();
    for (key, value) in new {
        match gone.entry(key) {
            Entry::Vacant(_) => found.push(format!("+{key}={value}")),
            Entry::Occupied(before) => {
                let before = before.remove();
                if before != value {
                    found.push(format!("{key}={before} -> {key}={value}"));
                }
            }
        }
    }
    found.extend(gone.into_iter().map(|(key, value)| format!("-{key}={value}")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Health, HealthReason};

    #[test]
    fn each_difference_is_said() {
        let base = || Instance::builder("a").id("1").address("h:1");
        let old = base().metadata("zone", "a").metadata("old", "1").tag("red").version("1").build().unwrap();
        let new = Instance::builder("a").id("1").address("h:2").metadata("zone", "b").metadata("new", "1");
        let reason = HealthReason::new("http", Health::Critical).output("refused");
        let new = new.tag("blue").weight(2).endpoint("Say").health(Health::Critical).health_reason(reason);
        let said = differences(&old, &new.build().unwrap());
        assert_eq!(
            said,
            [
                "passing -> critical",
                "at h:1 -> h:2",
                "version 1 -> none",
                "weight 1 -> 2",
                "+new=1",
                "zone=a -> zone=b",
                "-old=1",
                "+tag blue",
                "-tag red",
                "endpoints Say",
                "http: refused"
            ]
        );
        assert!(differences(&old, &old).is_empty());
    }
}
