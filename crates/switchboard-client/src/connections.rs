//! One service (a connection, a channel, a client) for each live instance, made when first needed and dropped when the
//! instance leaves.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use switchboard_core::{Health, Instance, InstanceId};
use switchboard_watcher::View;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// Reading takes no lock; clones share everything, and the last one dropped ends the task behind it.
pub(crate) struct Connections<S> {
    inner: Arc<Inner<S>>,
    task: Arc<Task>,
}

type Map<S> = HashMap<InstanceId, (Arc<Instance>, S)>;

struct Inner<S> {
    map: ArcSwap<Map<S>>,
    /// Held by whoever writes the map.
    writing: Mutex<()>,
    view: View,
}

impl<S: Clone + Send + Sync + 'static> Connections<S> {
    /// Empty. The task that drops what has left begins with the first that is made, on the runtime of that call.
    pub(crate) fn new(view: &View) -> Self {
        let inner = Arc::new(Inner { map: ArcSwap::default(), writing: Mutex::new(()), view: view.clone() });
        Self { inner, task: Arc::default() }
    }

    fn watch(&self, runtime: &Handle) -> AbortHandle {
        let (weak, mut view) = (Arc::downgrade(&self.inner), self.inner.view.clone());
        let watching = async move {
            loop {
                view.changed().await;
                let Some(inner) = weak.upgrade() else { return };
                inner.prune();
            }
        };
        runtime.spawn(watching).abort_handle()
    }

    /// The service for `instance`, made by `make` if there is none for it as it is now.
    ///
    /// For an instance that has left meanwhile it is made too, but not kept. What cannot be made is tried again next time.
    pub(crate) fn get<E>(
        &self,
        instance: &Arc<Instance>,
        make: impl FnOnce(&Instance) -> Result<S, E>,
    ) -> Result<S, E> {
        if let Some((known, service)) = self.inner.map.load().get(instance.id()) {
            if known == instance || same_target(known, instance) {
                return Ok(service.clone());
            }
        }
        let _writing = self.inner.lock();
        // Another call may have made it meanwhile.
        let map = self.inner.map.load_full();
        if let Some((known, service)) = map.get(instance.id()) {
            if same_target(known, instance) {
                return Ok(service.clone());
            }
        }
        let service = make(instance)?;
        if self.inner.is_live(instance) {
            let mut map = Map::clone(&map);
            map.insert(instance.id().clone(), (instance.clone(), service.clone()));
            self.inner.map.store(Arc::new(map));
        }
        if let Ok(runtime) = Handle::try_current() {
            self.task.0.get_or_init(|| self.watch(&runtime));
        }
        Ok(service)
    }
}

#[cfg(any(feature = "tower", feature = "tonic"))]
impl<S> Connections<S> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.inner.map.load().len()
    }
}

impl<S: Clone> Inner<S> {
    fn lock(&self) -> impl Drop + '_ {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_live(&self, instance: &Instance) -> bool {
        let snapshot = self.view.snapshot();
        let listed = snapshot.as_ref().and_then(|snapshot| snapshot.get(instance.id()));
        listed.is_some_and(|listed| same_target(listed, instance))
    }

    /// Drops what belongs to no instance any more.
    fn prune(&self) {
        // An unknown service keeps what it has: nothing says that the instances are gone.
        let Some(snapshot) = self.view.snapshot() else { return };
        let _writing = self.lock();
        let map = self.map.load_full();
        let kept = map.iter().filter_map(|(id, (known, service))| {
            let now = snapshot.get(id).filter(|now| same_target(known, now))?;
            Some((id.clone(), (now.clone(), service.clone())))
        });
        self.map.store(Arc::new(kept.collect()));
    }
}

/// Whether what was made for one serves the other too: all but the health is the same.
pub(crate) fn same_target(a: &Arc<Instance>, b: &Instance) -> bool {
    let well = |instance: &Instance| instance.clone().with_health(Health::Passing);
    **a == *b || well(a) == well(b)
}

impl<S> Clone for Connections<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), task: self.task.clone() }
    }
}

impl<S> fmt::Debug for Connections<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("to", &self.inner.map.load().keys()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Task(OnceLock<AbortHandle>);

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
}
