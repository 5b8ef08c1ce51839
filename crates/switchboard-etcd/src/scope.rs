//! What a part of the keys says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use switchboard_core::{Instance, ServiceName, Snapshot};

use crate::record::{read, split};

/// A part of the keys, and what it says.
pub(crate) trait Scope: Send + 'static {
    type State: Clone + PartialEq + Send + Sync + 'static;

    /// What the keys begin with.
    fn root(&self) -> &str;

    /// Whether the values do not matter.
    fn keys_only(&self) -> bool;

    fn put(&mut self, key: &[u8], value: &[u8]);

    fn delete(&mut self, key: &[u8]);

    fn clear(&mut self);

    fn state(&self) -> Self::State;
}

/// The instances of one service.
pub(crate) struct Instances {
    prefix: String,
    root: String,
    service: ServiceName,
    found: BTreeMap<Vec<u8>, Arc<Instance>>,
    /// What was left out, and said to be.
    unread: BTreeSet<Vec<u8>>,
}

impl Instances {
    /// Those beneath `root`, which is of `service`, with keys that begin with `prefix`.
    pub(crate) fn new(prefix: String, root: String, service: ServiceName) -> Self {
        Self { prefix, root, service, found: BTreeMap::new(), unread: BTreeSet::new() }
    }
}

impl Scope for Instances {
    type State = Snapshot;

    fn root(&self) -> &str {
        &self.root
    }

    fn keys_only(&self) -> bool {
        false
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        let rest = split(&self.prefix, key).map(|(_, rest)| rest).unwrap_or_default();
        match read(&self.service, &rest, value) {
            Ok(instance) => {
                self.unread.remove(key);
                // One that is as before stays the same.
                if self.found.get(key).is_none_or(|before| **before != instance) {
                    self.found.insert(key.to_vec(), Arc::new(instance));
                }
            }
            Err(error) => {
                self.found.remove(key);
                if self.unread.insert(key.to_vec()) {
                    tracing::warn!(service = %self.service, key = %String::from_utf8_lossy(key), %error, "left out");
                }
            }
        }
    }

    fn delete(&mut self, key: &[u8]) {
        self.found.remove(key);
        self.unread.remove(key);
    }

    fn clear(&mut self) {
        self.found.clear();
    }

    fn state(&self) -> Snapshot {
        Snapshot::new(self.service.clone(), self.found.values().cloned())
    }
}

/// The names of all services.
pub(crate) struct Names {
    root: String,
    keys: BTreeMap<Vec<u8>, ServiceName>,
}

impl Names {
    pub(crate) fn new(root: String) -> Self {
        Self { root, keys: BTreeMap::new() }
    }
}

impl Scope for Names {
    type State = BTreeSet<ServiceName>;

    fn root(&self) -> &str {
        &self.root
    }

    fn keys_only(&self) -> bool {
        true
    }

    fn put(&mut self, key: &[u8], _: &[u8]) {
        if let Some((service, _)) = split(&self.root, key) {
            self.keys.insert(key.to_vec(), service);
        }
    }

    fn delete(&mut self, key: &[u8]) {
        self.keys.remove(key);
    }

    fn clear(&mut self) {
        self.keys.clear();
    }

    fn state(&self) -> BTreeSet<ServiceName> {
        self.keys.values().cloned().collect()
    }
}
