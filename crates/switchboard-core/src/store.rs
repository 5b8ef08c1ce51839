use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{self, StreamExt};
use tokio::sync::watch;

use crate::{Error, NamesStream, Result, ServiceName, Snapshot, SnapshotStream};

/// The latest snapshot of every service a backend knows, and streams that follow it: one writer, many readers.
///
/// For backends that hear of everything at once and so can answer from memory. It keeps the watch part of the
/// [`Registry`](crate::Registry) contract: the current state first, nothing equal repeated, nothing queued for slow
/// readers, the last state never missed, [`ErrorKind::Closed`](crate::ErrorKind::Closed) at the end. It spawns
/// nothing. Clones share the state.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    backend: &'static str,
    /// Services with at least one instance.
    snapshots: Mutex<BTreeMap<ServiceName, Snapshot>>,
    changed: watch::Sender<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Closed,
}

impl Store {
    /// An empty store; `backend` names it in errors.
    pub fn new(backend: &'static str) -> Self {
        let changed = watch::Sender::new(Phase::Open);
        Self { shared: Arc::new(Shared { backend, snapshots: Mutex::default(), changed }) }
    }

    /// Makes `snapshots` the current ones of their services and wakes the readers once. Services not named keep
    /// theirs. Snapshots equal to the current ones change nothing.
    pub fn publish(&self, snapshots: impl IntoIterator<Item = Snapshot>) {
        let mut changed = false;
        {
            let mut current = self.snapshots();
            for snapshot in snapshots {
                if snapshot.is_empty() {
                    changed |= current.remove(snapshot.service()).is_some();
                } else if current.get(snapshot.service()) != Some(&snapshot) {
                    current.insert(snapshot.service().clone(), snapshot);
                    changed = true;
                }
            }
        }
        if changed {
            self.wake();
        }
    }

    /// The current snapshot of `service`, empty if there is none.
    pub fn snapshot(&self, service: &ServiceName) -> Snapshot {
        self.snapshots().get(service).cloned().unwrap_or_else(|| Snapshot::empty(service.clone()))
    }

    /// The services with at least one instance.
    pub fn services(&self) -> BTreeSet<ServiceName> {
        self.snapshots().keys().cloned().collect()
    }

    /// The stream that [`Registry::watch`](crate::Registry::watch) asks for.
    pub fn watch(&self, service: &ServiceName) -> SnapshotStream {
        let service = service.clone();
        self.follow("watch", move |store| store.snapshot(&service))
    }

    /// The stream that [`Registry::watch_services`](crate::Registry::watch_services) asks for.
    pub fn watch_services(&self) -> NamesStream {
        self.follow("watch_services", Self::services)
    }

    /// Ends every stream with one [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    pub fn close(&self) {
        self.shared.changed.send_replace(Phase::Closed);
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        *self.shared.changed.borrow() == Phase::Closed
    }

    fn follow<T, F>(&self, operation: &'static str, read: F) -> stream::BoxStream<'static, Result<T>>
    where
        T: Clone + PartialEq + Send + 'static,
        F: Fn(&Self) -> T + Send + 'static,
    {
        struct Follow<T, F> {
            store: Store,
            changed: watch::Receiver<Phase>,
            last: Option<T>,
            read: F,
            ended: bool,
        }
        let follow = Follow {
            store: self.clone(),
            changed: self.shared.changed.subscribe(),
            last: None,
            read,
            ended: false,
        };
        stream::unfold(follow, move |mut follow| async move {
            if follow.ended {
                return None;
            }
            loop {
                if *follow.changed.borrow_and_update() == Phase::Closed {
                    follow.ended = true;
                    return Some((Err(Error::closed(follow.store.shared.backend, operation)), follow));
                }
                let now = (follow.read)(&follow.store);
                if follow.last.as_ref() != Some(&now) {
                    follow.last = Some(now.clone());
                    return Some((Ok(now), follow));
                }
                follow.changed.changed().await.ok()?;
            }
        })
        .boxed()
    }

    fn wake(&self) {
        // Unchanged in value, but every receiver is notified.
        self.shared.changed.send_modify(|_| {});
    }

    fn snapshots(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Snapshot>> {
        // No code panics while holding the lock, and a map is consistent even if one did.
        self.shared.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, Instance};
    use futures::FutureExt;

    fn snapshot(service: &str, ids: &[&str]) -> Snapshot {
        let service = ServiceName::new(service).unwrap();
        let instances =
            ids.iter().map(|id| Instance::builder(&service).id(*id).address("h:1").build().unwrap());
        Snapshot::new(service.clone(), instances)
    }

    #[tokio::test]
    async fn readers_get_the_first_state_then_only_changes_then_closed() {
        let store = Store::new("test");
        let mut watch = store.watch(&ServiceName::new("a").unwrap());
        assert!(watch.next().await.unwrap().unwrap().is_empty());

        store.publish([snapshot("b", &["1"])]);
        assert!(watch.next().now_or_never().is_none(), "another service's change is no change");
        store.publish([snapshot("a", &["1"])]);
        assert_eq!(watch.next().await.unwrap().unwrap(), snapshot("a", &["1"]));
        store.publish([snapshot("a", &["1"])]);
        assert!(watch.next().now_or_never().is_none(), "an equal snapshot is not repeated");

        store.close();
        assert_eq!(watch.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert!(watch.next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_reader_sees_the_last_state() {
        let store = Store::new("test");
        let mut watch = store.watch(&ServiceName::new("a").unwrap());
        watch.next().await.unwrap().unwrap();
        for id in ["1", "2", "3"] {
            store.publish([snapshot("a", &[id])]);
        }
        assert_eq!(watch.next().await.unwrap().unwrap(), snapshot("a", &["3"]));
        assert!(watch.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn names_follow_the_first_and_last_instance() {
        let store = Store::new("test");
        let mut names = store.watch_services();
        assert!(names.next().await.unwrap().unwrap().is_empty());
        store.publish([snapshot("a", &["1"]), snapshot("b", &["1"])]);
        assert_eq!(names.next().await.unwrap().unwrap().len(), 2);
        store.publish([snapshot("a", &["1", "2"])]);
        assert!(names.next().now_or_never().is_none());
        store.publish([snapshot("a", &[])]);
        assert_eq!(names.next().await.unwrap().unwrap().len(), 1);
    }
}
