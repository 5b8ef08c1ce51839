use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use futures::future::{Either, select};
use futures::stream::{BoxStream, StreamExt, unfold};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::{
    Error, Health, Instance, InstanceId, InstanceKey, NamesStream, RegisterOptions, Registry, RegistryUrl,
    Result, ServiceName, Snapshot, SnapshotStream, Store,
};

const BACKEND: &str = "memory";

/// A registry in this process's memory: the reference implementation of the contract.
///
/// TTLs count on tokio's clock, so a test with a paused clock controls them. It spawns nothing: lapsed instances
/// are removed by whoever looks or watches.
///
/// Every [`new`](Self::new) registry is a world of its own; [`handle`](Self::handle) gives another handle on the same
/// world, as a second program would have.
pub struct MemoryRegistry {
    world: Arc<World>,
    /// What this handle's readers see; the world publishes to every handle's.
    store: Store,
    owner: u64,
    name: String,
}

impl MemoryRegistry {
    /// A handle on a new, empty world.
    pub fn new() -> Self {
        Self::on(Arc::default(), String::new())
    }

    /// Another handle on the same world: it sees the same instances and is closed by itself.
    pub fn handle(&self) -> Self {
        Self::on(self.world.clone(), self.name.clone())
    }

    /// A handle on the world that `url` names: `memory:` or `memory:NAME`.
    ///
    /// All handles opened in this process on one name share a world, which goes when the last of them does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any parameter; there are none.
    pub fn from_url(url: &RegistryUrl) -> Result<Self> {
        static WORLDS: Mutex<BTreeMap<String, Weak<World>>> = Mutex::new(BTreeMap::new());

        url.params(BACKEND).finish().map_err(|invalid| Error::invalid(BACKEND, "connect", &invalid))?;
        let mut worlds = WORLDS.lock().unwrap_or_else(PoisonError::into_inner);
        worlds.retain(|_, world| world.strong_count() > 0);
        let world = worlds.get(url.rest()).and_then(Weak::upgrade).unwrap_or_default();
        worlds.insert(url.rest().into(), Arc::downgrade(&world));
        drop(worlds);
        Ok(Self::on(world, url.rest().into()))
    }

    /// Sets the health of an instance, as an operator or a health check would; lasts until it is deregistered.
    /// Does nothing if there is no such instance.
    pub fn set_health(&self, key: &InstanceKey, health: Health) {
        self.world.lock().update(key, |entry| {
            entry.instance = Arc::new(Instance::clone(&entry.instance).with_health(health));
        });
    }

    fn on(world: Arc<World>, name: String) -> Self {
        static NEXT_OWNER: AtomicU64 = AtomicU64::new(0);

        let owner = NEXT_OWNER.fetch_add(1, Ordering::Relaxed);
        let store = Store::new(BACKEND);
        world.lock().attach(owner, &store);
        Self { world, store, owner, name }
    }

    fn check_open(&self, operation: &'static str) -> Result<()> {
        if self.store.is_closed() { Err(Error::closed(BACKEND, operation)) } else { Ok(()) }
    }

    /// `stream`, with the world's deadlines kept while it waits.
    fn expiring<T: Send + 'static>(&self, stream: BoxStream<'static, T>) -> BoxStream<'static, T> {
        let world = self.world.clone();
        let deadline = world.deadline.subscribe();
        world.expire();
        unfold((stream, deadline, world), |(mut stream, mut deadline, world)| async move {
            loop {
                let item = match select(stream.next(), pin!(passed(&mut deadline))).await {
                    Either::Left((item, _)) => Some(item),
                    Either::Right(((), _)) => None,
                };
                match item {
                    Some(item) => return item.map(|item| (item, (stream, deadline, world))),
                    None => world.expire(),
                }
            }
        })
        .boxed()
    }

    fn shut(&self) {
        self.store.close();
        self.world.lock().detach(self.owner);
    }
}

