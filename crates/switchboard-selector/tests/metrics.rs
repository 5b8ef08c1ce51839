//! What is measured, with the feature `metrics`.

#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use switchboard_core::{Health, Instance, MemoryRegistry, RegisterOptions, Registry};
use switchboard_selector::{Balancer, FailureKind, RoundRobin, Selector};
use switchboard_watcher::Directory;
use tokio::time::sleep;

/// What is told of one metric: a count, a level, or how often something was timed and how many milliseconds that took in all.
#[derive(Debug, PartialEq)]
enum Told {
    Count(u64),
    Level(f64),
    Times(usize, u128),
}

type All = BTreeMap<String, Told>;

/// What a recorder was told. A snapshot of its begins everything anew; levels are added up here.
struct Heard(Snapshotter, BTreeMap<String, f64>);

impl Heard {
    /// The metrics of the selector since the last time, without those that say nothing.
    fn all(&mut self) -> All {
        let metric = |(name, value)| {
            let value = match value {
                DebugValue::Counter(count) => Told::Count(count),
                DebugValue::Gauge(more) => {
                    let level = self.1.entry(String::clone(&name)).or_default();
                    *level += more.into_inner();
                    Told::Level(*level)
                }
                DebugValue::Histogram(times) => {
                    let sum = times.iter().map(|time| time.into_inner()).sum::<f64>();
                    // What was measured has 24 bits.
                    let millis = Duration::from_secs_f64(sum + 1e-4).as_millis();
                    Told::Times(times.len(), millis)
                }
            };
            (name, value)
        };
        let says = |told: &Told| !matches!(told, Told::Count(0) | Told::Times(0, _) | Told::Level(0.0));
        let all = self.0.snapshot().into_vec().into_iter().filter_map(|(key, _, _, value)| {
            let key = key.key();
            let name = key.name().strip_prefix("switchboard.selector.")?;
            let labels: Vec<&str> = key.labels().map(metrics::Label::value).collect();
            Some((format!("{name} {}", labels.join(" ")), value))
        });
        all.map(metric).filter(|(_, told)| says(told)).collect()
    }
}

/// Runs with a recorder of its own, on tokio's paused clock.
fn recorded<F: Future<Output = ()>>(scene: impl FnOnce(Heard) -> F) {
    let recorder = DebuggingRecorder::new();
    let heard = Heard(recorder.snapshotter(), BTreeMap::new());
    metrics::with_local_recorder(&recorder, || {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap().block_on(scene(heard));
    });
}

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

fn expected<const N: usize>(expected: [(&str, Told); N]) -> All {
    expected.into_iter().map(|(name, told)| (name.to_owned(), told)).collect()
}

#[test]
fn picks_verdicts_times_ejections_and_returns_are_told() {
    recorded(async |mut heard| {
        let selector =
            Selector::builder(Directory::new(registry().await)).strategy(RoundRobin).build();
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
    recorded(async |mut heard| {
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
        let half = [("instances web passing", Told::Level(2.0)), ("instances web critical", Told::Level(2.0))];
        assert_eq!(heard.all(), expected(half));

        drop((first, second, balancers));
        // Longer than they are kept for those who may ask again.
        sleep(Duration::from_secs(200)).await;
        assert_eq!(heard.all(), expected([]));
    });
}

#[test]
fn picks_that_find_nobody_are_told_by_why() {
    recorded(async |mut heard| {
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
