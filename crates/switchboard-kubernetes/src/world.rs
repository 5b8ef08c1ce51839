//! The slices that are there, and what is told of them: more at once, fewer when they have come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use switchboard_core::{Instance, InstanceId, ServiceName, Snapshot, Store};
use tokio::time::Instant;

use crate::config::KubernetesBuilder;
use crate::record::{self, Part, Pods};

/// How many times the quiet a burst may last before fewer are told all the same.
const LONGEST_BURST: u32 = 10;

/// Which slices these are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// Of one service, under the name it was asked for by.
    Service(ServiceName),
    /// Of all services of a namespace; its name is in theirs, unless it is the registry's own.
    Namespace(Option<String>),
}

impl Scope {
    /// The service that a slice belongs to.
    fn name(&self, slice: &EndpointSlice, settings: &KubernetesBuilder) -> Option<ServiceName> {
        let label = slice.metadata.labels.as_ref()?.get(record::SERVICE)?;
        match self {
            Self::Service(name) => (settings.place(name).ok()?.service == *label).then(|| name.clone()),
            Self::Namespace(namespace) => {
                let name = match namespace {
                    None => ServiceName::new(label),
                    Some(namespace) => ServiceName::new(format!("{label}.{namespace}")),
                };
                // What nobody can ask for by this name is not told by it.
                let is_found = |name: &ServiceName| {
                    settings
                        .place(name)
                        .is_ok_and(|place| place.namespace == *namespace && place.service == *label)
                };
                name.ok().filter(is_found)
            }
        }
    }
}

/// What the watches of the API server have told.
pub(crate) struct World {
    scope: Scope,
    settings: KubernetesBuilder,
    services: BTreeMap<ServiceName, Service>,
    /// Of which service each slice is.
    slices: BTreeMap<String, ServiceName>,
    /// A list that is not whole yet.
    listing: Option<Vec<(String, ServiceName, Vec<Part>)>>,
    pods: Pods,
    listing_pods: Option<Pods>,
}

/// What is known of a service, and what was told of it.
#[derive(Default)]
struct Service {
    slices: BTreeMap<String, Vec<Part>>,
    told: Vec<Arc<Instance>>,
    own: BTreeSet<InstanceId>,
    /// Its slices have changed since it was told.
    is_news: bool,
    changed: Option<Instant>,
    /// Since when fewer are there than were told.
    fewer_since: Option<Instant>,
    next_lapse: Option<Timestamp>,
}

impl World {
    pub(crate) fn new(scope: Scope, settings: KubernetesBuilder) -> Self {
        Self {
            scope,
            settings,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            listing: None,
            pods: Pods::new(),
            listing_pods: None,
        }
    }

    fn read(&self, slice: &EndpointSlice) -> Option<(String, ServiceName, Vec<Part>)> {
        let service = self.scope.name(slice, &self.settings)?;
        let parts = record::parts(&service, slice, &self.settings);
        let parts = parts.into_iter().filter_map(|part| match part {
            Ok(part) => Some(part),
            Err(unread) => {
                tracing::debug!(%service, endpoint = unread.endpoint, why = unread.why, "an endpoint is left out");
                None
            }
        });
        Some((slice.metadata.name.clone()?, service.clone(), parts.collect()))
    }

    /// A list begins. What is known stands until it is whole.
    pub(crate) fn list(&mut self) {
        self.listing = Some(Vec::new());
    }

    pub(crate) fn listed(&mut self, slice: &EndpointSlice) {
        let read = self.read(slice);
        self.listing.get_or_insert_default().extend(read);
    }

    /// The list is whole: what is not in it has gone.
    pub(crate) fn list_done(&mut self, now: Instant) {
        let listing = self.listing.take().unwrap_or_default();
        for service in self.services.values_mut() {
            service.slices.clear();
            service.change(now);
        }
        self.slices.clear();
        for (slice, service, parts) in listing {
            self.put(slice, service, parts, now);
        }
    }

    pub(crate) fn apply(&mut self, slice: &EndpointSlice, now: Instant) {
        let read = self.read(slice);
        let name = slice.metadata.name.clone().unwrap_or_default();
        // It may have been another service's.
        if read
            .as_ref()
            .is_none_or(|(_, service, _)| self.slices.get(&name).is_some_and(|old| old != service))
        {
            self.remove(&name, now);
        }
        if let Some((name, service, parts)) = read {
            self.put(name, service, parts, now);
        }
    }

    pub(crate) fn remove(&mut self, slice: &str, now: Instant) {
        if let Some(service) = self.slices.remove(slice).and_then(|service| self.services.get_mut(&service)) {
            service.slices.remove(slice);
            service.change(now);
        }
    }

    fn put(&mut self, slice: String, service: ServiceName, parts: Vec<Part>, now: Instant) {
        self.slices.insert(slice.clone(), service.clone());
        let service = self.services.entry(service).or_default();
        service.slices.insert(slice, parts);
        service.change(now);
    }

