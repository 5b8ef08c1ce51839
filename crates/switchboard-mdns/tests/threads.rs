//! Every thread has an owner. One test in a binary of its own, because it counts the threads of the process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures::StreamExt;
use switchboard_core::{ErrorKind, NamesStream, Registry, Result, ServiceName, SnapshotStream};
use switchboard_mdns::MdnsRegistry;

const LIMIT: Duration = Duration::from_secs(20);

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
    let limit = tokio::time::timeout(LIMIT, reached).await;
    assert!(limit.is_ok(), "expected {count} threads, there are {:?}", threads());
}

#[tokio::test]
async fn threads_end_with_their_owner() {
    let port = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let open = || MdnsRegistry::builder().interface("lo").port(port).open();
    let (http, greeter) = (ServiceName::new("_http._tcp").unwrap(), ServiceName::new("greeter").unwrap());

    // A plain type has a thread for as long as somebody watches it or looks it up, and no longer.
    let registry = open().await.unwrap();
    until_threads(2).await;
    let mut watch = registry.watch(&http);
    assert!(watch.next().await.unwrap().unwrap().is_empty());
    let mut again = registry.watch(&http);
    assert!(again.next().await.unwrap().unwrap().is_empty());
    until_threads(3).await;
    drop(watch);
    assert!(registry.lookup(&http).await.unwrap().is_empty());
    until_threads(3).await;
    drop(again);
    until_threads(2).await;
    assert!(registry.lookup(&http).await.unwrap().is_empty());
    until_threads(2).await;

    // Whoever still holds a stream is told the end, once, whatever it is of.
    let held = || (registry.watch(&http), registry.watch(&greeter), registry.watch_services());
    let closed = held();
    until_threads(3).await;
    registry.close().await.unwrap();
    until_threads(0).await;
    ended(closed).await;
    ended(held()).await;
    drop(registry);

    let registry = open().await.unwrap();
    until_threads(2).await;
    drop(registry);
    until_threads(0).await;

    // A stream outlives its registry only as far as the end it is told: one that was read, and one that was not.
    let registry = open().await.unwrap();
    let held = || (registry.watch(&http), registry.watch(&greeter), registry.watch_services());
    let (mut read, unread) = (held(), held());
    assert!(read.0.next().await.unwrap().unwrap().is_empty());
    assert!(read.1.next().await.unwrap().unwrap().is_empty());
    assert!(read.2.next().await.unwrap().unwrap().is_empty());
    until_threads(3).await;
    drop(registry);
    ended(read).await;
    ended(unread).await;
    until_threads(0).await;
}

/// Each stream tells that the registry was closed, once, and ends.
async fn ended((mut plain, mut own, mut names): (SnapshotStream, SnapshotStream, NamesStream)) {
    let told = async {
        let told = [plain.next().await.map(drop_state), own.next().await.map(drop_state)];
        for item in told.into_iter().chain([names.next().await.map(drop_state)]) {
            assert_eq!(item.unwrap().unwrap_err().kind(), ErrorKind::Closed);
        }
        assert!(plain.next().await.is_none() && own.next().await.is_none() && names.next().await.is_none());
    };
    tokio::time::timeout(LIMIT, told).await.expect("an end is told");
}

fn drop_state<T>(item: Result<T>) -> Result<()> {
    item.map(drop)
}
