//! What is measured, with the feature `metrics`.

#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

#[path = "../../switchboard-watcher/tests/support/recorded.rs"]
mod recorded;

use std::sync::Arc;
use std::time::Duration;

use recorded::{Told, expected, recorded};
use switchboard_core::{Health, Instance, MemoryRegistry, RegisterOptions, Registry};
use switchboard_selector::{Balancer, FailureKind, OutlierDetection, RoundRobin, Selector};
use switchboard_watcher::Directory;
use tokio::time::sleep;

/// Waits until the balancer knows the health of the only instance of its kind.
async fn until(balancer: &Balancer, health: Health) {
    let mut view = balancer.view().clone();
    while view.snapshot().is_none_or(|known| known.all().iter().all(|one| one.health() != health)) {
        view.changed().await;
    }
    balancer.ready().await.unwrap();
}

fn instance(id: &str) -> Instance {
    Instance::builder("web").id(id).address("127.0.0.1:80").build().unwrap()
}

async fn registry() -> Arc<MemoryRegistry> {
    let registry = Arc::new(MemoryRegistry::new());
    for id in ["a", "b"] {
        registry.register(&instance(id), &RegisterOptions::new()).await.unwrap();
    }
    registry
}

#[test]
fn picks_verdicts_times_ejections_and_returns_are_told() {
    recorded("switchboard.selector.", async |mut heard| {
        let selector = Selector::builder(Directory::new(registry().await)).strategy(RoundRobin).build();
        let balancer = selector.service("web").unwrap();
        assert!(balancer.pick().is_err());
        balancer.ready().await.unwrap();
        // "a" fails until it is out: every second of ten calls; then both are "b"'s.
        for kind in [FailureKind::Timeout, FailureKind::Connection] {
            for _ in 0..10 {
                let pick = balancer.pick().unwrap();
                let fails = pick.id().as_str() == "a";
                sleep(Duration::from_millis(10)).await;
                pick.finish(if fails { Err(kind) } else { Ok(()) });
                tokio::task::yield_now().await;
            }
        }
        let mut streaming = balancer.pick().unwrap();
        sleep(Duration::from_millis(10)).await;
        streaming.responded();
        let all = heard.all();
        let tens = |times| Told::Times(times, 10 * times as u128);
        assert_eq!(
            all,
            expected([
                ("picks web picked", Told::Count(21)),
                ("picks web not_heard", Told::Count(1)),
                ("calls web success", Told::Count(15)),
                ("calls web timeout", Told::Count(5)),
                ("call.duration web success", tens(16)),
                ("call.duration web timeout", tens(5)),
                ("active_calls web", Told::Level(1.0)),
                ("instances web passing", Told::Level(2.0)),
                ("excluded web ejected", Told::Level(1.0)),
                ("ejections web", Told::Count(1)),
            ])
        );

        sleep(Duration::from_secs(1)).await;
        streaming.failure(FailureKind::Response);
        let slow = balancer.pick().unwrap();
        sleep(Duration::from_secs(1)).await;
        drop(slow);
        // Longer than the ejection lasts.
        sleep(Duration::from_secs(60)).await;
        assert_eq!(
            heard.all(),
            expected([
                ("picks web picked", Told::Count(1)),
                ("calls web response", Told::Count(1)),
                ("calls web abandoned", Told::Count(1)),
                ("call.duration web abandoned", Told::Times(1, 1_000)),
                ("instances web passing", Told::Level(2.0)),
                ("returns web", Told::Count(1)),
            ])
        );
    });
}

#[test]
fn instances_are_told_by_health_and_taken_back_with_the_balancer() {
    recorded("switchboard.selector.", async |mut heard| {
        let registry = registry().await;
        let first = Selector::new(Directory::new(registry.clone()));
        let second = Selector::new(Directory::new(registry.clone()));
        let balancers = [first.service("web").unwrap(), second.service("web").unwrap()];
        for balancer in &balancers {
            balancer.ready().await.unwrap();
        }
        let passing = expected([("instances web passing", Told::Level(4.0))]);
        assert_eq!(heard.all(), passing, "of both selectors");

        registry.set_health(&instance("b").key(), Health::Critical);
        for balancer in &balancers {
            until(balancer, Health::Critical).await;
        }
        let half =
            [("instances web passing", Told::Level(2.0)), ("instances web critical", Told::Level(2.0))];
        assert_eq!(heard.all(), expected(half));

        drop((first, second, balancers));
        // Longer than they are kept for those who may ask again.
        sleep(Duration::from_secs(200)).await;
        assert_eq!(heard.all(), expected([]));
    });
}

#[test]
fn a_panic_is_told_when_it_begins() {
    recorded("switchboard.selector.", async |mut heard| {
        let detection = OutlierDetection::new().max_ejected(1.0);
        let directory = Directory::new(registry().await);
        let selector = Selector::builder(directory).outlier_detection(detection).build();
        let balancer = selector.service("web").unwrap();
        balancer.ready().await.unwrap();
        let fail = async |id: &str| {
            for _ in 0..5 {
                balancer.mark(instance(id).id(), Err(FailureKind::Response));
            }
            sleep(Duration::from_millis(100)).await;
        };
        fail("a").await;
        let mut panics = || heard.all().remove("panics web");
        assert_eq!(panics(), None, "half of them is not too many");
        fail("b").await;
        assert_eq!(panics(), Some(Told::Count(1)));
        // It goes on, and another begins only when this one is over.
        fail("a").await;
        assert_eq!(panics(), None);
        balancer.reset();
        fail("a").await;
        fail("b").await;
        assert_eq!(panics(), Some(Told::Count(1)));
    });
}

#[test]
fn picks_that_find_nobody_are_told_by_why() {
    recorded("switchboard.selector.", async |mut heard| {
        let registry = Arc::new(MemoryRegistry::new());
        let selector = Selector::new(Directory::new(registry.clone()));
        let balancer = selector.service("web").unwrap();
        balancer.ready().await.unwrap();
        assert!(balancer.pick().is_err());
        registry.register(&instance("a"), &RegisterOptions::new()).await.unwrap();
        registry.set_health(&instance("a").key(), Health::Critical);
        until(&balancer, Health::Critical).await;
        assert!(balancer.pick().is_err());
        let all = heard.all();
        assert_eq!(
            all,
            expected([
                ("picks web not_found", Told::Count(1)),
                ("picks web none_usable", Told::Count(1)),
                ("instances web critical", Told::Level(1.0)),
            ])
        );
    });
}
