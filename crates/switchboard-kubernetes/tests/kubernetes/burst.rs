//! A service of many pods, whose slices are written anew in one burst.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use switchboard_core::{Registry, Snapshot};
use tokio::time::timeout;

use crate::reading::{LONG, READY, orders};
use crate::support::{Space, endpoint, port, slice};

const SLICES: usize = 25;
const EACH: usize = 100;

/// A slice with these pods.
fn of(index: usize, pods: impl Iterator<Item = usize>) -> EndpointSlice {
    let endpoints = pods.map(|pod| {
        let address = format!("10.2.{}.{}", pod / 250, pod % 250 + 1);
        endpoint(&format!("p{pod}"), &address, READY)
    });
    slice(&format!("orders-{index}"), "orders", vec![port("http", 80)], endpoints.collect())
}

fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs kubernetes"]
async fn half_of_2500_endpoints_move_and_none_is_missed() {
    let space = Space::new().await;
    join_all((0..SLICES).map(|index| {
        let slice = of(index, index * EACH..(index + 1) * EACH);
        let space = &space;
        async move { space.put(&slice).await }
    }))
    .await;
    // However slow the machine writes.
    let registry = space.builder().settle(Duration::from_secs(5)).open().unwrap();
    let before = memory();
    let begun = Instant::now();
    let mut watch = registry.watch(&orders());
    let first: Snapshot = timeout(LONG, watch.next()).await.unwrap().unwrap().unwrap();
    println!(
        "first snapshot: {} instances in {:?}, {} KiB more",
        first.len(),
        begun.elapsed(),
        memory().saturating_sub(before)
    );
    assert_eq!(first.len(), SLICES * EACH, "the first is whole");
    // The pods of 13 slices move each to the next of them, one slice written after the other; 50 are new, and 50 go.
    let moved = 13;
    let rewriting = async {
        for index in 0..moved {
            let from = (index + 1) % moved;
            let gone = if from == 0 { 50 } else { 0 };
            let new = if from == 0 { SLICES * EACH..SLICES * EACH + 50 } else { 0..0 };
            space.put(&of(index, (from * EACH + gone..(from + 1) * EACH).chain(new))).await;
        }
        Instant::now()
    };
    let reading = async {
        let (mut told, mut last) = (0, first.clone());
        while last.len() != SLICES * EACH || last == first {
            last = timeout(LONG, watch.next()).await.unwrap().unwrap().unwrap();
            told += 1;
            assert!(last.len() >= SLICES * EACH, "{} in between", last.len());
        }
        (told, last, Instant::now())
    };
    let (written, (told, last, heard)) = tokio::join!(rewriting, reading);
    println!(
        "rewritten: told {told} times, the last {:?} after the last write (settle 5 s), {} KiB more in all",
        heard.saturating_duration_since(written),
        memory().saturating_sub(before)
    );
    let expected: BTreeSet<String> = (50..SLICES * EACH + 50).map(|pod| format!("uid-of-p{pod}")).collect();
    let found: BTreeSet<String> = last.all().iter().map(|instance| instance.id().to_string()).collect();
    assert_eq!(found, expected);
    registry.close().await.unwrap();
}
