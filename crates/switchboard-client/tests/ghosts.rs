//! Servers that are gone and still listed, as after a `kill -9` until their TTL has lapsed.

#![cfg(all(feature = "reqwest", feature = "tonic"))]
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::time::Duration;

use reqwest_middleware::ClientWithMiddleware;
use support::health::{self, check};
use support::servers::{breaking, hanging};
use support::{http_server, instance, nowhere, register, until};
use switchboard_client::Retry;
use switchboard_client::reqwest::Discovery;
use switchboard_client::tonic::Channel;
use switchboard_core::MemoryRegistry;
use switchboard_selector::{Selector, Standing};
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

/// Registers so many that are gone, and two that answer.
async fn mostly_gone(registry: &MemoryRegistry, gone: usize) {
    for id in 0..gone {
        register(registry, &instance("hello", &format!("gone-{id}"), &nowhere().await)).await;
        register(registry, &instance("health", &format!("gone-{id}"), &nowhere().await)).await;
    }
    for id in ["3", "4"] {
        register(registry, &instance("hello", id, &http_server::server("live").await.address)).await;
        register(registry, &instance("health", id, &health::server("one").await.address)).await;
    }
}

#[tokio::test]
async fn the_first_call_of_a_new_client_goes_on_until_one_answers() {
    let registry = MemoryRegistry::new();
    mostly_gone(&registry, 6).await;
    for _ in 0..30 {
        assert_eq!(call(&clients(&registry), 1).await, (0, 0));
    }
}

#[tokio::test]
async fn many_that_are_gone_cost_no_call_when_they_are_tried_again() {
    let registry = MemoryRegistry::new();
    let clients = clients(&registry);
    mostly_gone(&registry, 10).await;
    // For longer than they are left alone for twice.
    assert_eq!(call(&clients, 700).await, (0, 0));
}

/// One of two has hung: what may be sent twice finds an instance while it tries how the other is.
#[tokio::test]
async fn what_finds_out_that_an_instance_still_hangs_is_answered_by_another() {
    let registry = MemoryRegistry::new();
    register(&registry, &instance("hello", "live", &http_server::server("live").await.address)).await;
    let selector = Selector::new(Directory::new(registry.handle()));
    let balancer = selector.service("hello").unwrap();
    let client = Discovery::new(selector).client().unwrap();
    let get = async || client.get("http://hello/").timeout(Duration::from_secs(2)).send().await;
    let is_out = || balancer.report().iter().any(|one| !one.standing.is_in_use());
    // How long calls take is known.
    get().await.unwrap();
    register(&registry, &instance("hello", "hung", &hanging().await)).await;
    let mut failed = 0;
    while !is_out() {
        failed += usize::from(get().await.is_err());
    }
    assert_eq!(failed, 1, "one call is enough to know");
    until("it is to be tried", || balancer.report().iter().any(|one| one.standing == Standing::OnTrial))
        .await;
    while !is_out() {
        get().await.unwrap();
    }
}
