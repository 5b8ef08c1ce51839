//! Every thread has an owner. One test in a binary of its own, because it counts the threads of the process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures::StreamExt;
use switchboard_core::{Registry, ServiceName};
use switchboard_mdns::MdnsRegistry;

/// The threads of this process that belong to mDNS.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.to_lowercase().starts_with("mdns")).collect()
}

async fn until_threads(count: usize) {
    let reached = async {
        while threads().len() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = tokio::time::timeout(Duration::from_secs(10), reached).await;
    assert!(limit.is_ok(), "expected {count} threads, there are {:?}", threads());
}

#[tokio::test]
async fn threads_end_with_their_owner() {
    let port = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let open = || MdnsRegistry::builder().interface("lo").port(port).open();
    let http = ServiceName::new("_http._tcp").unwrap();

    let registry = open().await.unwrap();
    until_threads(2).await;
    let mut watch = registry.watch(&http);
    assert!(watch.next().await.unwrap().unwrap().is_empty());
    let mut again = registry.watch(&http);
    assert!(again.next().await.unwrap().unwrap().is_empty());
    until_threads(3).await;
    registry.close().await.unwrap();
    drop((watch, again));
    until_threads(0).await;

    let registry = open().await.unwrap();
    until_threads(2).await;
    drop(registry);
    until_threads(0).await;

    // A stream outlives its registry only as far as the end it is told.
    let registry = open().await.unwrap();
    let mut watch = registry.watch(&ServiceName::new("greeter").unwrap());
    assert!(watch.next().await.unwrap().unwrap().is_empty());
    drop(registry);
    assert!(watch.next().await.unwrap().is_err());
    assert!(watch.next().await.is_none());
    until_threads(0).await;
}
