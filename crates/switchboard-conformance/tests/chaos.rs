//! The decorator that troubles a registry: it keeps the contract when calm and where its trouble allows it.

#![allow(clippy::unwrap_used)] // in helpers of tests too

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use switchboard_conformance::{Backend, Chaos, Outage, Outcome, Profile, async_trait, cases, suite};
use switchboard_core::{
    Error, ErrorKind, Instance, MemoryRegistry, RegisterOptions, Registry, ServiceName, Snapshot,
    SnapshotStream,
};
use tokio::time::{Instant, advance, timeout};

/// Handles that are troubled as `trouble` says.
struct Troubled(MemoryRegistry, fn(&Chaos<MemoryRegistry>));

impl Troubled {
    fn by(trouble: fn(&Chaos<MemoryRegistry>)) -> Self {
        Self(MemoryRegistry::new(), trouble)
    }

    fn handle(&self) -> Arc<Chaos<MemoryRegistry>> {
        let chaos = Chaos::new(self.0.handle()).seed(1);
        (self.1)(&chaos);
        Arc::new(chaos)
    }
}

#[async_trait]
impl Backend for Troubled {
    fn profile(&self) -> Profile {
        Profile::new().ttl(Some(Duration::from_secs(4))).quiet(Duration::from_secs(3)).shared_ids(true)
    }

    async fn open(&self) -> Arc<dyn Registry> {
        self.handle()
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let handle = self.handle();
        Some((handle.clone(), Box::new(Weather(handle))))
    }
}

struct Weather(Arc<Chaos<MemoryRegistry>>);

#[async_trait]
impl Outage for Weather {
    async fn begin(&self) {
        self.0.outage();
    }

    async fn end(&self) {
        self.0.heal();
    }
}

mod calm {
    use super::*;

    struct Calm(Troubled);

    #[async_trait]
    impl Backend for Calm {
        fn profile(&self) -> Profile {
            let ttl = Some(Duration::from_millis(400));
            Profile::new().quiet(Duration::from_millis(50)).ttl(ttl).shared_ids(true)
        }

        async fn open(&self) -> Arc<dyn Registry> {
            self.0.open().await
        }

        async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
            self.0.open_fragile().await
        }
    }

    suite!(Calm(Troubled::by(|_| {})));
}

/// Runs all cases on a clock that jumps over every wait; gives the names of those that failed.
fn failed(backend: &Troubled) -> Vec<&'static str> {
    let passes = |case: &&switchboard_conformance::Case| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        let run = std::panic::AssertUnwindSafe(|| runtime.block_on(case.run(backend)));
        std::panic::catch_unwind(run).is_ok_and(|outcome| outcome == Outcome::Passed)
    };
    cases().iter().filter(|case| !passes(case)).map(switchboard_conformance::Case::name).collect()
}

#[test]
fn late_and_lossy_it_still_keeps_the_contract() {
    let late = failed(&Troubled::by(|chaos| chaos.delay(Duration::from_millis(300))));
    assert!(late.is_empty(), "{late:?}");
    let lossy = failed(&Troubled::by(|chaos| chaos.losses(0.5)));
    assert!(lossy.is_empty(), "{lossy:?}");
}

#[test]
fn what_breaks_the_contract_is_noticed() {
    let repeating = failed(&Troubled::by(|chaos| chaos.repeats(1.0)));
    assert!(repeating.contains(&"services::equal_sets_are_not_repeated"), "{repeating:?}");
    let failing = failed(&Troubled::by(|chaos| chaos.failures(1.0)));
    assert!(failing.contains(&"register::found_at_once"), "{failing:?}");
}

fn instance(id: u32) -> Instance {
    Instance::builder("a").id("1").address("h:1").metadata("n", id.to_string()).build().unwrap()
}

fn number(snapshot: &Snapshot) -> Option<u32> {
    snapshot.all().first()?.metadata().get("n")?.parse().ok()
}

fn a() -> ServiceName {
    ServiceName::new("a").unwrap()
}

async fn register(chaos: &Chaos<MemoryRegistry>, id: u32) {
    chaos.inner().register(&instance(id), &RegisterOptions::new()).await.unwrap();
}

/// The next item, which must come.
async fn next(watch: &mut SnapshotStream) -> switchboard_core::Result<Snapshot> {
    timeout(Duration::from_secs(3_600), watch.next()).await.expect("an item").expect("no end")
}

/// What the watch tells within `time`: the number registered, or `None` for an error.
async fn told(watch: &mut SnapshotStream, time: Duration) -> Vec<Option<u32>> {
    let mut told = Vec::new();
    let end = Instant::now() + time;
    while let Ok(item) = tokio::time::timeout_at(end, watch.next()).await {
        told.push(item.unwrap().ok().and_then(|snapshot| number(&snapshot)));
    }
    told
}

