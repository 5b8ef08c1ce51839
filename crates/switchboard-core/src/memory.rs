mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, poll_fn};
use tokio::time::Instant;

use self::world::World;
use crate::time::{later, until};
use crate::{
    Error, Health, Instance, InstanceKey, Invalid, NamesStream, RegisterOptions, Registry, RegistryUrl,
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
        self.world.state().update(key, |entry| {
            entry.instance = Arc::new(Instance::clone(&entry.instance).with_health(health));
        });
    }

    fn on(world: Arc<World>, name: String) -> Self {
        static NEXT_OWNER: AtomicU64 = AtomicU64::new(0);

        let owner = NEXT_OWNER.fetch_add(1, Ordering::Relaxed);
        let store = Store::new(BACKEND);
        world.state().attach(owner, &store);
        Self { world, store, owner, name }
    }

    /// Cuts this handle off from the world, for tests of what a program does in an outage: every call answers `error`,
    /// and every watch tells it once. Other handles go on, and so do the TTLs of what this one has registered.
    ///
    /// Only [`close`](Registry::close) works as ever. A second call tells another error.
    ///
    /// ```
    /// use futures::StreamExt;
    /// use switchboard_core::{Error, ErrorKind, MemoryRegistry, Registry, ServiceName};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// let registry = MemoryRegistry::new();
    /// let greeter = ServiceName::new("greeter")?;
    /// let mut watch = registry.watch(&greeter);
    /// assert!(watch.next().await.is_some_and(|item| item.is_ok()));
    ///
    /// registry.fail(Error::new(ErrorKind::Unavailable, "memory", "outage", "no route"));
    /// assert!(watch.next().await.is_some_and(|item| item.is_err()));
    /// assert!(registry.lookup(&greeter).await.is_err());
    ///
    /// registry.heal();
    /// assert!(watch.next().await.is_some_and(|item| item.is_ok()), "told again, though nothing changed");
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail(&self, error: Error) {
        self.store.fail(error);
    }

    /// Ends what [`fail`](Self::fail) began. Does nothing if there is no outage.
    pub fn heal(&self) {
        self.store.heal();
    }

    fn check(&self, operation: &'static str) -> Result<()> {
        if self.store.is_closed() {
            return Err(Error::closed(BACKEND, operation));
        }
        self.store.failure().map_or(Ok(()), Err)
    }

    /// `stream`, with the TTLs that matter to it kept while it waits: those of `service`, or all.
    ///
    /// The deadline is looked up whenever the stream is polled. A later one than is waited for needs no word: this wakes
    /// in vain and looks again. The world nudges the readers when an earlier one comes up.
    fn expiring<T: Send + 'static>(
        &self,
        mut stream: BoxStream<'static, T>,
        service: Option<ServiceName>,
    ) -> BoxStream<'static, T> {
        let world = self.world.clone();
        let mut alarm = None;
        world.expire();
        poll_fn(move |context| {
            loop {
                if let Poll::Ready(item) = stream.poll_next_unpin(context) {
                    return Poll::Ready(item);
                }
                let Some(deadline) = world.deadline(service.as_ref()) else { return Poll::Pending };
                // Anew each time, since the runtime that polls it may be another than before.
                let alarm = alarm.insert(Box::pin(until(Some(deadline))));
                if alarm.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                world.expire();
            }
        })
        .boxed()
    }

    fn shut(&self) {
        self.store.close();
        self.world.state().detach(self.owner);
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        self.check("register")?;
        options.validate().map_err(|invalid| Error::invalid(BACKEND, "register", &invalid))?;
        self.world.expire();
        let expires = options.ttl.map(|ttl| later(Instant::now(), ttl));
        self.world.state().upsert(instance, expires, self.owner);
        Ok(())
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.check("deregister")?;
        self.world.state().remove([key.clone()]);
        Ok(())
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.check("lookup")?;
        self.world.expire();
        Ok(self.store.snapshot(service))
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.check("services")?;
        self.world.expire();
        Ok(self.store.services())
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        self.expiring(self.store.watch(service), Some(service.clone()))
    }

    fn watch_services(&self) -> NamesStream {
        self.expiring(self.store.watch_services(), None)
    }

    async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        self.check("set_maintenance")?;
        self.world.expire();
        let found = self.world.state().update(key, |entry| {
            let instance = Instance::clone(&entry.instance);
            let instance = match reason {
                Some(reason) => instance.in_maintenance(reason),
                None => instance.with_health(Health::Passing),
            };
            entry.instance = Arc::new(instance);
        });
        if found { Ok(()) } else { Err(not_registered(key)) }
    }

    async fn close(&self) -> Result<()> {
        self.shut();
        Ok(())
    }
}

