//! What the tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

use std::time::Duration;

use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
use switchboard_selector::{Balancer, RoundRobin, Selector};
use switchboard_watcher::Directory;

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn instance(service: &str, id: &str, address: &str) -> Instance {
    Instance::builder(service).id(id).address(address).build().unwrap()
}

pub(crate) async fn register(registry: &MemoryRegistry, instance: &Instance) {
    registry.register(instance, &RegisterOptions::new()).await.unwrap();
}

/// Picks in turn, without slow start, so that tests know who is next.
pub(crate) fn selector(registry: &MemoryRegistry) -> Selector {
    let directory = Directory::new(registry.handle());
    Selector::builder(directory).strategy(RoundRobin).without_slow_start().build()
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, reached).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// Calls in flight and failures in a row, by instance in order of id.
pub(crate) fn standing(balancer: &Balancer) -> Vec<(u32, u32)> {
    balancer.report().iter().map(|report| (report.in_flight, report.consecutive_failures)).collect()
}

/// An address where nobody listens.
pub(crate) async fn nowhere() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}
