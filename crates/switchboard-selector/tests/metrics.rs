//! What is counted, with the feature `metrics`.

#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

use std::collections::BTreeMap;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
use switchboard_selector::{FailureKind, RoundRobin, Selector};
use switchboard_watcher::Directory;
use tokio::time::sleep;

/// Makes two instances, of which one fails until it is ejected, then both, and then none.
async fn calls() {
    let registry = MemoryRegistry::new();
    for id in ["a", "b"] {
        let instance = Instance::builder("web").id(id).address("127.0.0.1:80").build().unwrap();
        registry.register(&instance, &RegisterOptions::new()).await.unwrap();
    }
    let selector = Selector::builder(Directory::new(registry)).strategy(RoundRobin).build();
    let balancer = selector.service("web").unwrap();
    balancer.ready().await.unwrap();
    for kind in [FailureKind::Timeout, FailureKind::Connection] {
        for _ in 0..10 {
            let pick = balancer.pick().unwrap();
            let fails = pick.id().as_str() == "a";
            pick.finish(if fails { Err(kind) } else { Ok(()) });
            sleep(Duration::from_millis(1)).await;
        }
    }
    balancer.pick().unwrap().failure(FailureKind::Response);
    // Longer than the first ejection lasts.
    sleep(Duration::from_secs(60)).await;
}

#[test]
fn verdicts_ejections_and_returns_are_counted() {
    let recorder = DebuggingRecorder::new();
    let counted = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap().block_on(calls());
    });
    let counted: BTreeMap<String, u64> = counted
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, _, value)| {
            let key = key.key();
            let labels: Vec<&str> = key.labels().map(metrics::Label::value).collect();
            let DebugValue::Counter(count) = value else { panic!("{key} is no counter") };
            (format!("{} {}", key.name(), labels.join(" ")), count)
        })
        .collect();
    let expected = [
        // Every second of ten calls, and then "a" is out.
        ("switchboard_calls_total web timeout", 5),
        ("switchboard_calls_total web abandoned", 0),
        ("switchboard_calls_total web connection", 0),
        ("switchboard_calls_total web response", 1),
        ("switchboard_calls_total web success", 15),
        ("switchboard_ejections_total web", 1),
        ("switchboard_returns_total web", 1),
        ("switchboard_panics_total web", 0),
    ];
    assert_eq!(counted, expected.map(|(name, count)| (name.to_owned(), count)).into());
}
