//! Watches: streams that ask again, without a task.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use switchboard_core::time::until;
use switchboard_core::{Error, NamesStream, Result, ServiceName, Snapshot, SnapshotStream};
use switchboard_dnssd::tell_apart;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::BACKEND;
use crate::feed::Feed;
use crate::kept::Kept;
use crate::resolve::Found;
use crate::sd::label_of;

/// The stream that [`Registry::watch`](switchboard_core::Registry::watch) asks for.
pub(crate) fn snapshots(
    feed: Arc<Feed>,
    closed: watch::Receiver<bool>,
    service: ServiceName,
) -> SnapshotStream {
    follow(feed, closed, "watch", move |kept, _| snapshot(kept, &service))
}

/// The stream that [`Registry::watch_services`](switchboard_core::Registry::watch_services) asks for.
pub(crate) fn names(feed: Arc<Feed>, closed: watch::Receiver<bool>) -> NamesStream {
    follow(feed, closed, "watch_services", |_, found: &Found| -> BTreeSet<ServiceName> {
        found.names.clone()
    })
}

/// Of all that is known, the instances of one service.
pub(crate) fn snapshot(kept: &Kept, service: &ServiceName) -> Snapshot {
    let of_service = kept.instances().filter(|(_, instance)| instance.service() == service);
    let snapshot =
        Snapshot::new(service.clone(), tell_apart(label_of, of_service).map(|(_, instance)| instance));
    if kept.complete { snapshot } else { snapshot.incomplete() }
}

/// A stream that says why it cannot begin, and ends.
pub(crate) fn failed<T: Send + 'static>(error: Error) -> BoxStream<'static, Result<T>> {
    stream::iter([Err(error)]).boxed()
}

fn follow<T, F>(
    feed: Arc<Feed>,
    closed: watch::Receiver<bool>,
    operation: &'static str,
    read: F,
) -> BoxStream<'static, Result<T>>
where
    T: Clone + PartialEq + Send + 'static,
    F: Fn(&Kept, &Found) -> T + Send + 'static,
{
    let changed = feed.subscribe();
    let follow =
        Follow { feed, closed, changed, operation, read, begun: None, seen: 0, last: None, ended: false };
    stream::unfold(follow, |mut follow| async move { Some((follow.next().await?, follow)) }).fuse().boxed()
}

struct Follow<T, F> {
    feed: Arc<Feed>,
    closed: watch::Receiver<bool>,
    changed: watch::Receiver<()>,
    operation: &'static str,
    read: F,
    /// When it was first read: what it tells first was asked for then or later.
    begun: Option<Instant>,
    /// The generation that was told last.
    seen: u64,
    /// What was told last, unless an error was told after it.
    last: Option<T>,
    ended: bool,
}

impl<T, F> Follow<T, F>
where
    T: Clone + PartialEq,
    F: Fn(&Kept, &Found) -> T,
{
    async fn next(&mut self) -> Option<Result<T>> {
        if !self.ended && Handle::try_current().is_err() {
            self.ended = true;
            return Some(Err(Error::no_runtime(BACKEND, self.operation)));
        }
        let begun = *self.begun.get_or_insert_with(Instant::now);
        while !self.ended {
            if *self.closed.borrow() {
                self.ended = true;
                return Some(Err(Error::closed(BACKEND, self.operation)));
            }
            self.changed.mark_unchanged();
            let now = self.feed.now();
            let is_current = now.asked.is_some_and(|asked| asked >= begun);
            if is_current && now.generation != self.seen {
                self.seen = now.generation;
                match self.feed.read(&self.read) {
                    Ok(value) if self.last.as_ref() == Some(&value) => {}
                    Ok(value) => return Some(Ok(self.last.insert(value).clone())),
                    Err(failed) => {
                        self.last = None;
                        return Some(Err(failed.error(self.operation)));
                    }
                }
            }
            let due = if is_current { now.due } else { begun };
            tokio::select! {
                // Cannot fail: the registry says that it is closed before it is gone.
                _ = self.closed.changed() => {}
                _ = self.changed.changed() => {}
                () = async {
                    until(Some(due)).await;
                    self.feed.ask(due).await;
                } => {}
            }
        }
        None
    }
}
