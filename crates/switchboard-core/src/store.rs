use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{BoxStream, StreamExt, unfold};
use tokio::sync::watch;

use crate::{Error, NamesStream, Result, ServiceName, Snapshot, SnapshotStream};

/// The latest snapshot of every service a backend knows, and streams that follow it: one writer, many readers.
///
/// For backends that hear of everything at once and so can answer from memory. It keeps the watch part of the
/// [`Registry`](crate::Registry) contract: the current state first, nothing equal repeated, nothing queued for slow
/// readers, the last state never missed, the state told again after an error that was told,
/// [`ErrorKind::Closed`](crate::ErrorKind::Closed) at the end. It spawns nothing. Clones share the state.
///
/// A change wakes the readers of the services that changed and nobody else, so that it costs the same among ten
/// services as among ten thousand. A service without instances and without readers is not kept.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    backend: &'static str,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Services with at least one instance.
    snapshots: HashMap<ServiceName, Snapshot>,
    /// Services with at least one reader.
    readers: HashMap<ServiceName, Readers>,
    /// Wakes the readers of the names.
    names: Signal,
    phase: Phase,
    /// How often [`Store::fail`] was called.
    failures: u64,
    /// What is told all the same while the store is failing.
    spared: Spared,
}

#[derive(Debug, Default)]
struct Spared {
    services: HashSet<ServiceName>,
    names: bool,
}

#[derive(Debug, Default)]
struct Readers {
    count: usize,
    signal: Signal,
}

/// How many services that have gone stay spared at most, while nobody reads them.
const MOST_GONE: usize = 4096;

/// Wakes readers, who then look for themselves.
type Signal = watch::Sender<()>;

#[derive(Clone, Debug)]
enum Phase {
    Heard,
    Failing(Error),
    Closed,
}

impl Store {
    /// An empty store; `backend` names it in errors.
    pub fn new(backend: &'static str) -> Self {
        let state = State {
            snapshots: HashMap::new(),
            readers: HashMap::new(),
            names: Signal::default(),
            phase: Phase::Heard,
            failures: 0,
            spared: Spared::default(),
        };
        Self { shared: Arc::new(Shared { backend, state: Mutex::new(state) }) }
    }

    /// Makes `snapshots` the current ones of their services and wakes their readers. Services not named keep theirs.
    /// Snapshots equal to the current ones change nothing.
    ///
    /// While the store is [failing](Self::fail) they are kept and told after [`heal`](Self::heal).
    pub fn publish(&self, snapshots: impl IntoIterator<Item = Snapshot>) {
        let mut woken = Vec::new();
        {
            let mut state = self.state();
            let mut renamed = false;
            for snapshot in snapshots {
                woken.extend(state.put(snapshot, &mut renamed));
            }
            if renamed {
                woken.push(state.names.clone());
            }
        }
        wake(woken);
    }

    /// While the store is [failing](Self::fail): publishes `snapshots`, and from now on tells of their services in spite of
    /// the failure, also when they become empty; with `names`, of the names too. This lasts until the store is healed or fails
    /// anew. Otherwise the same as [`publish`](Self::publish).
    ///
    /// For a backend that still hears a part of its world.
    pub fn publish_spared(&self, snapshots: impl IntoIterator<Item = Snapshot>, names: bool) {
        let mut woken = Vec::new();
        {
            let mut state = self.state();
            let mut renamed = names && !std::mem::replace(&mut state.spared.names, names);
            for snapshot in snapshots {
                let service = snapshot.service().clone();
                let changed = state.put(snapshot, &mut renamed);
                woken.extend(changed.or_else(|| state.signal_of(&service)));
                state.spare(service);
            }
            if renamed {
                woken.push(state.names.clone());
            }
        }
        wake(woken);
    }

    /// Tells every reader, present and future, that the backend cannot hear its world: `error`, each time this is
    /// called. They are told nothing else until [`heal`](Self::heal), but for what is [spared](Self::publish_spared).
    ///
    /// Nothing is forgotten: [`snapshot`](Self::snapshot) and [`services`](Self::services) go on answering what was
    /// last published. A reader that is slower than an outage may not hear of it. On a closed store it does nothing.
    pub fn fail(&self, error: Error) {
        let woken = {
            let mut state = self.state();
            if matches!(state.phase, Phase::Closed) {
                return;
            }
            state.phase = Phase::Failing(error);
            state.failures += 1;
            state.spared = Spared::default();
            state.all_signals()
        };
        wake(woken);
    }

