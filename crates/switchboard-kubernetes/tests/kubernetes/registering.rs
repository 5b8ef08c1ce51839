//! Slices of our own, beyond what the conformance suite asks.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use switchboard_core::{Instance, RegisterOptions, Registry, ServiceName};
use switchboard_kubernetes::Registration;

use crate::support::Space;

fn stock(id: &str, address: &str) -> Instance {
    Instance::builder("stock").id(id).address(address).build().unwrap()
}

fn options() -> RegisterOptions {
    RegisterOptions::new().ttl(Duration::from_secs(600))
}

async fn names(slices: &Api<EndpointSlice>) -> Vec<String> {
    let found = slices.list(&ListParams::default()).await.unwrap();
    found.items.into_iter().filter_map(|slice| slice.metadata.name).collect()
}

/// However calls for one instance meet, what is there when a handle is closed is deregistered.
#[tokio::test]
#[ignore = "needs kubernetes"]
async fn closing_leaves_nothing_however_calls_have_met() {
    let space = Space::new().await;
    let slices = space.slices().await;
    for round in 0..5 {
        let registry = space.builder().registration(Registration::Slice).open().unwrap();
        let instance = stock("a", "10.9.0.1:80");
        registry.register(&instance, &options()).await.unwrap();
        let calls = (0..6).map(|call| {
            let (registry, instance) = (&registry, &instance);
            async move {
                if call % 2 == 0 {
                    registry.deregister(&instance.key()).await
                } else {
                    registry.register(instance, &options()).await
                }
            }
        });
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        registry.close().await.unwrap();
        assert_eq!(names(&slices).await, Vec::<String>::new(), "round {round}");
    }
}

/// One instance has one slice, whatever its service is called from where, and whatever kind of address it has.
#[tokio::test]
#[ignore = "needs kubernetes"]
async fn an_instance_has_one_slice() {
    let space = Space::new().await;
    let slices = space.slices().await;
    let registry = space.builder().registration(Registration::Slice).open().unwrap();
    registry.register(&stock("a", "10.9.0.1:80"), &options()).await.unwrap();
    registry.register(&stock("a", "[2001:db8::9]:80"), &options()).await.unwrap();
    assert_eq!(names(&slices).await.len(), 1);
    let elsewhere = Space::new().await.builder().registration(Registration::Slice).open().unwrap();
    let whole = ServiceName::new(format!("stock.{}", space.name)).unwrap();
    let same = Instance::builder(&whole).id("a").address("10.9.0.2:80").build().unwrap();
    elsewhere.register(&same, &options()).await.unwrap();
    assert_eq!(names(&slices).await.len(), 1);
    let found = registry.lookup(&ServiceName::new("stock").unwrap()).await.unwrap();
    assert_eq!(found.all()[0].address().to_string(), "10.9.0.2:80");
    registry.deregister(&stock("a", "10.9.0.1:80").key()).await.unwrap();
    assert!(elsewhere.lookup(&whole).await.unwrap().is_empty());
}

/// What a killed process left goes with the next that registers there, long after it has lapsed.
#[tokio::test]
#[ignore = "needs kubernetes"]
async fn what_has_lapsed_long_ago_is_swept() {
    let space = Space::new().await;
    let slices = space.slices().await;
    let killed = space.builder().registration(Registration::Slice).open().unwrap();
    for id in ["old", "young"] {
        killed.register(&stock(id, "10.9.0.1:80"), &options()).await.unwrap();
    }
    let now = k8s_openapi::jiff::Timestamp::now();
    for slice in slices.list(&ListParams::default()).await.unwrap().items {
        let annotations = slice.metadata.annotations.unwrap();
        let ago = if annotations["switchboard/instance"].contains("old") { 1200 } else { 60 };
        let lapsed = now - k8s_openapi::jiff::SignedDuration::from_secs(ago);
        let patch = serde_json::json!({ "metadata": { "annotations": { "switchboard/lapses": lapsed.to_string() } } });
        let name = slice.metadata.name.unwrap();
        slices.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }
    let next = space.builder().registration(Registration::Slice).open().unwrap();
    next.register(&stock("new", "10.9.0.2:80"), &options()).await.unwrap();
    assert_eq!(next.lookup(&ServiceName::new("stock").unwrap()).await.unwrap().len(), 1);
    assert_eq!(names(&slices).await.len(), 2, "the young one may be the work of a clock that is wrong");
}
