//! Flaws in what watches tell.

use std::sync::{Arc, Mutex};

use futures::stream::{BoxStream, StreamExt, once, pending, repeat, select};
use switchboard_conformance::async_trait;
use switchboard_core::{
    Instance, MemoryRegistry, NamesStream, RegisterOptions, Registry, Result, ServiceName, Snapshot,
    SnapshotStream,
};
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;

use crate::broken::Flaw;
use crate::{Mutant, mutant};

pub(crate) fn mutants() -> Vec<Mutant> {
    vec![
        mutant("is silent while there is nothing", &["watch::first_item_comes_even_when_empty"], || {
            || SilentWhenEmpty
        }),
        mutant("always begins with nothing", &["watch::first_item_is_the_current_state"], || || BeginsEmpty),
        mutant("begins with no names", &["services::first_item_is_the_current_set"], || || NamesBeginEmpty),
        mutant(
            "repeats equal items",
            &["update::a_renewal_is_silent", "services::equal_sets_are_not_repeated"],
            || || Repeats,
        ),
        mutant("ends by itself", &["watch::its_own_handles_changes_are_seen"], || || Ends),
        mutant("tells of other services", &["watch::another_services_changes_are_silent"], || {
            || TellsOfOthers
        }),
        mutant(
            "serves the latest watch of a handle",
            &["watch::two_watchers_see_everything", "watch::dropping_one_watch_leaves_the_other"],
            || LatestOnly::default,
        ),
        mutant("stops all watches with one", &["watch::dropping_one_watch_leaves_the_other"], || {
            StopsAll::default
        }),
        mutant(
            "loses what a full queue cannot hold",
            &["watch::a_slow_watcher_ends_on_the_last_state"],
            || || SmallQueue,
        ),
        mutant("tells an old state again", &["watch::a_slow_watcher_ends_on_the_last_state"], || || TellsOld),
        mutant(
            "leaves a task behind each watch",
            &["watch::a_dropped_watch_leaves_no_task", "services::a_dropped_watch_leaves_no_task"],
            || || Leaks,
        ),
    ]
}

struct SilentWhenEmpty;

impl Flaw for SilentWhenEmpty {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        let something = |item: &Result<Snapshot>| !item.as_ref().is_ok_and(Snapshot::is_empty);
        inner.watch(service).skip_while(move |item| std::future::ready(!something(item))).boxed()
    }
}

struct BeginsEmpty;

impl Flaw for BeginsEmpty {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        let nothing = Snapshot::empty(service.clone());
        once(async { Ok(nothing) }).chain(inner.watch(service)).boxed()
    }
}

struct NamesBeginEmpty;

impl Flaw for NamesBeginEmpty {
    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        once(async { Ok(std::collections::BTreeSet::new()) }).chain(inner.watch_services()).boxed()
    }
}

struct Repeats;

impl Flaw for Repeats {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        inner.watch(service).flat_map(|item| repeat(item).take(2)).boxed()
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        inner.watch_services().flat_map(|item| repeat(item).take(2)).boxed()
    }
}

struct Ends;

impl Flaw for Ends {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        inner.watch(service).take(2).boxed()
    }
}

/// Wakes its readers whenever any name comes or goes.
struct TellsOfOthers;

impl Flaw for TellsOfOthers {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        let (handle, service) = (Arc::new(inner.handle()), service.clone());
        let woken = inner.watch_services().skip(1).then({
            let service = service.clone();
            move |_| {
                let (handle, service) = (handle.clone(), service.clone());
                async move { handle.lookup(&service).await }
            }
        });
        select(inner.watch(&service), woken).boxed()
    }
}

/// `stream` until `stop` changes, and then silence.
fn until_changed<T: Send + 'static>(
    stream: BoxStream<'static, T>,
    mut stop: watch::Receiver<u32>,
) -> BoxStream<'static, T> {
    stop.mark_unchanged();
    let stopped = async move { stop.changed().await.is_ok() };
    stream.take_until(Box::pin(stopped)).chain(pending()).boxed()
}

#[derive(Default)]
struct LatestOnly(watch::Sender<u32>);

impl Flaw for LatestOnly {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        self.0.send_modify(|watches| *watches += 1);
        until_changed(inner.watch(service), self.0.subscribe())
    }
}

#[derive(Default)]
struct StopsAll(Arc<watch::Sender<u32>>);

impl Flaw for StopsAll {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        struct OnDrop(Arc<watch::Sender<u32>>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.send_modify(|drops| *drops += 1);
            }
        }
        let guard = OnDrop(self.0.clone());
        let held = inner.watch(service).map(move |item| {
            let _ = &guard;
            item
        });
        until_changed(held.boxed(), self.0.subscribe())
    }
}

/// Hands items over through a queue of four, and throws away what does not fit.
struct SmallQueue;

#[async_trait]
impl Flaw for SmallQueue {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        inner.register(it, options).await?;
        yield_now().await;
        Ok(())
    }

    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        let (sender, mut receiver) = mpsc::channel(4);
        let mut items = inner.watch(service);
        tokio::spawn(async move {
            while let Some(item) = items.next().await {
                let _ = sender.try_send(item);
            }
        });
        futures::stream::poll_fn(move |context| receiver.poll_recv(context)).boxed()
    }
}

/// After each item, tells the one before it and then the item again.
struct TellsOld;

impl Flaw for TellsOld {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        let before = Mutex::new(None::<Result<Snapshot>>);
        let told = inner.watch(service).flat_map(move |item| {
            let old = before.lock().expect("no panic").replace(item.clone());
            let again = old.map(|old| vec![item.clone(), old, item.clone()]);
            futures::stream::iter(again.unwrap_or_else(|| vec![item]))
        });
        told.boxed()
    }
}

struct Leaks;

impl Flaw for Leaks {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        tokio::spawn(std::future::pending::<()>());
        inner.watch(service)
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        tokio::spawn(std::future::pending::<()>());
        inner.watch_services()
    }
}