    /// Ends what [`fail`](Self::fail) began: every reader that was told the error is told the current state, equal to
    /// what it was told before or not. Does nothing if the store is not failing.
    ///
    /// Publish first what has changed meanwhile, or readers see the old state for a moment.
    pub fn heal(&self) {
        let woken = {
            let mut state = self.state();
            if !matches!(state.phase, Phase::Failing(_)) {
                return;
            }
            state.phase = Phase::Heard;
            state.all_signals()
        };
        wake(woken);
    }

    /// The error that the store is failing with, if it is.
    pub fn failure(&self) -> Option<Error> {
        self.state().failure().cloned()
    }

    /// The error that readers of `service` are told, if they are.
    pub fn failure_of(&self, service: &ServiceName) -> Option<Error> {
        self.state().failure_for(Some(service)).cloned()
    }

    /// The error that readers of the names are told, if they are.
    pub fn failure_of_names(&self) -> Option<Error> {
        self.state().failure_for(None).cloned()
    }

    /// The current snapshot of `service`, empty if there is none.
    pub fn snapshot(&self, service: &ServiceName) -> Snapshot {
        self.state().snapshot(service)
    }

    /// The services with at least one instance.
    pub fn services(&self) -> BTreeSet<ServiceName> {
        self.state().services()
    }

    /// The stream that [`Registry::watch`](crate::Registry::watch) asks for.
    pub fn watch(&self, service: &ServiceName) -> SnapshotStream {
        let signal = {
            let mut state = self.state();
            let readers = state.readers.entry(service.clone()).or_default();
            readers.count += 1;
            readers.signal.subscribe()
        };
        let reader = Reader { store: self.clone(), service: service.clone() };
        self.follow("watch", signal, Some(service.clone()), move |state| state.snapshot(&reader.service))
    }

    /// The stream that [`Registry::watch_services`](crate::Registry::watch_services) asks for.
    pub fn watch_services(&self) -> NamesStream {
        let signal = self.state().names.subscribe();
        self.follow("watch_services", signal, None, State::services)
    }

    /// Ends every stream with one [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    pub fn close(&self) {
        let woken = {
            let mut state = self.state();
            state.phase = Phase::Closed;
            state.all_signals()
        };
        wake(woken);
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        matches!(self.state().phase, Phase::Closed)
    }

    /// Wakes the readers of `service` though it has not changed.
    pub(crate) fn nudge(&self, service: &ServiceName) {
        let signal = self.state().signal_of(service);
        wake(signal);
    }

    /// Wakes the readers of the names though they have not changed.
    pub(crate) fn nudge_names(&self) {
        let signal = self.state().names.clone();
        wake([signal]);
    }

    fn follow<T, F>(
        &self,
        operation: &'static str,
        signal: watch::Receiver<()>,
        service: Option<ServiceName>,
        read: F,
    ) -> BoxStream<'static, Result<T>>
    where
        T: Clone + PartialEq + Send + 'static,
        F: Fn(&State) -> T + Send + 'static,
    {
        let follow = Follow {
            store: self.clone(),
            operation,
            signal,
            service,
            read,
            last: None,
            failures_told: 0,
            ended: false,
        };
        unfold(follow, |mut follow| async move { Some((follow.next().await?, follow)) }).fuse().boxed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while holding the lock, and the maps are consistent even if one did.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn snapshot(&self, service: &ServiceName) -> Snapshot {
        self.snapshots.get(service).cloned().unwrap_or_else(|| Snapshot::empty(service.clone()))
    }

    fn services(&self) -> BTreeSet<ServiceName> {
        self.snapshots.keys().cloned().collect()
    }

    /// Takes a snapshot, notes whether it makes a name come or go, and tells whom to wake if it is news.
    fn put(&mut self, snapshot: Snapshot, renamed: &mut bool) -> Option<Signal> {
        let service = snapshot.service().clone();
        if self.snapshot(&service) == snapshot {
            return None;
        }
        let signal = self.signal_of(&service);
        if snapshot.is_empty() {
            self.snapshots.remove(&service);
            *renamed = true;
        } else {
            *renamed |= self.snapshots.insert(service, snapshot).is_none();
        }
        signal
    }

    fn failure(&self) -> Option<&Error> {
        match &self.phase {
            Phase::Failing(error) => Some(error),
            Phase::Heard | Phase::Closed => None,
        }
    }

    /// What readers of `service`, or of the names, are told instead of the state.
    fn failure_for(&self, service: Option<&ServiceName>) -> Option<&Error> {
        let spared = service.map_or(self.spared.names, |service| self.spared.services.contains(service));
        self.failure().filter(|_| !spared)
    }

    fn spare(&mut self, service: ServiceName) {
        let Self { spared, snapshots, readers, .. } = self;
        if spared.services.len() > MOST_GONE + 2 * (snapshots.len() + readers.len()) {
            spared.services.retain(|name| snapshots.contains_key(name) || readers.contains_key(name));
        }
        spared.services.insert(service);
    }

    fn signal_of(&self, service: &ServiceName) -> Option<Signal> {
        self.readers.get(service).map(|readers| readers.signal.clone())
    }

    fn all_signals(&self) -> Vec<Signal> {
        let readers = self.readers.values().map(|readers| &readers.signal);
        readers.chain([&self.names]).cloned().collect()
    }
}

