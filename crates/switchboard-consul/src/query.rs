//! What is asked of Consul, and what the answers mean.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use switchboard_core::{Instance, InstanceId, ServiceName, Snapshot};
use tokio::time::Instant;

use crate::Consistency;
use crate::client::{Request, segment};
use crate::dump::{self, Everything};
use crate::entry;
use crate::feed::Sources;
use crate::identity::{Clashes, Listed, qualified, renamed};
use crate::settings::Settings;
use crate::{notice, reason};

/// What Consul's servers register themselves as: who may read everything sees that at least.
const OWN: &str = "consul";

/// Something that can be read once, or watched.
pub(crate) trait Query: Send + 'static {
    type Item: Clone + PartialEq + Send + 'static;
    /// What a part of it is known by.
    type Key: Clone + Eq + Hash + Send + 'static;

    /// The request, without index and wait.
    fn request(&self) -> &Request;

    /// The service that is asked about, if it is one.
    fn service(&self) -> Option<&ServiceName> {
        None
    }

    /// The service of which it takes the right to read to know that there is nobody.
    fn witness(&self) -> &str {
        self.service().map_or(OWN, |service| service.as_str())
    }

    /// Reads a good answer. Reading many in a row may be cheaper than each alone.
    fn decode(&mut self, body: &[u8]) -> serde_json::Result<Self::Item>;

    fn is_empty(item: &Self::Item) -> bool;

    /// What `newer` may only have forgotten of `older`.
    fn forgotten(older: &Self::Item, newer: &Self::Item) -> HashSet<Self::Key>;

    /// `newer`, and of what it has forgotten of `older` that which is `kept`.
    fn with(older: &Self::Item, newer: Self::Item, kept: &HashSet<Self::Key>) -> Self::Item;
}

/// How reads are made, from the settings.
#[derive(Debug)]
pub(crate) struct ReadOptions {
    consistency: Consistency,
    dc: Option<String>,
    tags: Vec<String>,
    filter: Option<String>,
    near: Option<String>,
    passing: bool,
}

impl ReadOptions {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            consistency: settings.consistency.unwrap_or_default(),
            dc: settings.dc.clone(),
            tags: settings.tags.clone().unwrap_or_default(),
            filter: settings.filter.clone(),
            near: settings.near.clone(),
            passing: settings.passing.unwrap_or(false),
        }
    }

    fn read(&self, path: String) -> Request {
        self.read_as(self.consistency, path)
    }

    fn read_as(&self, consistency: Consistency, path: String) -> Request {
        let mut request = Request::get(path);
        if let Some(mode) = consistency.parameter() {
            request = request.query(mode, "");
        }
        if let Some(dc) = &self.dc {
            request = request.query("dc", dc);
        }
        request
    }

    /// The instances of `service`
    /// (<https://developer.hashicorp.com/consul/api-docs/health#list-service-instances-for-service>).
    pub(crate) fn instances(&self, service: &ServiceName) -> Instances {
        let mut request = self.read(instances_path(service));
        if self.passing {
            request = request.query("passing", "true");
        }
        for tag in &self.tags {
            request = request.query("tag", tag);
        }
        if let Some(filter) = &self.filter {
            request = request.query("filter", filter);
        }
        if let Some(near) = &self.near {
            request = request.query("near", near);
        }
        Instances {
            service: service.clone(),
            request,
            seen: HashMap::new(),
            hasher: RandomState::new(),
            clashes: Clashes::default(),
            last: None,
        }
    }

    /// All entries of `service` as they are now, whatever else is to be read.
    pub(crate) fn whole(&self, service: &ServiceName) -> Request {
        self.read_as(Consistency::Default, instances_path(service))
    }

    /// What tells which services change, among all.
    pub(crate) fn sources(&self) -> Sources {
        let lagging = matches!(self.consistency, Consistency::Stale | Consistency::Cached);
        // Not from the agent's cache: it must tell of what has changed, and the state of all checks is in none.
        let consistency = if lagging { Consistency::Stale } else { self.consistency };
        let source = |path: &str| self.read_as(consistency, path.into());
        Sources { checks: source("/v1/health/state/any"), catalog: source("/v1/catalog/services"), lagging }
    }

    /// All instances of all services, if nothing is to be read but all.
    pub(crate) fn everything(&self) -> Option<Everything<'_>> {
        let all = self.tags.is_empty() && self.filter.is_none() && !self.passing;
        all.then(|| Everything::new(self.read(dump::PATH.into()), self))
    }

    /// The names of all services (<https://developer.hashicorp.com/consul/api-docs/catalog#list-services>).
    pub(crate) fn names(&self) -> Names {
        Names { request: self.read("/v1/catalog/services".into()), tags: self.tags.clone() }
    }
}

fn instances_path(service: &ServiceName) -> String {
    format!("/v1/health/service/{}", segment(service.as_str()))
}

pub(crate) struct Instances {
    service: ServiceName,
    request: Request,
    /// The entries of the last answer by the hash of their JSON, so that only what changed is read again.
    seen: HashMap<u64, Seen>,
    /// Keyed at random: nobody can choose entries that collide.
    hasher: RandomState,
    clashes: Clashes,
    /// What a watch read last, for since when an instance is as it is; `None` for a single look.
    last: Option<Snapshot>,
}

impl Instances {
    /// For more than a single look: notes since when instances are as they are.
    pub(crate) fn dating(mut self) -> Self {
        self.last = Some(Snapshot::empty(self.service.clone()));
        self
    }
}

/// `None` if it cannot be represented.
type Seen = Option<Listed>;

