use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use switchboard_core::{Error, InstanceKey, IntoRegistry, Invalid, Registry, Result, ServiceName};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::cell::Cell;
use crate::suspects::Suspects;
use crate::task::Task;
use crate::{Backoff, MassRemoval, View};

/// The live views of one registry.
///
/// All views of a service share one task and one watch on the registry. The task starts with the first view and ends
/// a little after the last one is dropped, or with the directory. Clones share everything; views keep the directory
/// alive.
#[derive(Clone)]
pub struct Directory {
    inner: Arc<Inner>,
}

/// Settings of a [`Directory`]. Made with [`Directory::builder`].
#[derive(Debug)]
#[must_use = "a directory comes into being with `build()`"]
pub struct DirectoryBuilder {
    registry: Arc<dyn Registry>,
    settings: Settings,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) linger: Duration,
    pub(crate) max_idle: usize,
    pub(crate) max_age: Option<Duration>,
    pub(crate) ready_timeout: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) mass_removal: Option<MassRemoval>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(60),
            max_idle: 1024,
            max_age: None,
            ready_timeout: Duration::from_secs(5),
            backoff: Backoff::default(),
            mass_removal: None,
        }
    }
}

impl DirectoryBuilder {
    /// How long a service is still watched after its last view was dropped, clones and all, so that a program that asks now and then
    /// finds it warm. Default 60 s, the lifetime of go-micro's cache.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// How many services without a view are watched at most; beyond that a service ends with its last view. Default
    /// 1,024.
    pub fn max_idle(mut self, services: usize) -> Self {
        self.settings.max_idle = services;
        self
    }

    /// How long the last good snapshot is kept while the registry is not heard. Default: for ever, as in go-kit; the
    /// age is in [`View::status`].
    ///
    /// What counts is what the registry's watch says: from its first `Err` to the next snapshot, which the contract has it
    /// tell as soon as it is heard again, changed or not. Nothing can be known of a stream that breaks the contract and does
    /// not: its view stays stale, and the snapshot is dropped. The conformance suite finds such a backend.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.settings.max_age = Some(age);
        self
    }

    /// How long [`View::ready`] waits for a first snapshot, from when the service was first watched. Default 5 s.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.settings.ready_timeout = timeout;
        self
    }

    /// How long to wait before a broken watch is tried again. Default: [`Backoff::default`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// Holds back updates that remove too much at once. Default: none is held back.
    pub fn mass_removal(mut self, rule: MassRemoval) -> Self {
        self.settings.mass_removal = Some(rule);
        self
    }

    /// Makes the directory. Nothing is watched until a view is asked for.
    pub fn build(self) -> Directory {
        let Self { registry, settings } = self;
        let suspects = Suspects::new(registry.clone());
        Directory { inner: Arc::new(Inner { registry, settings, suspects, entries: Mutex::default() }) }
    }
}

impl Directory {
    /// A directory with the default settings on `registry`, given by value or shared: `Arc<dyn Registry>`,
    /// `&Arc<dyn Registry>`.
    pub fn new(registry: impl IntoRegistry) -> Self {
        Self::builder(registry).build()
    }

    /// Settings to change first.
    pub fn builder(registry: impl IntoRegistry) -> DirectoryBuilder {
        DirectoryBuilder { registry: registry.into_registry(), settings: Settings::default() }
    }

    /// A live view of `service`, which need not exist (yet). Returns at once.
    ///
    /// The first one of a service has it watched on the runtime it is called from, for all. When that runtime ends the views
    /// are [`Freshness::Closed`], and the next one asked for has the service watched anew. A view asked for on a runtime that
    /// is already shut down is closed from the start, and so is, at once, one of a registry whose `watch` panics.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a bad name, [`ErrorKind::Closed`] after [`close`](Self::close), and
    /// [`ErrorKind::Unsupported`] outside a tokio runtime.
    ///
    /// [`Freshness::Closed`]: crate::Freshness::Closed
    /// [`ErrorKind::Invalid`]: switchboard_core::ErrorKind::Invalid
    /// [`ErrorKind::Closed`]: switchboard_core::ErrorKind::Closed
    /// [`ErrorKind::Unsupported`]: switchboard_core::ErrorKind::Unsupported
    pub fn service<S>(&self, service: S) -> Result<View>
    where
        S: TryInto<ServiceName>,
        Invalid: From<S::Error>,
    {
        let service = service
            .try_into()
            .map_err(|error| Error::invalid("directory", "service", &Invalid::from(error)))?;
        let view = self.inner.view(service)?;
        view.set_lingering();
        Ok(view)
    }

    /// A view after which nothing lingers, unless others want it to.
    pub(crate) fn passing(&self, service: &ServiceName) -> Result<View> {
        self.inner.view(service.clone())
    }

