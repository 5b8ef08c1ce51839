//! What the handles of a memory registry share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::{Health, Instance, InstanceId, InstanceKey, ServiceName, Snapshot, Store};

#[derive(Default)]
pub(super) struct World {
    state: Mutex<State>,
}

impl World {
    /// The state under its lock; each change is published before the lock is given back.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what has lapsed by now.
    pub(super) fn expire(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let due = state.expiries.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key.clone());
        let due: Vec<_> = due.collect();
        state.remove(due);
    }

    /// When the next instance lapses: of `service`, or of all.
    pub(super) fn deadline(&self, service: Option<&ServiceName>) -> Option<Instant> {
        let state = self.state();
        match service {
            Some(service) => state.services.get(service)?.values().filter_map(|entry| entry.expires).min(),
            None => state.expiries.first().map(|(at, _)| *at),
        }
    }
}

#[derive(Default)]
pub(super) struct State {
    services: HashMap<ServiceName, BTreeMap<InstanceId, Entry>>,
    expiries: BTreeSet<(Instant, InstanceKey)>,
    /// The readers of each open handle.
    stores: BTreeMap<u64, Store>,
}

pub(super) struct Entry {
    pub(super) instance: Arc<Instance>,
    expires: Option<Instant>,
    owner: u64,
}

impl State {
    pub(super) fn upsert(&mut self, instance: &Instance, expires: Option<Instant>, owner: u64) {
        let key = instance.key();
        let entries = self.services.entry(key.service().clone()).or_default();
        let replaced = entries.remove(key.id());
        let instance = match &replaced {
            Some(entry) => instance.clone().with_health_of(&entry.instance),
            None => instance.clone().with_health(Health::Passing),
        };
        let instance = Arc::new(instance);
        let renewed = replaced.as_ref().is_some_and(|entry| entry.instance == instance);
        entries.insert(key.id().clone(), Entry { instance, expires, owner });
        let expired = replaced.and_then(|entry| entry.expires);
        if let Some(at) = expired {
            self.expiries.remove(&(at, key.clone()));
        }
        self.expiries.extend(expires.map(|at| (at, key.clone())));
        if !renewed {
            self.publish([key.service()]);
        }
        if let Some(at) = expires.filter(|at| expired.is_none_or(|before| *at < before)) {
            self.nudge(key.service(), at);
        }
    }

    /// Has those who wait for a lapse of `service` look again, since one is due `at` a time they may not know of.
    fn nudge(&self, service: &ServiceName, at: Instant) {
        let first = self.expiries.first().is_some_and(|(first, _)| *first == at);
        for store in self.stores.values() {
            store.nudge(service);
            if first {
                store.nudge_names();
            }
        }
    }

    /// Changes an entry; whether there is one.
    pub(super) fn update(&mut self, key: &InstanceKey, change: impl FnOnce(&mut Entry)) -> bool {
        let entry = self.services.get_mut(key.service()).and_then(|entries| entries.get_mut(key.id()));
        let Some(entry) = entry else { return false };
        change(entry);
        self.publish([key.service()]);
        true
    }

    pub(super) fn remove(&mut self, keys: impl IntoIterator<Item = InstanceKey>) {
        let mut touched = BTreeSet::new();
        for key in keys {
            let Some(entries) = self.services.get_mut(key.service()) else { continue };
            let Some(entry) = entries.remove(key.id()) else { continue };
            if entries.is_empty() {
                self.services.remove(key.service());
            }
            touched.insert(key.service().clone());
            if let Some(at) = entry.expires {
                self.expiries.remove(&(at, key));
            }
        }
        if !touched.is_empty() {
            self.publish(&touched);
        }
    }

    pub(super) fn attach(&mut self, owner: u64, store: &Store) {
        store.publish(self.services.keys().map(|service| self.snapshot(service)));
        self.stores.insert(owner, store.clone());
    }

    pub(super) fn detach(&mut self, owner: u64) {
        self.stores.remove(&owner);
        let owned = self.services.iter().flat_map(|(service, entries)| {
            let owned = entries.iter().filter(|(_, entry)| entry.owner == owner);
            owned.map(|(id, _)| InstanceKey::new(service.clone(), id.clone()))
        });
        let owned: Vec<_> = owned.collect();
        self.remove(owned);
    }

    fn publish<'s>(&self, services: impl IntoIterator<Item = &'s ServiceName>) {
        let snapshots: Vec<_> = services.into_iter().map(|service| self.snapshot(service)).collect();
        for store in self.stores.values() {
            store.publish(snapshots.iter().cloned());
        }
    }

    fn snapshot(&self, service: &ServiceName) -> Snapshot {
        let entries = self.services.get(service).into_iter().flatten();
        Snapshot::new(service.clone(), entries.map(|(_, entry)| entry.instance.clone()))
    }
}