impl Query for Instances {
    type Item = Snapshot;
    type Key = InstanceId;

    fn request(&self) -> &Request {
        &self.request
    }

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service)
    }

    fn decode(&mut self, body: &[u8]) -> serde_json::Result<Snapshot> {
        let entries: Vec<&RawValue> = serde_json::from_slice(body)?;
        let mut seen = HashMap::with_capacity(entries.len());
        let mut order = Vec::with_capacity(entries.len());
        for entry in entries {
            let hash = self.hasher.hash_one(entry.get());
            let known = match self.seen.remove(&hash) {
                Some(known) => known,
                None if seen.contains_key(&hash) => continue,
                None => self.read(entry.get())?,
            };
            seen.insert(hash, known);
            order.push(hash);
        }
        self.seen = seen;
        let listed = order.iter().filter_map(|hash| self.seen.get(hash)?.as_ref()).collect();
        let snapshot = Snapshot::new(self.service.clone(), self.clashes.tell_apart(listed, Instant::now()));
        if self.last.is_some() {
            self.last = Some(snapshot.clone());
        }
        Ok(snapshot)
    }

    fn is_empty(item: &Snapshot) -> bool {
        item.is_empty()
    }

    fn forgotten(older: &Snapshot, newer: &Snapshot) -> HashSet<InstanceId> {
        let is_forgotten = |old: &&Arc<Instance>| match now_of(old, newer) {
            None => true,
            // Who could not renew may be well.
            Some(now) => old.health().is_healthy() && reason::has_only_lapsed(now),
        };
        older.all().iter().filter(is_forgotten).map(|old| old.id().clone()).collect()
    }

    fn with(older: &Snapshot, newer: Snapshot, kept: &HashSet<InstanceId>) -> Snapshot {
        if kept.is_empty() {
            return newer;
        }
        let kept =
            older.all().iter().filter(|old| kept.contains(old.id())).map(|old| {
                now_of(old, &newer).map_or_else(|| old.clone(), |now| renamed(old, now.id().clone()))
            });
        // The last of equal ids is the one that a snapshot keeps.
        Snapshot::new(newer.service().clone(), newer.all().iter().cloned().chain(kept))
    }
}

/// The instance `old` as it is now; its id may have its address added since.
fn now_of<'a>(old: &Instance, newer: &'a Snapshot) -> Option<&'a Arc<Instance>> {
    newer.get(old.id()).or_else(|| newer.get(&qualified(old)))
}

impl Instances {
    fn read(&self, json: &str) -> serde_json::Result<Seen> {
        let read = entry::decode(json)?;
        let listed = match read.instance {
            Ok(instance) if *instance.service() != self.service => {
                notice::other_case(self.service.as_str(), instance.service().as_str());
                None
            }
            Ok(instance) => {
                let dated = match &self.last {
                    Some(last) => {
                        let before = known(last, &instance);
                        reason::dated(instance, before, Instant::now())
                    }
                    None => instance,
                };
                Some(Listed::new(Arc::new(dated), read.modified))
            }
            Err(invalid) => {
                notice::left_out(self.service.as_str(), "", &invalid);
                None
            }
        };
        Ok(listed)
    }
}

/// The instance as it was last read, by either id.
fn known<'a>(last: &'a Snapshot, instance: &Instance) -> Option<&'a Instance> {
    let same = |known: &&Arc<Instance>| known.address() == instance.address();
    let plain = last.get(instance.id()).filter(same);
    plain.or_else(|| last.get(&qualified(instance))).map(|known| &**known)
}

pub(crate) struct Names {
    request: Request,
    tags: Vec<String>,
}

impl Query for Names {
    type Item = BTreeSet<ServiceName>;
    type Key = ServiceName;

    fn request(&self) -> &Request {
        &self.request
    }

    fn decode(&mut self, body: &[u8]) -> serde_json::Result<BTreeSet<ServiceName>> {
        use serde::de::Deserializer;
        let mut json = serde_json::Deserializer::from_slice(body);
        let names = json.deserialize_map(NamesVisitor(&self.tags))?;
        json.end()?;
        Ok(names)
    }

    fn is_empty(item: &BTreeSet<ServiceName>) -> bool {
        item.is_empty()
    }

    fn forgotten(older: &BTreeSet<ServiceName>, newer: &BTreeSet<ServiceName>) -> HashSet<ServiceName> {
        older.difference(newer).cloned().collect()
    }

    fn with(
        _: &BTreeSet<ServiceName>,
        mut newer: BTreeSet<ServiceName>,
        kept: &HashSet<ServiceName>,
    ) -> BTreeSet<ServiceName> {
        newer.extend(kept.iter().cloned());
        newer
    }
}

/// Reads `{"name": ["tag", …], …}`; the tags only if they are asked for.
struct NamesVisitor<'a>(&'a [String]);

impl<'de> Visitor<'de> for NamesVisitor<'_> {
    type Value = BTreeSet<ServiceName>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map of service names to tags")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let matches = if self.0.is_empty() {
                map.next_value::<IgnoredAny>()?;
                true
            } else {
                let tags: Option<Vec<String>> = map.next_value()?;
                let tags = tags.unwrap_or_default();
                self.0.iter().all(|tag| tags.contains(tag))
            };
            match ServiceName::new(name) {
                Ok(name) if matches => {
                    names.insert(name);
                }
                Ok(_) => {}
                Err(invalid) => tracing::debug!(%invalid, "leaving out a service"),
            }
        }
        Ok(names)
    }
}
