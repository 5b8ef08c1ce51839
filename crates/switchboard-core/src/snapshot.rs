use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::difference::differences;
use crate::{Instance, InstanceId, ServiceName};

/// All the instances of one service at one moment, sorted by id, each id once.
///
/// Cheap to clone. Two snapshots are equal when everything in them is equal, whether they are [complete](Self::is_complete)
/// or not.
///
/// ```
/// use switchboard_core::{Instance, ServiceName, Snapshot};
///
/// let service = ServiceName::new("greeter")?;
/// let one = Instance::builder(&service).id("1").address("10.0.0.1:80").build()?;
/// let older = Snapshot::empty(service.clone());
/// let newer = Snapshot::new(service, [one]);
///
/// let changes = newer.diff(&older);
/// assert_eq!(changes.len(), 1);
/// assert_eq!(older.apply(&changes), newer);
/// # Ok::<(), switchboard_core::Invalid>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Unordered", into = "Unordered")]
pub struct Snapshot {
    service: ServiceName,
    instances: Arc<[Arc<Instance>]>,
    complete: bool,
}

/// The serialized form, which need not be in order.
#[derive(Serialize, Deserialize)]
struct Unordered {
    service: ServiceName,
    instances: Vec<Arc<Instance>>,
    #[serde(default = "complete", skip_serializing_if = "Clone::clone")]
    complete: bool,
}

fn complete() -> bool {
    true
}

impl Snapshot {
    /// A snapshot of `service` with these instances in any order. Of two with the same id the later one counts;
    /// instances of other services are left out.
    pub fn new<I>(service: ServiceName, instances: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Arc<Instance>>,
    {
        let mut list: Vec<Arc<Instance>> =
            instances.into_iter().map(Into::into).filter(|instance| *instance.service() == service).collect();
        // The sort is stable, so the last of equal ids is the one given last.
        list.sort_by(|a, b| a.id().cmp(b.id()));
        list.dedup_by(|later, kept| {
            let same = later.id() == kept.id();
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        Self { service, instances: list.into(), complete: true }
    }

    /// A snapshot of `service` without instances: what an unknown service looks like.
    pub fn empty(service: ServiceName) -> Self {
        Self { service, instances: Arc::new([]), complete: true }
    }

    /// The same, of which the registry cannot say that it is all there is.
    #[must_use]
    pub fn incomplete(self) -> Self {
        Self { complete: false, ..self }
    }

    /// The same under another service's name.
    pub(crate) fn with_service(&self, service: &ServiceName) -> Self {
        let renamed = |instance: &Arc<Instance>| Arc::new((**instance).clone().with_service(service.clone()));
        let instances = self.instances.iter().map(renamed).collect();
        Self { service: service.clone(), instances, complete: self.complete }
    }

    /// Whether this is all there is, as far as the registry can know. True for every registry that can simply be asked;
    /// one that listens, such as mDNS, says no where answers were still arriving when it had waited long enough, or
    /// where something is announced that nobody has described.
    ///
    /// It belongs to this look at the registry, not to the state: it is no part of equality, and a watch does not tell
    /// a state again because it has turned out to be the whole.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Every instance, whatever its health, sorted by id.
    pub fn all(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    /// The instances that are passing or warning, sorted by id.
    pub fn healthy(&self) -> impl DoubleEndedIterator<Item = &Arc<Instance>> + Clone {
        self.instances.iter().filter(|instance| instance.health().is_healthy())
    }

    /// The instance with this id.
    pub fn get(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        let found = self.instances.binary_search_by(|instance| instance.id().cmp(id));
        found.ok().map(|index| &self.instances[index])
    }

    /// How many instances there are, whatever their health.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// What changed from `older` to this, sorted by id. Empty exactly when the two are equal, given that both are
    /// of the same service.
    pub fn diff(&self, older: &Snapshot) -> Vec<Change> {
        let mut changes = Vec::new();
        if Arc::ptr_eq(&self.instances, &older.instances) {
            return changes;
        }
        let (mut old, mut new) = (older.instances.iter().peekable(), self.instances.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.id().cmp(new.id()),
            };
            match order {
                Ordering::Less => changes.extend(old.next().cloned().map(Change::Removed)),
                Ordering::Greater => changes.extend(new.next().cloned().map(Change::Added)),
                Ordering::Equal => {
                    if let (Some(old), Some(new)) = (old.next(), new.next()) {
                        if !same(old, new) {
                            changes.push(Change::Updated { old: old.clone(), new: new.clone() });
                        }
                    }
                }
            }
        }
    }

    /// This snapshot with `changes` made to it: `older.apply(&newer.diff(&older))` is `newer`.
    ///
    /// Changes that do not fit (removing what is not there, adding what is) leave the state they ask for.
    pub fn apply(&self, changes: &[Change]) -> Snapshot {
        if changes.is_empty() {
            return self.clone();
        }
        let mut changed: Vec<&Change> = changes.iter().collect();
        changed.sort_by(|a, b| a.id().cmp(b.id()));
        let untouched = self
            .instances
            .iter()
            .filter(|instance| changed.binary_search_by(|change| change.id().cmp(instance.id())).is_err());
        Self::new(self.service.clone(), untouched.chain(changes.iter().filter_map(Change::current)).cloned())
    }
}

/// Equal by content; equal pointers save the comparison.
fn same(a: &Arc<Instance>, b: &Arc<Instance>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.service == other.service
            && (Arc::ptr_eq(&self.instances, &other.instances)
                || (self.len() == other.len()
                    && self.instances.iter().zip(other.instances.iter()).all(|(a, b)| same(a, b))))
    }
}

impl Eq for Snapshot {}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("service", &self.service)
            .field("instances", &self.instances)
            .field("complete", &self.complete)
            .finish()
    }
}

