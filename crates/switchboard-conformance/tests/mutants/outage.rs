//! Flaws of registries that cannot be heard.

use std::collections::BTreeSet;

use futures::stream::{BoxStream, StreamExt};
use switchboard_conformance::async_trait;
use switchboard_core::{
    MemoryRegistry, NamesStream, Registry, Result, ServiceName, Snapshot, SnapshotStream,
};

use crate::broken::Flaw;
use crate::{Mutant, mutant};

const SAME: &str = "outage::a_watch_tells_the_same_again_after_an_error";
const NAMES: &str = "outage::a_watch_of_names_tells_the_same_again_after_an_error";
const CHANGED: &str = "outage::what_changed_meanwhile_is_told";
const LOOKUP: &str = "outage::a_lookup_never_loses_what_is_there";

pub(crate) fn mutants() -> Vec<Mutant> {
    vec![
        mutant("forgets to tell an equal state after an error", &[SAME, NAMES], || || Forgets),
        mutant("keeps outages to itself", &[SAME, NAMES, CHANGED], || || Hushes),
        mutant("tells of nothing in an outage", &[CHANGED], || || Empties),
        mutant("finds nothing in an outage", &[LOOKUP], || || Empties),
        mutant("is silent after an error", &[SAME, NAMES, CHANGED], || || FallsSilent),
    ]
}

/// Tells only what differs from what it told last, whatever error came between.
struct Forgets;

fn news<T: Clone + PartialEq + Send + 'static>(
    stream: BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    let mut last = None;
    let news = move |item: &Result<T>| {
        let now = item.as_ref().ok();
        let same = now.is_some() && last.as_ref() == now;
        last = now.cloned().or(last.take());
        std::future::ready(!same)
    };
    stream.filter(news).boxed()
}

impl Flaw for Forgets {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        news(inner.watch(service))
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        news(inner.watch_services())
    }
}

/// Says nothing of an outage.
struct Hushes;

impl Flaw for Hushes {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        hushed(inner.watch(service))
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        hushed(inner.watch_services())
    }
}

fn hushed<T: Clone + PartialEq + Send + 'static>(
    stream: BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    news(stream).filter(|item| std::future::ready(item.is_ok())).boxed()
}

/// Takes a registry that is not heard for one that has nothing.
struct Empties;

#[async_trait]
impl Flaw for Empties {
    async fn lookup(&self, inner: &MemoryRegistry, service: &ServiceName) -> Result<Snapshot> {
        Ok(inner.lookup(service).await.unwrap_or_else(|_| Snapshot::empty(service.clone())))
    }

    async fn services(&self, inner: &MemoryRegistry) -> Result<BTreeSet<ServiceName>> {
        Ok(inner.services().await.unwrap_or_default())
    }

    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        let service = service.clone();
        let emptied = inner.watch(&service).flat_map(move |item| {
            let empty = item.is_err().then(|| Ok(Snapshot::empty(service.clone())));
            futures::stream::iter([Some(item), empty].into_iter().flatten())
        });
        emptied.boxed()
    }
}

/// Its watches tell an error and then nothing any more.
struct FallsSilent;

fn silenced<T: Send + 'static>(stream: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
    let mut fell = false;
    let told = stream.take_while(move |item| {
        let silent = fell;
        fell |= item.is_err();
        std::future::ready(!silent)
    });
    told.chain(futures::stream::pending()).boxed()
}

impl Flaw for FallsSilent {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        silenced(inner.watch(service))
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        silenced(inner.watch_services())
    }
}
