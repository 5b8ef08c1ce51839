//! Waiting for so many instances.

#![allow(clippy::unwrap_used)] // in helpers of tests too

use std::time::Duration;

use switchboard_core::{Error, ErrorKind, Health, Instance, MemoryRegistry, RegisterOptions, Registry};
use switchboard_selector::{FailureKind, Filter, OutlierDetection, Selector};
use switchboard_watcher::Directory;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(5);

fn instance(id: &str) -> Instance {
    Instance::builder("greeter").id(id).address("127.0.0.1:1").tag(id).build().unwrap()
}

async fn register(registry: &MemoryRegistry, id: &str) {
    registry.register(&instance(id), &RegisterOptions::new()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_returns_with_the_last_that_was_wanted() {
    let registry = MemoryRegistry::new();
    let balancer = Selector::new(Directory::new(registry.handle())).service("greeter").unwrap();
    balancer.wait_for(0, LIMIT).await.unwrap();
    let register = async {
        register(&registry, "a").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        register(&registry, "b").await;
    };
    let start = Instant::now();
    let (waited, ()) = tokio::join!(balancer.wait_for(2, Duration::MAX), register);
    waited.unwrap();
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_instance_counts_when_it_can_be_picked() {
    let registry = MemoryRegistry::new();
    for id in ["a", "b", "c"] {
        register(&registry, id).await;
    }
    registry.set_health(&instance("a").key(), Health::Critical);
    let selector = Selector::builder(Directory::new(registry.handle())).filter(Filter::tag("c")).build();
    let balancer = selector.service("greeter").unwrap();
    balancer.wait_for(1, LIMIT).await.unwrap();
    let error = balancer.wait_for(3, LIMIT).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "selector: wait_for: unavailable: 1 of 3 instances of service \"greeter\" are in use after 5s; a is not used: \
         critical; b is left out by the filter \"tag c\"; `switchboard doctor` tells what the registry has"
    );
}

#[tokio::test(start_paused = true)]
async fn an_ejected_one_counts_again_when_it_returns() {
    let registry = MemoryRegistry::new();
    for id in ["a", "b", "c"] {
        register(&registry, id).await;
    }
    let detection = OutlierDetection::default().ejection_time(Duration::from_secs(3), Duration::from_secs(3));
    let selector = Selector::builder(Directory::new(registry.handle())).outlier_detection(detection).build();
    let balancer = selector.service("greeter").unwrap();
    balancer.wait_for(3, LIMIT).await.unwrap();
    for _ in 0..5 {
        balancer.mark(instance("a").id(), Err(FailureKind::Response));
    }
    let start = Instant::now();
    balancer.wait_for(3, LIMIT).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_not_heard_is_named_and_one_that_is_closed_ends_it() {
    let registry = MemoryRegistry::new();
    let cut = registry.handle();
    cut.fail(Error::new(ErrorKind::Unavailable, "memory", "outage", "no route"));
    let directory = Directory::new(cut);
    let balancer = Selector::new(directory.clone()).service("greeter").unwrap();
    let error = balancer.wait_for(1, LIMIT).await.unwrap_err();
    assert_eq!(
        error.message(),
        "0 of 1 instances of service \"greeter\" are in use after 5s; the registry: stale for 5 s: memory: outage: \
         unavailable: no route; `switchboard doctor` tells what the registry has"
    );
    let (error, ()) = tokio::join!(balancer.wait_for(1, Duration::MAX), async { directory.close() });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Closed);
}
