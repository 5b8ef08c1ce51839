use std::collections::BTreeSet;
use std::fmt;

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
/// none is the registry's error. Watches of one name share one watch beneath. Everything else passes through.
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

    async fn close(&self) -> Result<()> {
        let closed = self.registry.close().await;
        self.directory.close();
        closed
    }
}

struct Follow {
    view: View,
    last: Option<Snapshot>,
    told: bool,
    ended: bool,
}

/// A view as the stream that the contract of `watch` asks for.
fn follow(view: View) -> SnapshotStream {
    let start = Follow { view, last: None, told: false, ended: false };
    unfold(start, |mut follow| async move {
        if follow.ended {
            return None;
        }
        loop {
            follow.view.mark_seen();
            let state = follow.view.state();
            if let Some(snapshot) = state.snapshot.as_ref().filter(|now| follow.last.as_ref() != Some(now)) {
                follow.last = Some(snapshot.clone());
                return Some((Ok(snapshot.clone()), follow));
            }
            match &state.status.freshness {
                Freshness::Closed => {
                    follow.ended = true;
                    return Some((Err(Error::closed("directory", "watch")), follow));
                }
                // One error for each outage.
                Freshness::Stale { error, .. } if !follow.told => {
                    follow.told = true;
                    return Some((Err(error.clone()), follow));
                }
                Freshness::Stale { .. } => {}
                Freshness::Fresh | Freshness::Pending => follow.told = false,
            }
            follow.view.changed().await;
        }
    })
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