impl From<Unordered> for Snapshot {
    fn from(raw: Unordered) -> Self {
        Self { complete: raw.complete, ..Self::new(raw.service, raw.instances) }
    }
}

impl From<Snapshot> for Unordered {
    fn from(snapshot: Snapshot) -> Self {
        let Snapshot { service, instances, complete } = snapshot;
        Self { service, instances: instances.to_vec(), complete }
    }
}

/// One difference between two snapshots of a service.
///
/// Displayed as `added greeter/1 at 10.0.0.7:80, passing`, `updated greeter/1: passing -> critical`, `removed greeter/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The instance is new.
    Added(Arc<Instance>),
    /// The instance was there, and something about it is different.
    Updated {
        /// As it was.
        old: Arc<Instance>,
        /// As it is.
        new: Arc<Instance>,
    },
    /// The instance is gone; this is how it was last.
    Removed(Arc<Instance>),
}

impl Change {
    /// The instance as it is now; `None` when it is gone.
    pub fn current(&self) -> Option<&Arc<Instance>> {
        match self {
            Self::Added(instance) | Self::Updated { new: instance, .. } => Some(instance),
            Self::Removed(_) => None,
        }
    }

    /// The instance, as it is now or was last.
    pub fn instance(&self) -> &Arc<Instance> {
        match self {
            Self::Added(instance) | Self::Updated { new: instance, .. } | Self::Removed(instance) => instance,
        }
    }

    /// The id of the instance that changed.
    pub fn id(&self) -> &InstanceId {
        self.instance().id()
    }