    pub(crate) fn list_pods(&mut self) {
        self.listing_pods = Some(Pods::new());
    }

    pub(crate) fn pod_listed(&mut self, name: String, labels: BTreeMap<String, String>) {
        self.listing_pods.get_or_insert_default().insert(name, labels);
    }

    pub(crate) fn list_pods_done(&mut self, now: Instant) {
        self.pods = self.listing_pods.take().unwrap_or_default();
        self.pods_changed(now);
    }

    /// What the labels of a pod are now; none if it has gone.
    pub(crate) fn pod(&mut self, name: String, labels: Option<BTreeMap<String, String>>, now: Instant) {
        let has_changed = match labels {
            Some(labels) => self.pods.insert(name, labels.clone()).as_ref() != Some(&labels),
            None => self.pods.remove(&name).is_some(),
        };
        if has_changed {
            self.pods_changed(now);
        }
    }

    fn pods_changed(&mut self, now: Instant) {
        for service in self.services.values_mut() {
            service.is_news = true;
            service.changed.get_or_insert(now);
        }
    }

    /// Publishes what may be told now; says when to come again, if nothing is heard before.
    pub(crate) fn publish(&mut self, store: &Store, now: Instant, clock: Timestamp) -> Option<Instant> {
        let Self { services, pods, settings, .. } = self;
        let mut next: Option<Instant> = None;
        let mut snapshots = Vec::new();
        services.retain(|name, service| {
            let is_due =
                service.fewer_since.is_some() || service.next_lapse.is_some_and(|lapse| lapse <= clock);
            if service.is_news || is_due {
                snapshots.push(service.tell(name, pods, settings, now, clock));
            }
            next = [next, service.next(settings.settle, now, clock)].into_iter().flatten().min();
            !(service.slices.is_empty() && service.told.is_empty())
        });
        store.publish(snapshots);
        next
    }
}

impl Service {
    fn change(&mut self, now: Instant) {
        self.is_news = true;
        self.changed = Some(now);
    }

    fn tell(
        &mut self,
        name: &ServiceName,
        pods: &Pods,
        settings: &KubernetesBuilder,
        now: Instant,
        clock: Timestamp,
    ) -> Snapshot {
        self.is_news = false;
        let gathered = record::gather(name, self.slices.values().flatten(), pods, settings, clock);
        self.next_lapse = gathered.next_lapse;
        let mut found: Vec<Arc<Instance>> = gathered.instances.into_iter().map(Arc::new).collect();
        found.sort_by(|one, other| one.id().cmp(other.id()));
        // What we keep ourselves goes when it goes; only the control plane moves endpoints about.
        let missing: Vec<Arc<Instance>> = self
            .told
            .iter()
            .filter(|told| found.binary_search_by(|found| found.id().cmp(told.id())).is_err())
            .filter(|told| !self.own.contains(told.id()))
            .cloned()
            .collect();
        self.own = gathered.own;
        if missing.is_empty() {
            self.fewer_since = None;
        } else {
            let since = *self.fewer_since.get_or_insert(now);
            if now < self.rest(since, settings.settle) {
                found.extend(missing);
            } else {
                self.fewer_since = None;
            }
        }
        let snapshot = Snapshot::new(name.clone(), found);
        self.told = snapshot.all().to_vec();
        snapshot
    }

    /// When fewer are told: the slices have come to rest, or never do.
    fn rest(&self, fewer_since: Instant, settle: Duration) -> Instant {
        let quiet = self.changed.unwrap_or(fewer_since) + settle;
        quiet.min(fewer_since + settle.saturating_mul(LONGEST_BURST))
    }