    /// Tells the registry that a client could not reach an instance, without waiting.
    ///
    /// Returns false if the hint was dropped, because too many (64) are on their way or no runtime is there.
    pub fn suspect(&self, key: &InstanceKey) -> bool {
        self.inner.suspects.hint(key)
    }

    /// Ends every task behind the views. They keep their last snapshot and say [`Freshness::Closed`]. The registry
    /// stays open. Idempotent.
    ///
    /// [`Freshness::Closed`]: crate::Freshness::Closed
    pub fn close(&self) {
        let watched =
            std::mem::replace(&mut *self.inner.entries(), Entries { closed: true, ..Entries::default() });
        for (_, watched) in watched.services {
            watched.end();
        }
        self.inner.suspects.close();
    }

    /// How long a service is still watched after its last view was dropped.
    pub fn linger(&self) -> Duration {
        self.inner.settings.linger
    }

    /// How many services are watched, with a view or lingering.
    pub fn watched(&self) -> usize {
        self.inner.entries().services.len()
    }

    /// The registry beneath.
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.inner.registry
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("registry", &self.inner.registry)
            .field("watched", &self.watched())
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    registry: Arc<dyn Registry>,
    pub(crate) settings: Settings,
    suspects: Suspects,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    services: HashMap<ServiceName, Watched>,
    /// How many of them have no view.
    idle: usize,
    closed: bool,
}

struct Watched {
    cell: Arc<Cell>,
    /// `None` until it is spawned, which is not done under the lock.
    task: Option<AbortHandle>,
}

impl Inner {
    fn view(self: &Arc<Self>, service: ServiceName) -> Result<View> {
        let (view, cell, runtime) = {
            let mut entries = self.entries();
            if entries.closed {
                return Err(Error::closed("directory", "service"));
            }
            if let Some(cell) = entries.lease(&service) {
                return Ok(View::new(cell, self.clone()));
            }
            let runtime = Handle::try_current()
                .map_err(|error| Error::no_runtime("directory", "service").with_source(error))?;
            let cell = entries.add(service);
            (View::new(cell.clone(), self.clone()), cell, runtime)
        };
        // Not under the lock: a runtime that is shut down drops the task here and now, and that takes the lock.
        let task =
            Task::new(cell.clone(), Arc::downgrade(self), self.registry.clone(), self.settings.clone());
        let task = runtime.spawn(task.run()).abort_handle();
        let mut entries = self.entries();
        if let Some(watched) = entries.get_mut(&cell) {
            watched.task = Some(task);
        } else {
            // The directory was closed meanwhile, or the task has ended already.
            drop(entries);
            task.abort();
        }
        Ok(view)
    }

    /// Forgets a service whose time to linger is over, unless somebody has asked for it meanwhile.
    pub(crate) fn retire(&self, cell: &Arc<Cell>) -> bool {
        let mut entries = self.entries();
        // A view is made under this lock, so none can come between the question and the removal.
        let idle = cell.is_idle();
        if idle {
            entries.remove(cell);
        }
        idle
    }

    pub(crate) fn forget(&self, cell: &Arc<Cell>) {
        self.entries().remove(cell);
    }

    /// A view was dropped. If it was the last of its service, this begins to linger; with too many idle ones about, its
    /// task ends now.
    pub(crate) fn release(&self, cell: &Arc<Cell>) {
        let ended = {
            let mut entries = self.entries();
            cell.release();
            if !cell.is_idle() || entries.get_mut(cell).is_none() {
                return;
            }
            entries.idle += 1;
            if entries.idle <= self.settings.max_idle { None } else { entries.remove(cell) }
        };
        if let Some(watched) = ended {
            watched.end();
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while the lock is held, and the map is whole even if something did.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// Counts another view of `service`, if it is watched.
    fn lease(&mut self, service: &ServiceName) -> Option<Arc<Cell>> {
        let cell = self.services.get(service)?.cell.clone();
        if cell.lease() {
            self.idle -= 1;
        }
        Some(cell)
    }

    /// A new service with one view.
    fn add(&mut self, service: ServiceName) -> Arc<Cell> {
        let cell = Arc::new(Cell::new(service.clone()));
        cell.lease();
        self.services.insert(service, Watched { cell: cell.clone(), task: None });
        cell
    }

    fn get_mut(&mut self, cell: &Arc<Cell>) -> Option<&mut Watched> {
        self.services.get_mut(&cell.service).filter(|watched| Arc::ptr_eq(&watched.cell, cell))
    }

    fn remove(&mut self, cell: &Arc<Cell>) -> Option<Watched> {
        self.get_mut(cell)?;
        if cell.is_idle() {
            self.idle -= 1;
        }
        self.services.remove(&cell.service)
    }
}

impl Watched {
    fn end(self) {
        if let Some(task) = self.task {
            task.abort();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let services = std::mem::take(&mut self.entries().services);
        services.into_values().for_each(Watched::end);
    }
}