/// Waits until the deadline, whatever it becomes meanwhile, has passed.
async fn passed(deadline: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let current = *deadline.borrow_and_update();
        let changed = pin!(deadline.changed());
        match current {
            None => drop(changed.await),
            Some(at) => {
                if let Either::Left(_) = select(pin!(sleep_until(at)), changed).await {
                    return;
                }
            }
        }
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        self.check_open("register")?;
        options.validate().map_err(|invalid| Error::invalid(BACKEND, "register", &invalid))?;
        self.world.expire();
        let expires = options.ttl.and_then(|ttl| Instant::now().checked_add(ttl));
        self.world.lock().upsert(instance, expires, self.owner);
        Ok(())
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.check_open("deregister")?;
        self.world.lock().remove([key.clone()]);
        Ok(())
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.check_open("lookup")?;
        self.world.expire();
        Ok(self.store.snapshot(service))
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.check_open("services")?;
        self.world.expire();
        Ok(self.store.services())
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        self.expiring(self.store.watch(service))
    }

    fn watch_services(&self) -> NamesStream {
        self.expiring(self.store.watch_services())
    }

    async fn close(&self) -> Result<()> {
        self.shut();
        Ok(())
    }
}

impl Drop for MemoryRegistry {
    fn drop(&mut self) {
        self.shut();
    }
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for MemoryRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory:{}", self.name)
    }
}

impl fmt::Debug for MemoryRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRegistry")
            .field("name", &self.name)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct World {
    state: Mutex<State>,
    /// The earliest TTL, for those who wait for it.
    deadline: watch::Sender<Option<Instant>>,
}

impl World {
    fn lock(&self) -> Locked<'_> {
        Locked { state: self.state.lock().unwrap_or_else(PoisonError::into_inner), deadline: &self.deadline }
    }

    /// Removes what has lapsed by now.
    fn expire(&self) {
        let now = Instant::now();
        let mut locked = self.lock();
        let due: Vec<_> = locked
            .state
            .expiries
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, key)| key.clone())
            .collect();
        locked.remove(due);
    }
}

#[derive(Default)]
struct State {
    services: BTreeMap<ServiceName, BTreeMap<InstanceId, Entry>>,
    expiries: BTreeSet<(Instant, InstanceKey)>,
    /// The readers of each open handle.
    stores: BTreeMap<u64, Store>,
}

struct Entry {
    instance: Arc<Instance>,
    expires: Option<Instant>,
    owner: u64,
}

/// The state under its lock; each change is published before the lock is given back.
struct Locked<'a> {
    state: MutexGuard<'a, State>,
    deadline: &'a watch::Sender<Option<Instant>>,
}

