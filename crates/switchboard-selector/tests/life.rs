//! How long balancers and their tasks live, and what becomes of them when a runtime ends.

#![allow(clippy::unwrap_used)] // in helpers of tests too

#[path = "../../switchboard-watcher/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use support::{Scripted, settle, snapshot};
use switchboard_core::ErrorKind;
use switchboard_selector::{FailureKind, OutlierDetection, PickError, Selector, SlowStart};
use switchboard_watcher::Directory;
use tokio::runtime::{Builder, Handle};
use tokio::time::{advance, sleep};

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

fn scripted() -> (Selector, Scripted) {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &["1"])));
    (Selector::new(Directory::new(registry.clone())), registry)
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_balancer_ends_its_task() {
    let before = tasks();
    let (selector, registry) = scripted();
    let pick = selector.select("a").await.unwrap();
    assert_eq!(tasks(), before + 3, "of the view, the balancer, and the selector");
    drop(selector);
    settle().await;
    assert_eq!(tasks(), before + 1, "a pick still knows its directory, which lingers");
    drop(pick);
    settle().await;
    assert_eq!((tasks(), registry.listeners()), (before, 0));
}

#[tokio::test(start_paused = true)]
async fn a_balancer_that_nobody_asks_for_lingers_and_goes() {
    let before = tasks();
    let (selector, registry) = scripted();
    for _ in 0..5 {
        drop(selector.select("a").await.unwrap());
        sleep(Duration::from_secs(50)).await;
        assert_eq!(registry.watches(), 1, "asked for within a minute, it is the same one");
    }
    // It lingers, and then its view does.
    sleep(Duration::from_secs(200)).await;
    assert_eq!((tasks(), registry.listeners()), (before, 0));

    let held = selector.service("a").unwrap();
    held.ready().await.unwrap();
    sleep(Duration::from_secs(600)).await;
    drop(held.pick().unwrap());
    assert_eq!(registry.listeners(), 1, "one that is held stays");
    drop(held);
    sleep(Duration::from_secs(200)).await;
    assert_eq!((tasks(), registry.listeners()), (before, 0));
}

#[test]
fn a_selector_outlives_its_runtime() {
    let (selector, registry) = scripted();
    let runtime = || Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime();
    let held = first.block_on(async {
        let held = selector.service("a").unwrap();
        held.ready().await.unwrap();
        held
    });
    first.shutdown_timeout(Duration::from_secs(30));
    registry.say(Ok(snapshot("a", &["2"])));

    let error = Selector::new(Directory::new(registry.clone())).service("a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(held.pick().unwrap().id().as_str(), "1", "what was known last");
    let second = runtime();
    second.block_on(async {
        for _ in 0..3 {
            assert_eq!(selector.select("a").await.unwrap().id().as_str(), "2");
        }
    });
    assert_eq!(registry.listeners(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_closed_directory_gives_no_balancer() {
    let (selector, _registry) = scripted();
    drop(selector.select("a").await.unwrap());
    selector.directory().close();
    settle().await;
    let Err(PickError::Registry(error)) = selector.select("a").await else { panic!("it is closed") };
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn times_of_any_length_do_no_harm() {
    let detection = OutlierDetection::new()
        .interval(Duration::MAX)
        .ejection_time(Duration::MAX, Duration::MAX)
        .max_ejected(1.0);
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &["1", "2"])));
    let directory = Directory::builder(registry.clone()).linger(Duration::MAX).build();
    let selector = Selector::builder(directory)
        .outlier_detection(detection)
        .slow_start(SlowStart::over(Duration::MAX))
        .latency_decay(Duration::MAX)
        .build();
    let balancer = selector.service("a").unwrap();
    balancer.ready().await.unwrap();
    for _ in 0..40 {
        let pick = balancer.pick().unwrap();
        advance(Duration::from_millis(1)).await;
        if pick.id().as_str() == "1" {
            pick.failure(FailureKind::Timeout);
        } else {
            pick.success();
        }
        settle().await;
    }
    assert!(!balancer.report()[0].standing.is_in_use());
    sleep(Duration::from_secs(10)).await;
    registry.say(Ok(snapshot("a", &["1", "2", "3"])));
    settle().await;
    assert_eq!(balancer.report().len(), 3, "its task lives");
    assert!(balancer.report()[2].share < 0.11);
}