    fn next(&self, settle: Duration, now: Instant, clock: Timestamp) -> Option<Instant> {
        let rest = self.fewer_since.map(|since| self.rest(since, settle));
        let lapse = self.next_lapse.map(|lapse| {
            let wait = lapse.duration_since(clock).unsigned_abs();
            // A clock that is wound back meanwhile is looked at again.
            now + wait.min(Duration::from_secs(60)) + Duration::from_millis(1)
        });
        [rest, lapse].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SETTLE: Duration = Duration::from_millis(250);

    fn slice(name: &str, service: &str, pods: &[u32]) -> EndpointSlice {
        let endpoints: Vec<_> = pods
            .iter()
            .map(|pod| {
                let target = json!({ "kind": "Pod", "name": format!("p{pod}"), "uid": format!("u{pod}") });
                json!({ "addresses": [format!("10.0.0.{pod}")], "targetRef": target })
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{ "name": "", "port": 80 }],
        }))
        .unwrap()
    }

    /// A namespace that is watched.
    struct Test {
        world: World,
        store: Store,
        now: Instant,
    }

    impl Test {
        fn new() -> Self {
            let scope = Scope::Namespace(None);
            let world = World::new(scope, KubernetesBuilder::default());
            Self { world, store: Store::new("test"), now: Instant::now() }
        }

        fn list(&mut self, slices: &[EndpointSlice]) {
            self.world.list();
            for slice in slices {
                self.world.listed(slice);
            }
            self.world.list_done(self.now);
        }

        /// What is told so much later: which pods there are, and when to come again.
        fn after(&mut self, time: Duration) -> (Vec<String>, Option<Duration>) {
            self.now += time;
            let next = self.world.publish(&self.store, self.now, Timestamp::now());
            let told = self.store.snapshot(&ServiceName::new("orders").unwrap());
            let told = told.all().iter().map(|instance| instance.id().to_string()).collect();
            (told, next.map(|next| next - self.now))
        }
    }

    #[test]
    fn more_is_told_at_once_and_fewer_when_the_slices_have_come_to_rest() {
        let mut test = Test::new();
        test.list(&[slice("a", "orders", &[1, 2]), slice("b", "orders", &[3])]);
        assert_eq!(test.after(Duration::ZERO).0, ["u1", "u2", "u3"]);
        // u2 moves from a to b, and is in neither for a moment; u4 is new, u3 goes.
        test.world.apply(&slice("a", "orders", &[1, 4]), test.now);
        assert_eq!(
            test.after(Duration::ZERO),
            (vec!["u1".into(), "u2".into(), "u3".into(), "u4".into()], Some(SETTLE))
        );
        test.now += SETTLE / 2;
        test.world.apply(&slice("b", "orders", &[2]), test.now);
        assert_eq!(test.after(SETTLE / 2).0.len(), 4, "it has been quiet for half the time");
        assert_eq!(test.after(SETTLE / 2), (vec!["u1".into(), "u2".into(), "u4".into()], None));
    }

    #[test]
    fn a_burst_without_an_end_does_not_keep_what_has_gone() {
        let mut test = Test::new();
        test.list(&[slice("a", "orders", &[1]), slice("b", "orders", &[2])]);
        test.after(Duration::ZERO);
        test.world.remove("a", test.now);
        let mut told = test.after(Duration::ZERO).0;
        let begun = test.now;
        while told.len() == 2 {
            test.world.apply(&slice("b", "orders", &[2]), test.now);
            told = test.after(Duration::from_millis(100)).0;
            assert!(test.now - begun <= SETTLE * LONGEST_BURST + Duration::from_millis(100));
        }
        assert_eq!(told, ["u2"]);
    }

    #[test]
    fn a_list_is_told_when_it_is_whole_and_what_is_not_in_it_has_gone() {
        let mut test = Test::new();
        test.list(&[slice("a", "orders", &[1]), slice("b", "orders", &[2])]);
        test.after(Duration::ZERO);
        test.world.list();
        test.world.listed(&slice("b", "orders", &[3]));
        assert_eq!(test.after(SETTLE * 20).0, ["u1", "u2"], "the list is not whole");
        test.world.list_done(test.now);
        assert_eq!(test.after(Duration::ZERO).0, ["u1", "u2", "u3"]);
        assert_eq!(test.after(SETTLE).0, ["u3"]);
        assert_eq!(test.world.services.len(), 1);
        test.list(&[]);
        test.after(Duration::ZERO);
        assert_eq!(test.after(SETTLE), (vec![], None));
        assert!(test.world.services.is_empty() && test.world.slices.is_empty(), "nothing is kept for ever");
    }

    /// Nobody moves it about: it is not waited for as a pod is.
    #[test]
    fn what_lapses_is_gone_at_once() {
        let mut test = Test::new();
        let orders = Instance::builder("orders").id("own").address("10.9.0.1:80").build().unwrap();
        let end = Timestamp::now();
        let mut own = record::slice(&orders, "orders", Some(end)).unwrap();
        own.metadata.name = Some("own".into());
        test.list(&[own, slice("a", "orders", &[1])]);
        let mut told = |clock| {
            test.world.publish(&test.store, test.now, clock);
            test.store.snapshot(&ServiceName::new("orders").unwrap()).len()
        };
        assert_eq!(told(end - Duration::from_millis(1)), 2);
        assert_eq!(told(end), 1);
    }

    #[test]
    fn a_slice_that_becomes_another_services_is_no_longer_the_first_ones() {
        let mut test = Test::new();
        test.list(&[slice("a", "orders", &[1])]);
        test.after(Duration::ZERO);
        test.world.apply(&slice("a", "stock", &[1]), test.now);
        test.after(Duration::ZERO);
        assert_eq!(test.after(SETTLE).0, Vec::<String>::new());
        assert_eq!(test.store.services(), [ServiceName::new("stock").unwrap()].into());
        let mut unlabelled = slice("a", "stock", &[1]);
        unlabelled.metadata.labels = None;
        test.world.apply(&unlabelled, test.now);
        test.after(Duration::ZERO);
        test.after(SETTLE);
        assert!(test.store.services().is_empty());
    }
}