impl Locked<'_> {
    fn upsert(&mut self, instance: &Instance, expires: Option<Instant>, owner: u64) {
        let key = instance.key();
        let entries = self.state.services.entry(key.service().clone()).or_default();
        let replaced = entries.remove(key.id());
        let health = replaced.as_ref().map_or(Health::Passing, |entry| entry.instance.health());
        let instance = Arc::new(instance.clone().with_health(health));
        let renewed = replaced.as_ref().is_some_and(|entry| entry.instance == instance);
        entries.insert(key.id().clone(), Entry { instance, expires, owner });
        if let Some(at) = replaced.and_then(|entry| entry.expires) {
            self.state.expiries.remove(&(at, key.clone()));
        }
        self.state.expiries.extend(expires.map(|at| (at, key.clone())));
        let changed = if renewed { None } else { Some(key.service()) };
        self.publish(changed);
    }

    fn update(&mut self, key: &InstanceKey, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) =
            self.state.services.get_mut(key.service()).and_then(|entries| entries.get_mut(key.id()))
        {
            change(entry);
            self.publish([key.service()]);
        }
    }

    fn remove(&mut self, keys: impl IntoIterator<Item = InstanceKey>) {
        let mut touched = BTreeSet::new();
        for key in keys {
            let Some(entries) = self.state.services.get_mut(key.service()) else { continue };
            let Some(entry) = entries.remove(key.id()) else { continue };
            if entries.is_empty() {
                self.state.services.remove(key.service());
            }
            touched.insert(key.service().clone());
            if let Some(at) = entry.expires {
                self.state.expiries.remove(&(at, key));
            }
        }
        if !touched.is_empty() {
            self.publish(&touched);
        }
    }

    fn attach(&mut self, owner: u64, store: &Store) {
        store.publish(self.state.services.keys().map(|service| self.snapshot(service)));
        self.state.stores.insert(owner, store.clone());
    }

    fn detach(&mut self, owner: u64) {
        self.state.stores.remove(&owner);
        let owned = self.state.services.iter().flat_map(|(service, entries)| {
            let owned = entries.iter().filter(|(_, entry)| entry.owner == owner);
            owned.map(|(id, _)| InstanceKey::new(service.clone(), id.clone()))
        });
        let owned: Vec<_> = owned.collect();
        self.remove(owned);
    }

    fn publish<'s>(&self, services: impl IntoIterator<Item = &'s ServiceName>) {
        let snapshots: Vec<_> = services.into_iter().map(|service| self.snapshot(service)).collect();
        for store in self.state.stores.values() {
            store.publish(snapshots.iter().cloned());
        }
        let earliest = self.state.expiries.first().map(|(at, _)| *at);
        self.deadline.send_if_modified(|deadline| std::mem::replace(deadline, earliest) != earliest);
    }

    fn snapshot(&self, service: &ServiceName) -> Snapshot {
        let entries = self.state.services.get(service).into_iter().flatten();
        Snapshot::new(service.clone(), entries.map(|(_, entry)| entry.instance.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn instance(port: u16) -> Instance {
        Instance::builder("greeter").id("1").address(format!("h:{port}")).build().unwrap()
    }

    fn ttl(seconds: u64) -> RegisterOptions {
        RegisterOptions::new().ttl(Duration::from_secs(seconds))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lapsed_ttl_reaches_a_watcher_at_its_time() {
        let registry = MemoryRegistry::new();
        let mut watch = registry.watch(instance(1).service());
        assert!(watch.next().await.unwrap().unwrap().is_empty());
        registry.register(&instance(1), &ttl(10)).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().len(), 1);

        let started = Instant::now();
        assert!(watch.next().await.unwrap().unwrap().is_empty());
        assert_eq!(started.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn renewing_moves_the_deadline_without_a_word() {
        let registry = MemoryRegistry::new();
        registry.register(&instance(1), &ttl(10)).await.unwrap();
        let mut watch = registry.watch(instance(1).service());
        assert_eq!(watch.next().await.unwrap().unwrap().len(), 1);
        let started = Instant::now();
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(6)).await;
            registry.register(&instance(1), &ttl(10)).await.unwrap();
        }
        assert!(watch.next().await.unwrap().unwrap().is_empty());
        assert_eq!(started.elapsed().as_secs(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_alone_notices_the_lapse() {
        let registry = MemoryRegistry::new();
        registry.register(&instance(1), &ttl(1)).await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(registry.lookup(instance(1).service()).await.unwrap().is_empty());
        assert!(registry.services().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn health_is_the_registrys_and_survives_a_renewal() {
        let registry = MemoryRegistry::new();
        let critical = instance(1).with_health(Health::Critical);
        registry.register(&critical, &RegisterOptions::new()).await.unwrap();
        let health = async || registry.lookup(critical.service()).await.unwrap().all()[0].health();
        assert_eq!(health().await, Health::Passing);
        registry.set_health(&critical.key(), Health::Maintenance);
        registry.register(&critical, &RegisterOptions::new()).await.unwrap();
        assert_eq!(health().await, Health::Maintenance);
    }

    #[tokio::test]
    async fn dropping_a_handle_takes_its_instances_with_it() {
        let (one, two) = {
            let one = MemoryRegistry::new();
            let two = one.handle();
            (one, two)
        };
        one.register(&instance(1), &RegisterOptions::new()).await.unwrap();
        drop(one);
        assert!(two.lookup(instance(1).service()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_url_names_a_world() {
        let open = |url: &str| MemoryRegistry::from_url(&url.parse().unwrap()).unwrap();
        let (a, same, other) = (open("memory:a-url"), open("memory:a-url"), open("memory:another-url"));
        a.register(&instance(1), &RegisterOptions::new()).await.unwrap();
        assert_eq!(same.lookup(instance(1).service()).await.unwrap().len(), 1);
        assert!(other.lookup(instance(1).service()).await.unwrap().is_empty());
        assert_eq!(a.to_string(), "memory:a-url");
    }
}
