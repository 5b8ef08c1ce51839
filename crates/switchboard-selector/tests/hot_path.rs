//! A pick allocates nothing, and many threads at it lose nothing.

#![allow(clippy::unwrap_used)] // in helpers of tests too

#[path = "../../switchboard-watcher/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;

use allocation_counter::measure;
use support::{Scripted, snapshot};
use switchboard_core::InstanceId;
use switchboard_selector::{
    Balancer, CallOptions, ConsistentHash, FailureKind, LeastRequest, PeakEwma, Random, Request, RoundRobin,
    Selector,
};
use switchboard_watcher::Directory;

async fn balancer() -> Balancer {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &["a", "b", "c", "d"])));
    let balancer = Selector::new(Directory::new(registry)).service("a").unwrap();
    balancer.ready().await.unwrap();
    balancer
}

fn strategies() -> [CallOptions; 5] {
    let options = CallOptions::new;
    [
        options().strategy(Random),
        options().strategy(RoundRobin),
        options().strategy(LeastRequest),
        options().strategy(PeakEwma),
        options().strategy(ConsistentHash),
    ]
}

/// Also with metrics, of which the test has a recorder that allocates nothing.
#[test]
fn a_pick_and_its_verdict_allocate_nothing() {
    #[cfg(feature = "metrics")]
    metrics::with_local_recorder(&Atomics, || block_on(pick_and_judge()));
    #[cfg(not(feature = "metrics"))]
    block_on(pick_and_judge());
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

async fn pick_and_judge() {
    let balancer = balancer().await;
    let tried = [InstanceId::new("a").unwrap(), InstanceId::new("b").unwrap()];
    for options in strategies() {
        let balancer = balancer.with(&options);
        // The first pick on a thread sets its thread locals up.
        drop(balancer.pick().unwrap());
        let counted = measure(|| {
            for key in 0..1_000_u64 {
                balancer.pick().unwrap().success();
                balancer.pick().unwrap().failure(FailureKind::Response);
                let mut streaming = balancer.pick().unwrap();
                streaming.responded();
                streaming.success();
                drop(balancer.pick_for(&Request::new().key(key.to_le_bytes())).unwrap());
                let (a, b, c) = (balancer.pick(), balancer.pick(), balancer.pick());
                drop((a.unwrap(), b.unwrap(), c.unwrap()));
                drop(balancer.pick_for(&Request::new().avoid(&tried)).unwrap());
            }
        });
        assert_eq!(counted.count_total, 0, "{options:?}: {counted:?}");
    }
}

/// Keeps each metric in one word.
#[cfg(feature = "metrics")]
struct Atomics;

#[cfg(feature = "metrics")]
mod atomics {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};

    struct Last(AtomicU64);

    impl HistogramFn for Last {
        fn record(&self, value: f64) {
            self.0.store(value.to_bits(), Relaxed);
        }
    }

    impl metrics::Recorder for super::Atomics {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(AtomicU64::new(0)))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Arc::new(AtomicU64::new(0)))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(Arc::new(Last(AtomicU64::new(0))))
        }
    }
}

#[tokio::test]
async fn even_a_pick_that_finds_nobody_allocates_nothing() {
    let registry = Scripted::new();
    let balancer = Selector::new(Directory::new(registry)).service("a").unwrap();
    assert!(balancer.pick().is_err());
    let counted = measure(|| (0..1_000).for_each(|_| assert!(balancer.pick().is_err())));
    assert_eq!(counted.count_total, 0);
}

#[tokio::test]
async fn threads_keep_the_turns_even_and_the_counts_true() {
    const THREADS: usize = 4;
    const TURNS: usize = 40_000;
    let base = balancer().await;
    for options in strategies() {
        let balancer = base.with(&options);
        let picked = Mutex::new(BTreeMap::<InstanceId, usize>::new());
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let mut own = BTreeMap::<InstanceId, usize>::new();
                    let mut held = Vec::new();
                    for turn in 0..TURNS {
                        let pick = balancer.pick().unwrap();
                        *own.entry(pick.id().clone()).or_default() += 1;
                        held.push(pick);
                        if turn % 7 == 0 {
                            held.clear();
                        }
                    }
                    drop(held);
                    let mut picked = picked.lock().unwrap();
                    for (id, count) in own {
                        *picked.entry(id).or_default() += count;
                    }
                });
            }
        });
        let picked = picked.into_inner().unwrap();
        assert_eq!(picked.values().sum::<usize>(), THREADS * TURNS);
        let report = base.report();
        assert!(report.iter().all(|report| report.in_flight == 0), "{options:?}: {report:?}");
        if format!("{options:?}").contains("RoundRobin") {
            let (least, most) = (picked.values().min().unwrap(), picked.values().max().unwrap());
            assert!(most - least <= 1, "{options:?}: {picked:?}");
        }
    }
}
