//! Which entries of Consul's are one instance, and what its id is.
//!
//! Ids are unique on an agent only: `service { name = "web" }` has the id `web` on every node. And one instance may be an
//! entry of several nodes, when its registration moved. What tells the two cases apart is where it listens: entries of
//! one id and one address are one instance, whatever else they say, since they lead to one server. Entries of one id and
//! several addresses are several, and each of them has its address added to its id: that depends on nothing but the
//! entry, neither on who was first nor on health, and stays when a registration moves.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use switchboard_core::{Instance, InstanceId};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// How long a watch keeps the address in the ids of which there were several, since the others may come back: another id
/// is another instance to whoever keeps count of calls. Not for ever, as those who begin to watch later see the plain id.
const REMEMBERED: Duration = Duration::from_secs(600);
/// The longest id, in bytes.
const MAX_BYTES: usize = 255;

/// An entry that is an instance.
#[derive(Clone)]
pub(crate) struct Listed {
    /// With the id it was registered under.
    pub(crate) instance: Arc<Instance>,
    pub(crate) modified: u64,
    /// With its address in the id, once that was needed.
    qualified: OnceLock<Arc<Instance>>,
}

impl Listed {
    pub(crate) fn new(instance: Arc<Instance>, modified: u64) -> Self {
        Self { instance, modified, qualified: OnceLock::new() }
    }

    fn qualified(&self) -> &Arc<Instance> {
        self.qualified.get_or_init(|| renamed(&self.instance, qualified(&self.instance)))
    }
}

/// The same instance with this id.
pub(crate) fn renamed(instance: &Arc<Instance>, id: InstanceId) -> Arc<Instance> {
    if *instance.id() == id {
        return instance.clone();
    }
    // What was valid still is.
    instance.to_builder().id(id).build().map_or_else(|_| instance.clone(), Arc::new)
}

/// `id@address`, for an id of which there are several.
pub(crate) fn qualified(instance: &Instance) -> InstanceId {
    let mut text = format!("{}@{}", instance.id(), instance.address());
    if text.len() > MAX_BYTES {
        let mark = format!("~{:016x}", xxh3_64(text.as_bytes()));
        let room = MAX_BYTES - mark.len();
        let cut = (0..=room).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(cut);
        text.push_str(&mark);
    }
    // Parts of what is valid, and neither begins nor ends with white space.
    InstanceId::new(text).unwrap_or_else(|_| instance.id().clone())
}

/// The ids of which there are several, and when that was last so.
#[derive(Default)]
pub(crate) struct Clashes(BTreeMap<InstanceId, Instant>);

impl Clashes {
    /// The instances of these entries. Of several that are one the healthier comes last, then the newer.
    pub(crate) fn tell_apart(&mut self, mut listed: Vec<&Listed>, now: Instant) -> Vec<Arc<Instance>> {
        let rank = |one: &Listed| (one.instance.health().is_healthy(), one.modified);
        listed.sort_by(|a, b| a.instance.id().cmp(b.instance.id()).then_with(|| rank(a).cmp(&rank(b))));
        self.0.retain(|_, seen| now.saturating_duration_since(*seen) < REMEMBERED);
        for same in listed.chunk_by(|a, b| a.instance.id() == b.instance.id()) {
            let first = &same[0].instance;
            if same.iter().any(|one| one.instance.address() != first.address()) {
                self.0.insert(first.id().clone(), now);
            }
        }
        self.make_room(&listed, now);
        let named = |one: &Listed| {
            let clashes = self.0.contains_key(one.instance.id());
            if clashes { one.qualified().clone() } else { one.instance.clone() }
        };
        listed.into_iter().map(named).collect()
    }

    /// Where somebody really has the id that another is given, that one has its address added too.
    fn make_room(&mut self, sorted: &[&Listed], now: Instant) {
        let mut todo: Vec<InstanceId> = self.0.keys().cloned().collect();
        while let Some(id) = todo.pop() {
            for one in of_id(sorted, &id) {
                let given = one.qualified().id();
                if !of_id(sorted, given).is_empty() && self.0.insert(given.clone(), now).is_none() {
                    todo.push(given.clone());
                }
            }
        }
    }
}

fn of_id<'a, 'b>(sorted: &'a [&'b Listed], id: &InstanceId) -> &'a [&'b Listed] {
    let begin = sorted.partition_point(|one| one.instance.id() < id);
    let end = sorted.partition_point(|one| one.instance.id() <= id);
    &sorted[begin..end]
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