#[tokio::test(start_paused = true)]
async fn an_outage_stops_calls_and_is_told_once_and_its_end_with_the_state_of_then() {
    let chaos = Chaos::new(MemoryRegistry::new());
    register(&chaos, 1).await;
    let mut watch = chaos.watch(&a());
    assert_eq!(number(&next(&mut watch).await.unwrap()), Some(1));
    chaos.outage();
    chaos.outage();
    assert!(chaos.is_out());
    let error = next(&mut watch).await.unwrap_err();
    assert_eq!(error.to_string(), "chaos: watch: unavailable: brought about by a test");
    assert!(watch.next().now_or_never().is_none());
    assert!(chaos.register(&instance(9), &RegisterOptions::new()).await.is_err());
    assert_eq!(number(&chaos.inner().lookup(&a()).await.unwrap()), Some(1), "nothing arrived");
    assert!(chaos.watch(&a()).next().await.unwrap().is_err(), "a new watch hears nothing either");
    for id in 2..5 {
        register(&chaos, id).await;
        assert!(watch.next().now_or_never().is_none());
    }
    chaos.heal();
    assert_eq!(number(&next(&mut watch).await.unwrap()), Some(4));
    assert!(watch.next().now_or_never().is_none());
    assert_eq!(number(&chaos.lookup(&a()).await.unwrap()), Some(4));

    chaos.outage();
    assert!(next(&mut watch).await.is_err());
    chaos.heal();
    assert_eq!(number(&next(&mut watch).await.unwrap()), Some(4), "equal, and told again");
    chaos.outage();
    chaos.close().await.unwrap();
    assert_eq!(chaos.services().await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_registry_beneath_is_not_hidden_by_one_of_ours() {
    let chaos = Chaos::new(MemoryRegistry::new());
    let mut watch = chaos.watch(&a());
    next(&mut watch).await.unwrap();
    chaos.inner().fail(Error::new(ErrorKind::Unavailable, "memory", "watch", "beneath"));
    assert_eq!(next(&mut watch).await.unwrap_err().message(), "beneath");
    chaos.outage();
    assert_eq!(next(&mut watch).await.unwrap_err().backend(), "chaos");
    chaos.heal();
    assert_eq!(next(&mut watch).await.unwrap_err().message(), "beneath", "no false recovery");
    chaos.inner().heal();
    assert!(next(&mut watch).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn delays_are_bounded_and_an_outage_does_not_wait_for_them() {
    let longest = Duration::from_secs(10);
    let chaos = Chaos::new(MemoryRegistry::new());
    chaos.delay(longest);
    let started = Instant::now();
    chaos.lookup(&a()).await.unwrap();
    let took = started.elapsed();
    assert!(took > Duration::ZERO && took <= longest, "{took:?}");
    let mut watch = chaos.watch(&a());
    assert!(watch.next().now_or_never().is_none(), "late");
    timeout(longest, watch.next()).await.unwrap().unwrap().unwrap();
    register(&chaos, 1).await;
    assert!(watch.next().now_or_never().is_none(), "late");
    chaos.outage();
    assert!(watch.next().now_or_never().unwrap().unwrap().is_err());
    chaos.calm();
    let item = timeout(longest, watch.next()).await.unwrap().unwrap();
    assert_eq!(number(&item.unwrap()), Some(1));
    chaos.delay(Duration::MAX);
    register(&chaos, 2).await;
    assert!(watch.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn states_between_are_lost_and_never_the_last() {
    let chaos = Chaos::new(MemoryRegistry::new()).seed(7);
    chaos.losses(0.5);
    let mut watch = chaos.watch(&a());
    let mut all = Vec::new();
    for id in 1..=100 {
        register(&chaos, id).await;
        all.extend(told(&mut watch, Duration::from_millis(400)).await);
    }
    all.extend(told(&mut watch, Duration::from_secs(10)).await);
    assert_eq!(all.last(), Some(&Some(100)));
    assert!((20..90).contains(&all.len()), "{}", all.len());
    assert!(all.is_sorted(), "{all:?}");
}

/// What a watch and calls go through with this seed.
async fn luck(seed: u64) -> (Vec<Option<u32>>, Vec<bool>) {
    let chaos = Chaos::new(MemoryRegistry::new()).seed(seed);
    chaos.delay(Duration::from_millis(50));
    chaos.failures(0.3);
    chaos.repeats(0.3);
    let (mut watch, mut tells, mut calls) = (chaos.watch(&a()), Vec::new(), Vec::new());
    for id in 1..=30 {
        register(&chaos, id).await;
        calls.push(chaos.lookup(&a()).await.is_ok());
        tells.extend(told(&mut watch, Duration::from_millis(100)).await);
    }
    (tells, calls)
}

#[tokio::test(start_paused = true)]
async fn the_seed_decides() {
    let (tells, calls) = luck(3).await;
    assert_eq!((tells.clone(), calls.clone()), luck(3).await);
    let (other_tells, other_calls) = luck(4).await;
    assert!(tells != other_tells && calls != other_calls);
    assert!(tells.contains(&None) && tells.windows(2).any(|pair| pair[0].is_some() && pair[0] == pair[1]));
    assert!(calls.contains(&true) && calls.contains(&false));
    assert_eq!(tells.last(), Some(&Some(30)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_may_have_arrived() {
    let chaos = Chaos::new(MemoryRegistry::new());
    chaos.failures(1.0);
    let mut arrived = 0;
    for id in 0..100 {
        assert!(chaos.register(&instance(id), &RegisterOptions::new()).await.is_err());
        let found = chaos.inner().lookup(&a()).await.unwrap();
        arrived += u32::from(number(&found) == Some(id));
    }
    assert!((30..70).contains(&arrived), "{arrived}");
    advance(Duration::from_secs(1)).await;
    chaos.calm();
    chaos.register(&instance(1), &RegisterOptions::new()).await.unwrap();
}