    /// What is different about an instance that was updated, each in a few words such as `passing -> critical` or `zone=a ->
    /// zone=b`; empty for other changes, and where the difference is in what people need not know. Names and values are as
    /// others wrote them.
    pub fn differences(&self) -> Vec<String> {
        match self {
            Self::Updated { old, new } => differences(old, new),
            Self::Added(_) | Self::Removed(_) => Vec::new(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added(instance) => write!(f, "added {instance}"),
            Self::Updated { new, .. } => {
                let differences = self.differences();
                // The rest, such as the details of its health, is for programs.
                let told =
                    if differences.is_empty() { "other details".into() } else { differences.join(", ") };
                write!(f, "updated {}: {told}", new.key())
            }
            Self::Removed(instance) => write!(f, "removed {}", instance.key()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn service() -> ServiceName {
        ServiceName::new("s").unwrap()
    }

    fn instance(id: u8, port: u16) -> Instance {
        Instance::builder("s").id(format!("i{id}")).address(format!("h:{port}")).build().unwrap()
    }

    /// Few ids and few contents, so that additions, updates and removals all happen.
    fn snapshots() -> impl Strategy<Value = Snapshot> {
        vec((0u8..12, 1u16..4), 0..16)
            .prop_map(|list| Snapshot::new(service(), list.into_iter().map(|(id, port)| instance(id, port))))
    }

    #[test]
    fn sorts_and_keeps_the_last_of_equal_ids() {
        let snapshot =
            Snapshot::new(service(), [instance(2, 1), instance(1, 1), instance(2, 2), instance(2, 3)]);
        let ports: Vec<u16> = snapshot.all().iter().map(|instance| instance.address().port()).collect();
        assert_eq!(ports, [1, 3]);
    }

    #[test]
    fn being_incomplete_is_carried_and_changes_nothing() {
        let whole = Snapshot::new(service(), [instance(1, 1)]);
        let part = whole.clone().incomplete();
        assert!(whole.is_complete() && !part.is_complete());
        assert_eq!(whole, part);
        for snapshot in [whole, part] {
            let json = serde_json::to_string(&snapshot).unwrap();
            let read: Snapshot = serde_json::from_str(&json).unwrap();
            assert_eq!(read.is_complete(), snapshot.is_complete(), "{json}");
            assert_eq!(json.contains("complete"), !snapshot.is_complete());
        }
    }

    #[test]
    fn changes_read_well() {
        let build = |port: u16, tag: &str| {
            let builder = Instance::builder("greeter").id("1").address(format!("10.0.0.7:{port}")).tag(tag);
            Arc::new(builder.build().unwrap())
        };
        let old = build(80, "a");
        let unhealthy = Arc::new(Instance::clone(&old).with_health(crate::Health::Critical));
        let update = |new: &Arc<Instance>| Change::Updated { old: old.clone(), new: new.clone() }.to_string();
        assert_eq!(Change::Added(old.clone()).to_string(), "added greeter/1 at 10.0.0.7:80, passing");
        assert_eq!(Change::Removed(old.clone()).to_string(), "removed greeter/1");
        assert_eq!(update(&unhealthy), "updated greeter/1: passing -> critical");
        assert_eq!(
            update(&build(81, "b")),
            "updated greeter/1: at 10.0.0.7:80 -> 10.0.0.7:81, +tag b, -tag a"
        );
    }

    #[test]
    fn leaves_out_other_services() {
        let other = Instance::builder("t").id("x").address("h:1").build().unwrap();
        assert!(Snapshot::new(service(), [other]).is_empty());
    }

    proptest! {
        #[test]
        fn applying_the_diff_gives_the_newer(older in snapshots(), newer in snapshots()) {
            let changes = newer.diff(&older);
            prop_assert_eq!(older.apply(&changes), newer.clone());
            prop_assert_eq!(changes.is_empty(), older == newer);
        }

        #[test]
        fn a_diff_names_each_id_once_and_in_order(older in snapshots(), newer in snapshots()) {
            let changes = newer.diff(&older);
            prop_assert!(changes.windows(2).all(|pair| pair[0].id() < pair[1].id()));
        }

        #[test]
        fn json_round_trips(snapshot in snapshots()) {
            let json = serde_json::to_string(&snapshot).unwrap();
            prop_assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), snapshot);
        }

        #[test]
        fn get_finds_what_all_lists(snapshot in snapshots()) {
            for instance in snapshot.all() {
                prop_assert_eq!(snapshot.get(instance.id()), Some(instance));
            }
        }
    }
}
