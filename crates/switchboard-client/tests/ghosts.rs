//! Servers that are gone and still listed, as after a `kill -9` until their TTL has lapsed.

#![cfg(all(feature = "reqwest", feature = "tonic"))]
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::time::Duration;

use reqwest_middleware::ClientWithMiddleware;
use support::health::{self, check};
use support::servers::breaking;
use support::{http_server, instance, nowhere, register, until};
use switchboard_client::Retry;
use switchboard_client::reqwest::Discovery;
use switchboard_client::tonic::Channel;
use switchboard_core::MemoryRegistry;
use switchboard_selector::Selector;
use switchboard_watcher::Directory;

/// Between calls: so many of them last for longer than the dead are left alone.
const PACE: Duration = Duration::from_millis(5);

/// Both adapters on one selector with its defaults, and no retry that costs budget.
fn clients(registry: &MemoryRegistry) -> (ClientWithMiddleware, Channel) {
    let selector = Selector::new(Directory::new(registry.handle()));
    let retry = Retry::new().budget(0.0, 0);
    let channel = Channel::builder(selector.service("health").unwrap()).retry(retry.clone()).build();
    (Discovery::new(selector).retry(retry).client().unwrap(), channel)
}

/// How many of so many calls by HTTP and by gRPC fail, none of which may be sent twice.
async fn call(clients: &(ClientWithMiddleware, Channel), calls: usize) -> (usize, usize) {
    let (http, channel) = clients;
    let mut failed = (0, 0);
    for _ in 0..calls {
        failed.0 += usize::from(http.post("http://hello/").body("once").send().await.is_err());
        failed.1 += usize::from(check(channel, "one").await.is_err());
        tokio::time::sleep(PACE).await;
    }
    failed
}

/// Two servers that do what the addresses say, and two that work and come later.
async fn replaced(registry: &MemoryRegistry, clients: &(ClientWithMiddleware, Channel), gone: [String; 2]) {
    for (id, address) in ["1", "2"].iter().zip(&gone) {
        register(registry, &instance("hello", id, address)).await;
        register(registry, &instance("health", id, address)).await;
    }
    assert_eq!(call(clients, 50).await, (50, 50), "nobody else is there");
    for id in ["3", "4"] {
        register(registry, &instance("hello", id, &http_server::server("live").await.address)).await;
        register(registry, &instance("health", id, &health::server("one").await.address)).await;
    }
    let balancer = clients.1.balancer();
    until("the new ones to be known", || balancer.report().len() == 4).await;
}

#[tokio::test]
async fn what_refuses_connections_costs_no_call_once_there_are_others() {
    let registry = MemoryRegistry::new();
    let clients = clients(&registry);
    replaced(&registry, &clients, [nowhere().await, nowhere().await]).await;
    assert_eq!(call(&clients, 500).await, (0, 0));
}

#[tokio::test]
async fn what_breaks_each_connection_costs_few_calls_though_one_may_be_ejected() {
    let registry = MemoryRegistry::new();
    let clients = clients(&registry);
    replaced(&registry, &clients, [breaking().await, breaking().await]).await;
    let failed = call(&clients, 500).await;
    // One call for each try: after 1, 2, 4, 8, 16 and 30 s.
    assert!(failed.0 < 30 && failed.1 < 30, "{failed:?}");
}
