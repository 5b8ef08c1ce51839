//! One of two that is down, hangs, comes and goes, or refuses, on a paused clock.

#![allow(clippy::unwrap_used)] // in helpers of tests too

use std::collections::BTreeSet;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use switchboard_compose::{Failover, Mirror, Route, Union};
use switchboard_conformance::async_trait;
use switchboard_core::{
    Error, ErrorKind, Health, Instance, InstanceKey, MemoryRegistry, NamesStream, RegisterOptions, Registry,
    Result, ServiceName, Snapshot, SnapshotStream,
};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn instance(id: &str) -> Instance {
    Instance::builder("a").id(id).address("127.0.0.1:80").build().unwrap()
}

fn service() -> ServiceName {
    ServiceName::new("a").unwrap()
}

async fn register(registry: &dyn Registry, id: &str) {
    registry.register(&instance(id), &RegisterOptions::new()).await.unwrap();
}

fn down() -> Error {
    Error::new(ErrorKind::Unavailable, "memory", "outage", "is down")
}

fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.all().iter().map(|instance| instance.id().as_str()).collect()
}

/// Two registries, the first with instance 1 and the second with 2, and those who can cut them off from a composition.
async fn two() -> ([MemoryRegistry; 2], [Arc<MemoryRegistry>; 2], Vec<Arc<dyn Registry>>) {
    let worlds = [MemoryRegistry::new(), MemoryRegistry::new()];
    register(&worlds[0], "1").await;
    register(&worlds[1], "2").await;
    let handles = [Arc::new(worlds[0].handle()), Arc::new(worlds[1].handle())];
    let parts = handles.iter().map(|handle| handle.clone() as Arc<dyn Registry>).collect();
    (worlds, handles, parts)
}

/// What a watch says within this time; `None` if it says nothing.
async fn said(watch: &mut SnapshotStream, within: Duration) -> Option<Result<Snapshot>> {
    timeout(within, watch.next()).await.ok().map(Option::unwrap)
}