/// Not under the lock: whom it wakes may want it.
fn wake(signals: impl IntoIterator<Item = Signal>) {
    for signal in signals {
        signal.send_replace(());
    }
}

/// Counts a reader of a service for as long as it lives.
struct Reader {
    store: Store,
    service: ServiceName,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.store.state();
        if let Some(readers) = state.readers.get_mut(&self.service) {
            readers.count -= 1;
            if readers.count == 0 {
                state.readers.remove(&self.service);
            }
        }
    }
}

/// A stream of what `read` reads.
struct Follow<T, F> {
    store: Store,
    operation: &'static str,
    signal: watch::Receiver<()>,
    /// Whose state is read, if not the names.
    service: Option<ServiceName>,
    read: F,
    /// What was told last, unless an error was told after it: then the state is news whatever it is.
    last: Option<T>,
    failures_told: u64,
    ended: bool,
}

impl<T, F> Follow<T, F>
where
    T: Clone + PartialEq,
    F: Fn(&State) -> T,
{
    async fn next(&mut self) -> Option<Result<T>> {
        while !self.ended {
            self.signal.mark_unchanged();
            if let Some(news) = self.news() {
                return Some(news);
            }
            // Cannot fail: the store keeps the sender while there is a reader.
            self.signal.changed().await.ok()?;
        }
        None
    }

    /// What this reader has not been told.
    fn news(&mut self) -> Option<Result<T>> {
        let state = self.store.state();
        if matches!(state.phase, Phase::Closed) {
            self.ended = true;
            return Some(Err(Error::closed(self.store.shared.backend, self.operation)));
        }
        if let Some(error) = state.failure_for(self.service.as_ref()) {
            let told = std::mem::replace(&mut self.failures_told, state.failures);
            return (told != state.failures).then(|| {
                self.last = None;
                Err(error.clone())
            });
        }
        let now = (self.read)(&state);
        (self.last.as_ref() != Some(&now)).then(|| Ok(self.last.insert(now).clone()))
    }
}

/// Counts how often a reader is woken.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Wakes(std::sync::atomic::AtomicUsize);