fn not_registered(key: &InstanceKey) -> Error {
    let invalid = Invalid::new(format!("instance {key}"), "is not registered");
    Error::invalid(BACKEND, "set_maintenance", &invalid)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Wakes;
    fn instance(port: u16) -> Instance {
        Instance::builder("greeter").id("1").address(format!("h:{port}")).build().unwrap()
    }

    fn ttl(seconds: u64) -> RegisterOptions {
        RegisterOptions::new().ttl(Duration::from_secs(seconds))
    }

    #[tokio::test]
    async fn maintenance_lasts_over_a_renewal_and_has_its_reason() {
        let (registry, other) = (MemoryRegistry::new(), instance(1).key());
        registry.register(&instance(1), &ttl(10)).await.unwrap();
        for _ in 0..2 {
            registry.set_maintenance(&other, Some("new disk")).await.unwrap();
        }
        registry.register(&instance(1), &ttl(10)).await.unwrap();
        let found = registry.lookup(other.service()).await.unwrap();
        assert_eq!(found.all()[0].health(), Health::Maintenance);
        assert_eq!(found.all()[0].health_reasons()[0].notes, "new disk");
        registry.set_maintenance(&other, None).await.unwrap();
        assert_eq!(registry.lookup(other.service()).await.unwrap().healthy().count(), 1);
        registry.deregister(&other).await.unwrap();
        let error = registry.set_maintenance(&other, None).await.unwrap_err();
        assert!(error.to_string().contains("instance greeter/1: is not registered"), "{error}");
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
    async fn a_shorter_ttl_reaches_those_who_wait_for_a_longer_one() {
        let registry = MemoryRegistry::new();
        registry.register(&instance(1), &ttl(100)).await.unwrap();
        let (mut watch, mut names) = (registry.watch(instance(1).service()), registry.watch_services());
        assert_eq!(watch.next().await.unwrap().unwrap().len(), 1);
        assert_eq!(names.next().await.unwrap().unwrap().len(), 1);
        let started = Instant::now();
        let shorten = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            registry.register(&instance(1), &ttl(5)).await.unwrap();
            std::future::pending::<()>().await;
        };
        let lapsed = async {
            assert!(watch.next().await.unwrap().unwrap().is_empty());
            started.elapsed().as_secs()
        };
        // Each by itself: one of them alone must notice.
        tokio::select! { at = lapsed => assert_eq!(at, 6), () = shorten => {} }
        assert!(names.next().await.unwrap().unwrap().is_empty());

        registry.register(&instance(1), &ttl(100)).await.unwrap();
        assert_eq!(names.next().await.unwrap().unwrap().len(), 1);
        let started = Instant::now();
        let shorten = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            registry.register(&instance(1), &ttl(5)).await.unwrap();
            std::future::pending::<()>().await;
        };
        let lapsed = async {
            assert!(names.next().await.unwrap().unwrap().is_empty());
            started.elapsed().as_secs()
        };
        tokio::select! { at = lapsed => assert_eq!(at, 6), () = shorten => {} }
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_and_lapses_elsewhere_wake_no_reader() {
        let registry = MemoryRegistry::new();
        let other = Instance::builder("other").id("1").address("h:1").build().unwrap();
        registry.register(&instance(1), &ttl(10)).await.unwrap();
        registry.register(&other, &ttl(60)).await.unwrap();
        let mut here = registry.watch(instance(1).service());
        let mut elsewhere = registry.watch(other.service());
        let (here, elsewhere) = (Wakes::of(&mut here), Wakes::of(&mut elsewhere));
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(3)).await;
            registry.register(&instance(1), &ttl(10)).await.unwrap();
        }
        assert_eq!([here.count(), elsewhere.count()], [0, 0], "renewals");
        tokio::time::advance(Duration::from_secs(11)).await;
        registry.services().await.unwrap();
        assert_eq!((here.count() > 0, elsewhere.count()), (true, 0), "a lapse");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_one_handles_and_hides_nothing_for_good() {
        let one = MemoryRegistry::new();
        let other = one.handle();
        let mut watch = one.watch(instance(1).service());
        assert!(watch.next().await.unwrap().unwrap().is_empty());
        let cut = Error::new(crate::ErrorKind::Unavailable, BACKEND, "outage", "cut off");
        one.fail(cut);
        assert_eq!(watch.next().await.unwrap().unwrap_err().message(), "cut off");
        other.register(&instance(1), &ttl(10)).await.unwrap();
        for failed in [
            one.register(&instance(2), &ttl(10)).await.err(),
            one.deregister(&instance(1).key()).await.err(),
            one.lookup(instance(1).service()).await.err(),
            one.services().await.err(),
        ] {
            assert_eq!(failed.unwrap().message(), "cut off");
        }
        assert_eq!(other.lookup(instance(1).service()).await.unwrap().len(), 1);
        one.heal();
        assert_eq!(watch.next().await.unwrap().unwrap().len(), 1);
        one.fail(Error::new(crate::ErrorKind::Unavailable, BACKEND, "outage", "cut off"));
        one.close().await.unwrap();
        assert_eq!(one.services().await.unwrap_err().kind(), crate::ErrorKind::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ttl_of_any_length_is_taken() {
        let registry = MemoryRegistry::new();
        for ttl in [Duration::MAX, Duration::from_secs(i64::MAX.unsigned_abs() - 10_000_000_000)] {
            let mut watch = registry.watch(instance(1).service());
            registry.register(&instance(1), &RegisterOptions::new().ttl(ttl)).await.unwrap();
            assert_eq!(watch.next().await.unwrap().unwrap().len(), 1);
            let quiet = tokio::time::timeout(Duration::from_secs(3600), watch.next());
            assert!(quiet.await.is_err(), "{ttl:?}");
        }
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