#[tokio::test(start_paused = true)]
async fn maintenance_is_for_those_that_know_the_instance() {
    let (_worlds, handles, parts) = two().await;
    let union = Union::new(parts).unwrap();
    union.set_maintenance(&instance("2").key(), Some("a new disk")).await.unwrap();
    let found = union.lookup(&service()).await.unwrap();
    let health: Vec<_> = found.all().iter().map(|one| one.health()).collect();
    assert_eq!(health, [Health::Passing, Health::Maintenance]);
    let error = union.set_maintenance(&instance("3").key(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    handles[0].fail(down());
    let error = union.set_maintenance(&instance("2").key(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "the first may know it, too: {error}");
}

#[tokio::test(start_paused = true)]
async fn a_union_keeps_what_one_said_that_is_down() {
    let (worlds, handles, parts) = two().await;
    let union = Union::new(parts).unwrap();
    let mut watch = union.watch(&service());
    let first = said(&mut watch, SECOND).await.unwrap().unwrap();
    assert_eq!((ids(&first), first.is_complete()), (vec!["1", "2"], true));
    assert_eq!(ids(&union.lookup(&service()).await.unwrap()), ["1", "2"]);

    handles[0].fail(down());
    assert!(said(&mut watch, SECOND * 60).await.is_none(), "as long as another is heard nothing is wrong");
    register(&worlds[1], "3").await;
    let part = said(&mut watch, SECOND).await.unwrap().unwrap();
    assert_eq!((ids(&part), part.is_complete()), (vec!["1", "2", "3"], false));
    let part = union.lookup(&service()).await.unwrap();
    assert_eq!((ids(&part), part.is_complete()), (vec!["1", "2", "3"], false));
    assert_eq!(union.services().await.unwrap(), BTreeSet::from([service()]));

    handles[1].fail(down());
    assert!(said(&mut watch, SECOND).await.unwrap().is_err(), "nobody is heard");
    assert!(union.lookup(&service()).await.is_err());
    handles[0].heal();
    let again = said(&mut watch, SECOND).await.unwrap().unwrap();
    assert_eq!(ids(&again), ["1", "2", "3"], "told again, though it is the same");
    register(&worlds[0], "0").await;
    assert_eq!(ids(&said(&mut watch, SECOND).await.unwrap().unwrap()), ["0", "1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn who_has_never_been_heard_makes_no_union_empty() {
    let (_worlds, handles, parts) = two().await;
    let union = Union::new(parts).unwrap();
    let nobody = ServiceName::new("nobody").unwrap();
    handles[0].fail(down());
    let mut watch = union.watch(&nobody);
    assert!(said(&mut watch, SECOND).await.unwrap().is_err());
    let error = union.lookup(&nobody).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "union: lookup: unavailable: memory:: memory: outage: unavailable: is down"
    );
    // Somebody is better than nobody.
    assert_eq!(ids(&union.lookup(&service()).await.unwrap()), ["2"]);
    let mut some = union.watch(&service());
    let part = said(&mut some, SECOND).await.unwrap().unwrap();
    assert_eq!((ids(&part), part.is_complete()), (vec!["2"], false));
    handles[0].heal();
    assert_eq!(said(&mut watch, SECOND).await.unwrap().unwrap().len(), 0);
    assert_eq!(ids(&said(&mut some, SECOND).await.unwrap().unwrap()), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn one_id_in_both_is_one_instance_and_the_earlier_one_counts() {
    let (worlds, _handles, parts) = two().await;
    let other = Instance::builder("a").id("1").address("127.0.0.2:80").build().unwrap();
    worlds[1].register(&other, &RegisterOptions::new()).await.unwrap();
    let found = Union::new(parts).unwrap().lookup(&service()).await.unwrap();
    assert_eq!(ids(&found), ["1", "2"]);
    assert_eq!(found.all()[0].address().to_string(), "127.0.0.1:80");
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_holds_up_the_others_by_three_seconds_and_no_more() {
    let world = MemoryRegistry::new();
    let union = Union::new(vec![Arc::new(Hung), Arc::new(world.handle())]).unwrap();
    let began = Instant::now();
    register(&union, "1").await;
    assert_eq!(began.elapsed(), SECOND * 3);
    assert_eq!(world.lookup(&service()).await.unwrap().len(), 1);
    assert_eq!(ids(&union.lookup(&service()).await.unwrap()), ["1"]);
    let mut watch = union.watch(&service());
    let began = Instant::now();
    assert_eq!(ids(&said(&mut watch, SECOND * 10).await.unwrap().unwrap()), ["1"]);
    assert_eq!(began.elapsed(), SECOND * 3);
    register(&world, "2").await;
    assert_eq!(ids(&said(&mut watch, SECOND).await.unwrap().unwrap()), ["1", "2"], "at once from now on");
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_one_missed_is_made_up_for_by_the_next_renewal() {
    let (worlds, handles, parts) = two().await;
    let union = Union::new(parts).unwrap();
    handles[0].fail(down());
    register(&union, "9").await;
    assert!(worlds[0].lookup(&service()).await.unwrap().get(instance("9").id()).is_none());
    let left = union.deregister(&instance("9").key()).await.unwrap_err();
    assert_eq!(left.message(), "memory:: memory: outage: unavailable: is down");
    handles[0].heal();
    register(&union, "9").await;
    for world in &worlds {
        assert!(world.lookup(&service()).await.unwrap().get(instance("9").id()).is_some());
    }
    union.deregister(&instance("9").key()).await.unwrap();
    for world in &worlds {
        assert!(world.lookup(&service()).await.unwrap().get(instance("9").id()).is_none());
    }
    for handle in &handles {
        handle.fail(down());
    }
    let error = union.register(&instance("9"), &RegisterOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.message().matches("is down").count(), 2, "{error}");
}

#[tokio::test(start_paused = true)]
async fn those_that_one_can_only_read_are_left_out_of_registering() {
    let world = MemoryRegistry::new();
    let union = Union::new(vec![Arc::new(Readable), Arc::new(world.handle())]).unwrap();
    register(&union, "1").await;
    union.deregister(&instance("1").key()).await.unwrap();
    let alone = Union::new(vec![Arc::new(Readable)]).unwrap();
    let error = alone.register(&instance("1"), &RegisterOptions::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.registered_by()), (ErrorKind::Unsupported, Some("somebody else")));
    let both = Union::new(vec![Arc::new(Readable), Arc::new(Readable)]).unwrap();
    let error = both.deregister(&instance("1").key()).await.unwrap_err();
    assert_eq!(error.registered_by(), Some("somebody else and somebody else"));
    assert_eq!(Union::new(Vec::new()).unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn failover_waits_before_it_goes_on_and_before_it_comes_back() {
    let (worlds, handles, parts) = two().await;
    let failover = Failover::new(parts).unwrap();
    let mut watch = failover.watch(&service());
    assert_eq!(ids(&said(&mut watch, SECOND).await.unwrap().unwrap()), ["1"]);
    // A moment is no outage to go on for.
    handles[0].fail(down());
    assert!(said(&mut watch, SECOND).await.unwrap().is_err());
    sleep(SECOND * 4).await;
    handles[0].heal();
    assert_eq!(ids(&said(&mut watch, SECOND).await.unwrap().unwrap()), ["1"]);
    handles[0].fail(down());
    assert!(said(&mut watch, SECOND).await.unwrap().is_err());
    let began = Instant::now();
    assert_eq!(ids(&said(&mut watch, SECOND * 10).await.unwrap().unwrap()), ["2"]);
    assert!(began.elapsed() > SECOND * 4 && began.elapsed() <= SECOND * 5);
    // One that comes and goes is not followed.
    for _ in 0..10 {
        handles[0].heal();
        assert!(said(&mut watch, SECOND * 29).await.is_none());
        handles[0].fail(down());
        assert!(said(&mut watch, SECOND).await.is_none());
    }
    register(&worlds[0], "2").await;
    handles[0].heal();
    let began = Instant::now();
    assert_eq!(ids(&said(&mut watch, SECOND * 60).await.unwrap().unwrap()), ["1", "2"]);
    assert_eq!(began.elapsed(), SECOND * 30);
}

#[tokio::test(start_paused = true)]
async fn failover_comes_back_late_to_one_that_has_forgotten_some_and_not_to_one_that_has_forgotten_all() {
    let (worlds, handles, parts) = two().await;
    register(&worlds[1], "1").await;
    let failover = Failover::new(parts).unwrap();
    let mut watch = failover.watch(&service());
    assert_eq!(ids(&said(&mut watch, SECOND).await.unwrap().unwrap()), ["1"]);
    handles[0].fail(down());
    assert!(said(&mut watch, SECOND).await.unwrap().is_err());
    assert_eq!(ids(&said(&mut watch, SECOND * 10).await.unwrap().unwrap()), ["1", "2"]);
    worlds[0].deregister(&instance("1").key()).await.unwrap();
    handles[0].heal();
    assert!(said(&mut watch, SECOND * 3600).await.is_none(), "the first knows nobody");
    handles[0].fail(down());
    assert!(said(&mut watch, SECOND).await.is_none());
    register(&worlds[0], "2").await;
    handles[0].heal();
    let began = Instant::now();
    assert_eq!(ids(&said(&mut watch, SECOND * 3600).await.unwrap().unwrap()), ["2"]);
    assert_eq!(began.elapsed(), SECOND * 120);
}

#[tokio::test(start_paused = true)]
async fn failover_believes_nobody_who_knows_nobody_while_an_earlier_one_may() {
    let (worlds, handles, parts) = two().await;
    worlds[1].deregister(&instance("2").key()).await.unwrap();
    let failover = Failover::new(parts).unwrap();
    handles[0].fail(down());
    for _ in 0..3 {
        assert!(failover.lookup(&service()).await.is_err());
        assert!(failover.services().await.is_err());
        assert!(failover.snapshots().await.is_err());
    }
    handles[0].heal();
    assert_eq!(ids(&failover.lookup(&service()).await.unwrap()), ["1"]);
    assert_eq!(failover.services().await.unwrap(), BTreeSet::from([service()]));
}

#[tokio::test(start_paused = true)]
async fn failover_begins_with_whoever_knows_somebody() {
    let (worlds, handles, parts) = two().await;
    let failover = Failover::new(parts).unwrap();
    handles[0].fail(down());
    let began = Instant::now();
    let mut watch = failover.watch(&service());
    assert_eq!(ids(&said(&mut watch, SECOND).await.unwrap().unwrap()), ["2"]);
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing stands that there was patience for");
    worlds[1].deregister(&instance("2").key()).await.unwrap();
    let mut watch = failover.watch(&service());
    assert!(said(&mut watch, SECOND).await.unwrap().is_err());
    assert!(said(&mut watch, SECOND * 3600).await.is_none(), "whether there is nobody, nobody knows");
    handles[0].heal();
    assert_eq!(ids(&said(&mut watch, SECOND * 60).await.unwrap().unwrap()), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn failover_in_a_union_goes_on_though_the_union_waits_less_than_it() {
    let worlds = [MemoryRegistry::new(), MemoryRegistry::new()];
    register(&worlds[0], "1").await;
    register(&worlds[1], "2").await;
    let failover = Failover::new(vec![Arc::new(Hung), Arc::new(worlds[0].handle())]).unwrap();
    let union = Union::new(vec![Arc::new(failover), Arc::new(worlds[1].handle())]).unwrap();
    let first = union.lookup(&service()).await.unwrap();
    assert_eq!((ids(&first), first.is_complete()), (vec!["2"], false));
    let began = Instant::now();
    assert_eq!(ids(&union.lookup(&service()).await.unwrap()), ["1", "2"]);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_union_of_one_that_hangs_and_one_that_knows_nobody_says_so() {
    let union = Union::new(vec![Arc::new(Hung), Arc::new(MemoryRegistry::new())]).unwrap();
    let began = Instant::now();
    let error = said(&mut union.watch(&service()), SECOND * 60).await.unwrap().unwrap_err();
    assert_eq!(error.message(), "no answer 3s after another registry had one");
    assert_eq!(began.elapsed(), SECOND * 3);
}

#[tokio::test(start_paused = true)]
async fn failover_to_one_that_knows_nobody_empties_nothing() {
    let (worlds, handles, parts) = two().await;
    worlds[1].deregister(&instance("2").key()).await.unwrap();
    let failover = Failover::new(parts).unwrap();
    let mut watch = failover.watch(&service());
    assert_eq!(ids(&said(&mut watch, SECOND).await.unwrap().unwrap()), ["1"]);
    handles[0].fail(down());
    assert!(said(&mut watch, SECOND).await.unwrap().is_err());
    assert!(said(&mut watch, SECOND * 100).await.is_none());
    assert!(failover.lookup(&service()).await.is_err());
    register(&worlds[1], "3").await;
    assert_eq!(ids(&said(&mut watch, SECOND).await.unwrap().unwrap()), ["3"]);
    assert_eq!(ids(&failover.lookup(&service()).await.unwrap()), ["3"]);
}

#[tokio::test(start_paused = true)]
async fn failover_asks_who_failed_of_late_last() {
    let world = MemoryRegistry::new();
    register(&world, "1").await;
    let failover = Failover::new(vec![Arc::new(Hung), Arc::new(world.handle())]).unwrap();
    for seconds in [5, 0, 0] {
        let began = Instant::now();
        assert_eq!(ids(&failover.lookup(&service()).await.unwrap()), ["1"]);
        assert_eq!(began.elapsed(), SECOND * seconds);
    }
    sleep(SECOND * 30).await;
    let began = Instant::now();
    failover.services().await.unwrap();
    assert_eq!(began.elapsed(), SECOND * 5, "it may have come back");
}

#[tokio::test(start_paused = true)]
async fn a_mirror_reads_the_first_and_registers_in_both() {
    let (worlds, _handles, parts) = two().await;
    let mirror = Mirror::new(parts).unwrap();
    register(&mirror, "9").await;
    assert_eq!(ids(&mirror.lookup(&service()).await.unwrap()), ["1", "9"]);
    assert_eq!(ids(&worlds[1].lookup(&service()).await.unwrap()), ["2", "9"]);
    assert_eq!(mirror.to_string(), "memory: > memory:");
}

#[tokio::test(start_paused = true)]
async fn a_route_goes_by_the_name() {
    let (worlds, handles, parts) = two().await;
    let route = Route::new(["b*", "a"].into_iter().zip(parts)).unwrap();
    register(&route, "9").await;
    assert_eq!(ids(&route.lookup(&service()).await.unwrap()), ["2", "9"]);
    assert_eq!(ids(&worlds[0].lookup(&service()).await.unwrap()), ["1"]);
    // What is where its name does not go is not seen.
    assert_eq!(route.services().await.unwrap(), BTreeSet::from([service()]));
    let mut names = route.watch_services();
    assert_eq!(names.next().await.unwrap().unwrap(), BTreeSet::from([service()]));
    let error = route.lookup(&ServiceName::new("c").unwrap()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "route: lookup: invalid input: service \"c\": goes to no registry; there are rules for: b*, a"
    );
    handles[0].fail(down());
    assert!(route.services().await.is_err(), "nobody knows what there is");
    assert!(timeout(SECOND, names.next()).await.is_err(), "what it said stands");
    assert_eq!(route.to_string(), "b* -> memory: ; a -> memory:");
}

/// A registry that never answers.
#[derive(Debug)]
struct Hung;

/// A registry that one can only read, and knows nobody.
#[derive(Debug)]
struct Readable;

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hung:")
    }
}

impl fmt::Display for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("readable:")
    }
}

#[async_trait]
impl Registry for Hung {
    async fn register(&self, _: &Instance, _: &RegisterOptions) -> Result<()> {
        pending().await
    }

    async fn deregister(&self, _: &InstanceKey) -> Result<()> {
        pending().await
    }

    async fn lookup(&self, _: &ServiceName) -> Result<Snapshot> {
        pending().await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        pending().await
    }

    fn watch(&self, _: &ServiceName) -> SnapshotStream {
        futures::stream::pending().boxed()
    }

    fn watch_services(&self) -> NamesStream {
        futures::stream::pending().boxed()
    }

    async fn close(&self) -> Result<()> {
        pending().await
    }
}

#[async_trait]
impl Registry for Readable {
    async fn register(&self, _: &Instance, _: &RegisterOptions) -> Result<()> {
        Err(Error::read_only("readable", "register", "somebody else"))
    }

    async fn deregister(&self, _: &InstanceKey) -> Result<()> {
        Err(Error::read_only("readable", "deregister", "somebody else"))
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        Ok(Snapshot::empty(service.clone()))
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        Ok(BTreeSet::new())
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        let empty = Snapshot::empty(service.clone());
        futures::stream::once(async { Ok(empty) }).chain(futures::stream::pending()).boxed()
    }

    fn watch_services(&self) -> NamesStream {
        futures::stream::once(async { Ok(BTreeSet::new()) }).chain(futures::stream::pending()).boxed()
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
