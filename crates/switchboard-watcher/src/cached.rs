use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::unfold;
use switchboard_core::{
    Error, Instance, InstanceKey, NamesStream, RegisterOptions, Registry, Result, ServiceName, Snapshot,
    SnapshotStream,
};

use crate::{Directory, DirectoryBuilder, Freshness, View};

/// A registry whose lookups and watches are answered from a [`Directory`].
///
/// The first lookup of a name asks the registry, once however many callers there are; later ones are answered from the
/// live view while it lingers. Through an outage a lookup answers the last good snapshot; one for which there is
/// none is the registry's error. Watches of one name share one watch beneath, and each tells an outage with one error, and
/// its end with the snapshot. Everything else passes through.
///
/// A lookup sees all that the registry's watch has told by then. With a registry across a network that may be a moment
/// later than a lookup of the registry itself would. A service that was looked up is watched until the directory's
/// [`linger`](DirectoryBuilder::linger) is over; one that was only watched, until the last watch is dropped.
pub struct Cached<R> {
    registry: R,
    directory: Directory,
}

impl<R: Registry + Clone> Cached<R> {
    /// Caches `registry`, which must be cheap to clone: an `Arc`.
    pub fn new(registry: R) -> Self {
        Self::with(registry, |builder| builder)
    }

    /// Caches `registry` with other settings of the directory.
    pub fn with(registry: R, settings: impl FnOnce(DirectoryBuilder) -> DirectoryBuilder) -> Self {
        let directory = settings(Directory::builder(registry.clone())).build();
        Self { registry, directory }
    }
}

impl<R> Cached<R> {
    /// The directory, for live views.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The registry beneath.
    pub fn inner(&self) -> &R {
        &self.registry
    }
}

#[async_trait]
impl<R: Registry> Registry for Cached<R> {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        self.registry.register(instance, options).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.registry.deregister(key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.directory.service(service)?.latest().await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.registry.services().await
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.registry.snapshots().await
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        match self.directory.passing(service) {
            Ok(view) => follow(view),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn watch_services(&self) -> NamesStream {
        self.registry.watch_services()
    }

    async fn suspect(&self, key: &InstanceKey) {
        self.registry.suspect(key).await;
    }

    async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        self.registry.set_maintenance(key, reason).await
    }

    async fn local_ip(&self) -> Option<IpAddr> {
        self.registry.local_ip().await
    }

    fn parts(&self) -> Vec<Arc<dyn Registry>> {
        self.registry.parts()
    }

    async fn close(&self) -> Result<()> {
        let closed = self.registry.close().await;
        self.directory.close();
        closed
    }
}

struct Follow {
    view: View,
    told: Told,
    ended: bool,
}

/// What a reader was told last.
enum Told {
    Nothing,
    Snapshot(Snapshot),
    /// That the registry is not heard: once for each outage, and then the snapshot again, equal or not.
    Outage,
}

impl Follow {
    /// What the reader has not been told.
    fn news(&mut self) -> Option<Result<Snapshot>> {
        let state = self.view.state();
        let stale = match &state.status.freshness {
            Freshness::Stale { error, .. } => Some(error),
            Freshness::Pending | Freshness::Fresh | Freshness::Closed => None,
        };
        let untold = |now: &&Snapshot| match &self.told {
            Told::Nothing => true,
            Told::Snapshot(last) => last != *now,
            Told::Outage => state.status.is_fresh(),
        };
        if let Some(now) = state.snapshot.as_ref().filter(untold) {
            self.told = Told::Snapshot(now.clone());
            return Some(Ok(now.clone()));
        }
        if matches!(state.status.freshness, Freshness::Closed) {
            self.ended = true;
            return Some(Err(Error::closed("directory", "watch")));
        }
        let error = stale.filter(|_| !matches!(self.told, Told::Outage))?.clone();
        self.told = Told::Outage;
        Some(Err(error))
    }
}

/// A view as the stream that the contract of `watch` asks for.
fn follow(view: View) -> SnapshotStream {
    let start = Follow { view, told: Told::Nothing, ended: false };
    unfold(start, |mut follow| async move {
        while !follow.ended {
            follow.view.mark_seen();
            if let Some(news) = follow.news() {
                return Some((news, follow));
            }
            follow.view.changed().await;
        }
        None
    })
    .fuse()
    .boxed()
}

impl<R: fmt::Display> fmt::Display for Cached<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.registry.fmt(f)
    }
}

impl<R: fmt::Debug> fmt::Debug for Cached<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("registry", &self.registry).finish_non_exhaustive()
    }
}
