//! What a part of the keys says.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use switchboard_core::{Instance, ServiceName, Snapshot};

use crate::record::{read, split};
use crate::wire::KeyValue;

/// How a part of the keys is understood.
pub(crate) trait Scope: Clone + Send + Sync + 'static {
    /// What one key says.
    type Item: Clone + Send + Sync + 'static;
    /// What all say together.
    type State: Clone + PartialEq + Send + Sync + 'static;

    /// What the keys begin with.
    fn root(&self) -> &str;

    /// Whether the values do not matter.
    fn keys_only(&self) -> bool;

    /// What a key says now; `before` is what it said. An error is for what nobody understands.
    fn understand(&self, entry: &KeyValue, before: Option<&Self::Item>) -> Result<Self::Item, String>;

    fn state<'a>(&self, items: impl Iterator<Item = &'a Self::Item>) -> Self::State;
}

/// The instances of one service.
#[derive(Clone)]
pub(crate) struct Instances {
    /// What all keys begin with.
    pub(crate) prefix: String,
    /// What those of the service begin with.
    pub(crate) root: String,
    pub(crate) service: ServiceName,
}

impl Scope for Instances {
    type Item = Arc<Instance>;
    type State = Snapshot;

    fn root(&self) -> &str {
        &self.root
    }

    fn keys_only(&self) -> bool {
        false
    }

    fn understand(&self, entry: &KeyValue, before: Option<&Arc<Instance>>) -> Result<Arc<Instance>, String> {
        let rest = split(&self.prefix, &entry.key).map(|(_, rest)| rest).unwrap_or_default();
        let instance = read(&self.service, &rest, &entry.value).map_err(|invalid| invalid.to_string())?;
        // One that is as before stays the same.
        Ok(before.filter(|before| ***before == instance).cloned().unwrap_or_else(|| Arc::new(instance)))
    }

    fn state<'a>(&self, items: impl Iterator<Item = &'a Arc<Instance>>) -> Snapshot {
        Snapshot::new(self.service.clone(), items.cloned())
    }
}

/// The names of all services.
#[derive(Clone)]
pub(crate) struct Names {
    pub(crate) root: String,
}

impl Scope for Names {
    type Item = ServiceName;
    type State = BTreeSet<ServiceName>;

    fn root(&self) -> &str {
        &self.root
    }

    fn keys_only(&self) -> bool {
        true
    }

    fn understand(&self, entry: &KeyValue, _: Option<&ServiceName>) -> Result<ServiceName, String> {
        split(&self.root, &entry.key).map(|(service, _)| service).ok_or("is no SERVICE/ID".into())
    }

    fn state<'a>(&self, items: impl Iterator<Item = &'a ServiceName>) -> BTreeSet<ServiceName> {
        items.cloned().collect()
    }
}

/// So many keys are noted.
const NOTED: usize = 1000;

/// The keys that were left out, so that each is told of once.
#[derive(Default)]
pub(crate) struct Notices(Mutex<HashSet<Vec<u8>>>);

impl Notices {
    fn left_out(&self, key: &[u8], why: &str) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() < NOTED && noted.insert(key.to_vec()) {
            tracing::warn!(key = %String::from_utf8_lossy(key), why, "left out");
        }
    }

    fn is_well(&self, key: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// What the keys of a scope say.
pub(crate) struct Known<S: Scope> {
    scope: S,
    /// By key.
    found: BTreeMap<Vec<u8>, S::Item>,
    /// What a cluster that began anew has not said yet.
    kept: BTreeMap<Vec<u8>, S::Item>,
    notices: Arc<Notices>,
}

impl<S: Scope> Known<S> {
    pub(crate) fn new(scope: S, notices: Arc<Notices>) -> Self {
        Self { scope, found: BTreeMap::new(), kept: BTreeMap::new(), notices }
    }

    pub(crate) fn scope(&self) -> &S {
        &self.scope
    }

    /// Takes all there is for what there is; with `keep`, what is missing stays.
    pub(crate) fn replace(&mut self, all: &[KeyValue], keep: bool) {
        let mut before = std::mem::take(&mut self.found);
        for entry in all {
            self.put(entry, before.remove(&entry.key));
        }
        if keep {
            self.kept.append(&mut before);
        }
    }

    pub(crate) fn insert(&mut self, entry: &KeyValue) {
        let before = self.found.remove(&entry.key);
        self.put(entry, before);
    }

    fn put(&mut self, entry: &KeyValue, before: Option<S::Item>) {
        let before = self.kept.remove(&entry.key).or(before);
        match self.scope.understand(entry, before.as_ref()) {
            Ok(item) => {
                self.notices.is_well(&entry.key);
                self.found.insert(entry.key.clone(), item);
            }
            Err(why) => self.notices.left_out(&entry.key, &why),
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.found.remove(key);
        self.kept.remove(key);
        self.notices.is_well(key);
    }

    /// Whether something is only kept.
    pub(crate) fn keeps(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Keeps nothing any longer.
    pub(crate) fn let_go(&mut self) {
        self.kept.clear();
    }

    pub(crate) fn state(&self) -> S::State {
        self.scope.state(self.found.values().chain(self.kept.values()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str) -> KeyValue {
        KeyValue { key: key.into(), value: vec![] }
    }

    fn names(known: &Known<Names>) -> Vec<String> {
        known.state().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_new_cluster_misses_is_kept_until_it_is_said_or_let_go() {
        let mut known = Known::new(Names { root: "sb/".into() }, Arc::default());
        known.replace(&[entry("sb/a/1"), entry("sb/b/1"), entry("sb/c/1")], false);
        known.replace(&[entry("sb/a/1")], true);
        assert_eq!(names(&known), ["a", "b", "c"]);
        known.insert(&entry("sb/b/1"));
        known.remove(b"sb/b/1");
        assert_eq!(names(&known), ["a", "c"]);
        // An ordinary reading in the meantime does not let go.
        known.replace(&[], false);
        assert_eq!((names(&known), known.keeps()), (vec!["c".to_owned()], true));
        known.let_go();
        assert_eq!((names(&known), known.keeps()), (vec![], false));
    }

    #[test]
    fn what_nobody_understands_is_left_out_and_the_rest_stays() {
        let mut known = Known::new(Names { root: "sb/".into() }, Arc::default());
        known.replace(
            &[entry("sb/a/1"), entry("sb/nothing"), KeyValue { key: b"sb/\xff/1".to_vec(), value: vec![] }],
            false,
        );
        assert_eq!(names(&known), ["a"]);
    }
}
