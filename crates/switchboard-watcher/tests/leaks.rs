//! Watching and dropping names for a long time leaves nothing behind.

#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use futures::StreamExt;
use support::{instance, settle};
use switchboard_core::{MemoryRegistry, Registry};
use switchboard_watcher::{Cached, Directory};
use tokio::runtime::{Builder, Handle};

const CYCLES: usize = 10_000;

async fn cycle(directory: &Directory, cached: &Cached<Arc<MemoryRegistry>>, index: usize) {
    let name = support::name(&format!("name-{}", index % 100));
    let view = directory.service(&name).unwrap();
    let mut changes = Box::pin(view.clone().changes());
    view.ready().await.unwrap();
    let _ = futures::poll!(changes.next());
    directory.suspect(&instance("name-1", "1").key());
    drop((view, changes));
    let mut watch = cached.watch(&name);
    watch.next().await.unwrap().unwrap();
    cached.lookup(&name).await.unwrap();
    drop(watch);
    // Half of the names come back while they linger, half do not.
    let wait = if index % 2 == 0 { 1 } else { 100 };
    tokio::time::advance(Duration::from_millis(wait)).await;
    settle().await;
}

#[test]
fn ten_thousand_cycles_leave_no_task_and_no_memory() {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let registry = Arc::new(MemoryRegistry::new());
    let linger = Duration::from_millis(50);
    let directory = Directory::builder(registry.clone()).linger(linger).build();
    let cached = Cached::with(registry.clone(), |builder| builder.linger(linger));
    let run = |cycles: usize| {
        runtime.block_on(async {
            for index in 0..cycles {
                cycle(&directory, &cached, index).await;
            }
            tokio::time::advance(Duration::from_secs(60)).await;
            settle().await;
            Handle::current().metrics().num_alive_tasks()
        })
    };
    // The first rounds fill what is kept for use again: tables, queues, thread locals.
    run(1_000);
    let mut tasks = 0;
    let memory = measure(|| tasks = run(CYCLES));
    assert_eq!((directory.watched(), cached.directory().watched()), (0, 0));
    assert_eq!(tasks, 1, "only the one that brings hints");
    assert!(memory.count_total > 100_000, "it did work");
    assert!(memory.bytes_current.abs() < 4_096, "{memory:?}");
}