#[cfg(test)]
impl Wakes {
    /// Reads `stream` until it has nothing more, and counts from then on.
    pub(crate) fn of<T>(stream: &mut BoxStream<'static, T>) -> Arc<Self> {
        let wakes = Arc::new(Self::default());
        let waker = futures::task::waker(wakes.clone());
        while stream.poll_next_unpin(&mut std::task::Context::from_waker(&waker)).is_ready() {}
        wakes
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[cfg(test)]
impl futures::task::ArcWake for Wakes {
    fn wake_by_ref(wakes: &Arc<Self>) {
        wakes.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
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

    fn unavailable(message: &str) -> Error {
        Error::new(ErrorKind::Unavailable, "test", "watch", message)
    }

    #[tokio::test]
    async fn after_an_error_the_state_is_told_again_though_nothing_changed() {
        let store = Store::new("test");
        store.publish([snapshot("a", &["1"])]);
        let (mut watch, mut names) = (store.watch(&ServiceName::new("a").unwrap()), store.watch_services());
        assert_eq!(watch.next().await.unwrap().unwrap().len(), 1);
        assert_eq!(names.next().await.unwrap().unwrap().len(), 1);
        for message in ["first", "second"] {
            store.fail(unavailable(message));
            assert_eq!(watch.next().await.unwrap().unwrap_err().message(), message);
            assert_eq!(names.next().await.unwrap().unwrap_err().message(), message);
            assert!(watch.next().now_or_never().is_none() && names.next().now_or_never().is_none());
        }
        assert_eq!(store.failure().unwrap().message(), "second");
        let mut late = store.watch(&ServiceName::new("a").unwrap());
        assert_eq!(late.next().await.unwrap().unwrap_err().message(), "second", "a new reader is told too");
        store.publish([snapshot("a", &["2"])]);
        assert!(watch.next().now_or_never().is_none(), "not while it fails");
        store.publish([snapshot("a", &["1"])]);

        store.heal();
        assert!(store.failure().is_none());
        assert_eq!(watch.next().await.unwrap().unwrap(), snapshot("a", &["1"]));
        assert_eq!(late.next().await.unwrap().unwrap(), snapshot("a", &["1"]));
        assert_eq!(names.next().await.unwrap().unwrap().len(), 1);
        store.heal();
        assert!(watch.next().now_or_never().is_none() && names.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn an_outage_that_nobody_read_of_is_not_told() {
        let store = Store::new("test");
        let mut watch = store.watch(&ServiceName::new("a").unwrap());
        watch.next().await.unwrap().unwrap();
        store.fail(unavailable("down"));
        store.heal();
        assert!(watch.next().now_or_never().is_none());
        store.fail(unavailable("down"));
        assert!(watch.next().await.unwrap().is_err());
        store.close();
        store.fail(unavailable("down"));
        assert_eq!(watch.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    }

    #[tokio::test]
    async fn what_is_spared_is_told_in_spite_of_a_failure_also_when_it_goes() {
        let store = Store::new("test");
        let [a, b] = ["a", "b"].map(|name| ServiceName::new(name).unwrap());
        store.publish([snapshot("a", &["1"]), snapshot("b", &["1"])]);
        let (mut here, mut there, mut names) = (store.watch(&a), store.watch(&b), store.watch_services());
        assert_eq!(here.next().await.unwrap().unwrap().len(), 1);
        assert_eq!(there.next().await.unwrap().unwrap().len(), 1);
        store.fail(unavailable("down"));
        assert!(here.next().await.unwrap().is_err(), "before it is spared");
        store.publish_spared([snapshot("a", &["1"])], false);
        assert_eq!(here.next().await.unwrap().unwrap(), snapshot("a", &["1"]), "told again though equal");
        assert!(there.next().await.unwrap().is_err() && names.next().await.unwrap().is_err());
        assert!(store.failure_of(&a).is_none() && store.failure_of(&b).is_some());

        store.publish_spared([snapshot("a", &[])], true);
        assert!(here.next().await.unwrap().unwrap().is_empty(), "its leaving is told");
        assert_eq!(names.next().await.unwrap().unwrap(), [b.clone()].into());
        assert!(store.failure_of_names().is_none() && store.failure().is_some());
        assert!(there.next().now_or_never().is_none());

        store.heal();
        assert_eq!(there.next().await.unwrap().unwrap(), snapshot("b", &["1"]));
        assert!(here.next().now_or_never().is_none(), "it was told all along");
        store.fail(unavailable("down again"));
        assert!(here.next().await.unwrap().is_err(), "a new failure spares nothing");
    }

    #[test]
    fn services_that_went_while_spared_are_forgotten_in_the_end() {
        let store = Store::new("test");
        store.fail(unavailable("down"));
        for number in 0..3 * MOST_GONE {
            let name = format!("s{number}");
            store.publish_spared([snapshot(&name, &["1"])], true);
            store.publish_spared([snapshot(&name, &[])], true);
        }
        assert!(store.state().spared.services.len() <= MOST_GONE + 3);
    }

    #[tokio::test]
    async fn a_change_wakes_the_readers_of_its_service_only() {
        let store = Store::new("test");
        let [mut here, mut elsewhere] = ["a", "b"].map(|name| store.watch(&ServiceName::new(name).unwrap()));
        let (here, elsewhere) = (Wakes::of(&mut here), Wakes::of(&mut elsewhere));
        store.publish([snapshot("a", &["1"])]);
        store.publish([snapshot("c", &["1"])]);
        assert_eq!([here.count(), elsewhere.count()], [1, 0]);
    }

    #[test]
    fn a_service_without_instances_and_readers_leaves_nothing() {
        let store = Store::new("test");
        let left = || {
            let state = store.state();
            (state.snapshots.len(), state.readers.len())
        };
        let name = ServiceName::new("a").unwrap();
        let readers = [store.watch(&name), store.watch(&name)];
        store.publish([snapshot("a", &["1"])]);
        let [first, second] = readers;
        drop(first);
        assert_eq!(left(), (1, 1));
        drop(second);
        assert_eq!(left(), (1, 0));
        store.publish([snapshot("a", &[])]);
        assert_eq!(left(), (0, 0));
    }
}
