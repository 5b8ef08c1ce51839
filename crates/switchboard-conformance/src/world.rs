use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use futures::future::join_all;
use switchboard_core::{
    ErrorKind, Instance, InstanceBuilder, InstanceKey, RegisterOptions, Registry, Result, ServiceName,
    Snapshot,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::follow::Follow;
use crate::{Backend, Outage, Outcome, Profile};

/// The clause being tested and the limits it is tested with.
pub(crate) struct Rules {
    case: &'static str,
    pub(crate) profile: Profile,
}

impl Rules {
    /// Fails the case.
    pub(crate) fn broken(&self, how: &str) -> ! {
        panic!("the registry breaks {}: {how}", self.case)
    }
}

/// How a case ends that is about registering, where one can only read.
pub(crate) const ONLY_READ: Outcome = Outcome::Skipped("handles only read (Backend::write)");

/// Whether handles can only read.
pub(crate) async fn is_only_read(backend: &dyn Backend) -> bool {
    World::new(backend, "is_only_read").is_only_read().await
}

/// Writes into the world what handles cannot register.
struct Pen<'b> {
    backend: &'b dyn Backend,
    written: Mutex<BTreeMap<ServiceName, Vec<Instance>>>,
}

impl Pen<'_> {
    /// Changes what there is of `service`; `false`, and nothing is done, where handles register.
    async fn write(&self, service: &ServiceName, change: impl FnOnce(&mut Vec<Instance>)) -> bool {
        let mut written = self.written.lock().await;
        let instances = written.entry(service.clone()).or_default();
        let mut changed = instances.clone();
        change(&mut changed);
        let done = self.backend.write(service, &changed).await;
        if done {
            *instances = changed;
        }
        done
    }

    /// Takes back what is left.
    async fn erase(&self) {
        for service in std::mem::take(&mut *self.written.lock().await).into_keys() {
            self.backend.write(&service, &[]).await;
        }
    }
}

/// One case at work: names of its own, and the handles it opened.
pub(crate) struct World<'b> {
    backend: &'b dyn Backend,
    pen: Arc<Pen<'b>>,
    rules: Arc<Rules>,
    suffix: String,
    /// Of the last address given out.
    port: AtomicU16,
    handles: Vec<Arc<dyn Registry>>,
}

impl<'b> World<'b> {
    /// Begins the case of this name.
    pub(crate) fn new(backend: &'b dyn Backend, case: &'static str) -> Self {
        let suffix = format!("{:012x}", fastrand::u64(..1 << 48));
        let rules = Arc::new(Rules { case, profile: backend.profile() });
        let pen = Arc::new(Pen { backend, written: Mutex::default() });
        Self { backend, pen, rules, suffix, port: AtomicU16::new(7000), handles: Vec::new() }
    }

    /// Begins the case with two handles.
    pub(crate) async fn two(backend: &'b dyn Backend, case: &'static str) -> (Self, Handle<'b>, Handle<'b>) {
        let mut world = Self::new(backend, case);
        let (one, two) = (world.open().await, world.open().await);
        (world, one, two)
    }

    /// Another handle.
    pub(crate) async fn open(&mut self) -> Handle<'b> {
        let registry = bounded(&self.rules, "open", self.backend.open()).await;
        self.handles.push(registry.clone());
        self.handle(registry)
    }

    /// Another handle, and how to bring an outage about for it; `None` if the backend cannot.
    pub(crate) async fn open_fragile(&mut self) -> Option<(Handle<'b>, Box<dyn Outage>)> {
        let (registry, outage) = bounded(&self.rules, "open_fragile", self.backend.open_fragile()).await?;
        self.handles.push(registry.clone());
        Some((self.handle(registry), outage))
    }

    fn handle(&self, registry: Arc<dyn Registry>) -> Handle<'b> {
        Handle { registry, pen: self.pen.clone(), rules: self.rules.clone() }
    }

    /// Whether handles can only read.
    pub(crate) async fn is_only_read(&self) -> bool {
        bounded(&self.rules, "write", self.backend.write(&self.service("nobody"), &[])).await
    }

    pub(crate) fn profile(&self) -> &Profile {
        &self.rules.profile
    }

    /// A service name nobody else uses; another `kind` is another name.
    pub(crate) fn service(&self, kind: &str) -> ServiceName {
        self.parsed(&format!("{kind}-{}", self.suffix))
    }

    /// What no other case has, to make names from.
    pub(crate) fn suffix(&self) -> &str {
        &self.suffix
    }

    pub(crate) fn parsed(&self, name: &str) -> ServiceName {
        ServiceName::new(name)
            .unwrap_or_else(|invalid| self.broken(&format!("the suite is wrong: {invalid}")))
    }

    /// A small instance of `service`.
    pub(crate) fn instance(&self, service: &ServiceName) -> Instance {
        self.built(self.builder(service))
    }

    /// The same, to go on with; each has an address of its own.
    pub(crate) fn builder(&self, service: &ServiceName) -> InstanceBuilder {
        let port = self.port.fetch_add(1, Relaxed) + 1;
        Instance::builder(service).address(self.address(port))
    }

    /// An address with this port that instances may have.
    pub(crate) fn address(&self, port: u16) -> std::net::SocketAddr {
        (self.profile().host, port).into()
    }

    pub(crate) fn built(&self, builder: InstanceBuilder) -> Instance {
        builder.build().unwrap_or_else(|invalid| self.broken(&format!("the suite is wrong: {invalid}")))
    }

    /// The key under which `instance` is read, which is the registry's to give where it makes the ids.
    pub(crate) fn key(&self, instance: &Instance) -> InstanceKey {
        self.profile().carried(instance).key()
    }

    /// What `now` has of `instance`.
    pub(crate) fn seen<'s>(&self, now: &'s Snapshot, instance: &Instance) -> Option<&'s Arc<Instance>> {
        now.get(self.key(instance).id())
    }

    pub(crate) fn ensure(&self, holds: bool, how: impl FnOnce() -> String) {
        if !holds {
            self.broken(&how());
        }
    }

    pub(crate) fn broken(&self, how: &str) -> ! {
        self.rules.broken(how)
    }

    /// Forgets a handle, so that nothing but the case holds it.
    pub(crate) fn release(&mut self, handle: &Handle<'_>) {
        self.handles.retain(|held| !Arc::ptr_eq(held, &handle.registry));
    }

    /// Ends the case: every handle is closed, so that nothing stays behind.
    pub(crate) async fn done(self) -> Outcome {
        let closed =
            join_all(self.handles.iter().map(|handle| bounded(&self.rules, "close", handle.close())));
        for result in closed.await {
            self.ensure(result.is_ok(), || format!("close failed: {result:?}"));
        }
        bounded(&self.rules, "write", self.pen.erase()).await;
        Outcome::Passed
    }
}

/// A handle whose calls have a limit, and must succeed unless they are said to be tried.
#[derive(Clone)]
pub(crate) struct Handle<'b> {
    registry: Arc<dyn Registry>,
    pen: Arc<Pen<'b>>,
    rules: Arc<Rules>,
}

impl Handle<'_> {
    /// The registry itself.
    pub(crate) fn registry(&self) -> &Arc<dyn Registry> {
        &self.registry
    }

    /// Registers without a TTL; writes it, where handles only read.
    pub(crate) async fn register(&self, instance: &Instance) {
        let put = |all: &mut Vec<Instance>| {
            all.retain(|other| other.id() != instance.id());
            all.push(instance.clone());
        };
        if self.write(instance.service(), put).await {
            return;
        }
        self.must("register", self.try_register(instance, &RegisterOptions::new())).await;
    }

    /// Registers with a TTL.
    pub(crate) async fn register_for(&self, instance: &Instance, ttl: Duration) {
        self.must("register", self.try_register(instance, &RegisterOptions::new().ttl(ttl))).await;
    }

    /// Deregisters what was registered with this key; takes it out again, where handles only read.
    pub(crate) async fn deregister(&self, key: &InstanceKey) {
        if self.write(key.service(), |all| all.retain(|other| other.id() != key.id())).await {
            return;
        }
        self.must("deregister", self.try_deregister(key)).await;
    }

    async fn write(&self, service: &ServiceName, change: impl FnOnce(&mut Vec<Instance>)) -> bool {
        bounded(&self.rules, "write", self.pen.write(service, change)).await
    }

    /// What a lookup finds.
    pub(crate) async fn lookup(&self, service: &ServiceName) -> Snapshot {
        let found = self.must("lookup", self.try_lookup(service)).await;
        if found.service() != service {
            self.rules.broken(&format!("lookup of {service:?} gave a snapshot of {:?}", found.service()));
        }
        found
    }

    pub(crate) async fn services(&self) -> BTreeSet<ServiceName> {
        self.must("services", self.try_services()).await
    }

    pub(crate) async fn close(&self) {
        self.must("close", self.try_close()).await;
    }

    pub(crate) async fn suspect(&self, key: &InstanceKey) {
        bounded(&self.rules, "suspect", self.registry.suspect(key)).await;
    }

    pub(crate) fn watch(&self, service: &ServiceName) -> Follow<Snapshot> {
        Follow::new(format!("watch of {service:?}"), self.registry.watch(service), self.rules.clone())
    }

    pub(crate) fn watch_services(&self) -> Follow<BTreeSet<ServiceName>> {
        Follow::new("watch_services".into(), self.registry.watch_services(), self.rules.clone())
    }

    /// The same, where there is a list of names.
    pub(crate) fn watch_listed(&self) -> Option<Follow<BTreeSet<ServiceName>>> {
        self.rules.profile.lists.then(|| self.watch_services())
    }

    /// A lookup made now must find `instance`, as the backend carries it.
    pub(crate) async fn finds(&self, instance: &Instance) {
        let (found, wanted) = (self.lookup(instance.service()).await, self.rules.profile.carried(instance));
        if found.get(wanted.id()).map(AsRef::as_ref) != Some(&wanted) {
            self.rules.broken(&format!("lookup should have found {wanted:#?} and gave {found:#?}"));
        }
    }

    /// A lookup made now must find nothing.
    pub(crate) async fn finds_nothing_of(&self, service: &ServiceName) {
        let found = self.lookup(service).await;
        if !found.is_empty() {
            self.rules.broken(&format!("lookup of {service:?} should have been empty and gave {found:#?}"));
        }
    }

    pub(crate) async fn try_register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        bounded(&self.rules, "register", self.registry.register(instance, options)).await
    }

    pub(crate) async fn try_deregister(&self, key: &InstanceKey) -> Result<()> {
        bounded(&self.rules, "deregister", self.registry.deregister(key)).await
    }

    pub(crate) async fn try_set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        bounded(&self.rules, "set_maintenance", self.registry.set_maintenance(key, reason)).await
    }

    pub(crate) async fn try_lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        bounded(&self.rules, "lookup", self.registry.lookup(service)).await
    }

    pub(crate) async fn try_services(&self) -> Result<BTreeSet<ServiceName>> {
        bounded(&self.rules, "services", self.registry.services()).await
    }

    pub(crate) async fn try_close(&self) -> Result<()> {
        bounded(&self.rules, "close", self.registry.close()).await
    }

    /// The error of a call that must be answered with `kind`.
    pub(crate) fn must_fail<T>(&self, call: &str, kind: ErrorKind, result: Result<T>) -> String {
        match result {
            Err(error) if error.kind() == kind => error.to_string(),
            Err(error) => {
                self.rules.broken(&format!("{call} should have failed as {kind:?} and did with: {error}"))
            }
            Ok(_) => self.rules.broken(&format!("{call} should have failed as {kind:?} and succeeded")),
        }
    }

    async fn must<T>(&self, call: &str, made: impl Future<Output = Result<T>>) -> T {
        match made.await {
            Ok(answer) => answer,
            Err(error) => self.rules.broken(&format!("{call} failed: {error}")),
        }
    }
}

/// `call` with the limit that the profile sets on every call.
async fn bounded<T>(rules: &Rules, call: &str, made: impl Future<Output = T>) -> T {
    let limit = rules.profile.answer;
    match timeout(limit, made).await {
        Ok(answer) => answer,
        Err(_) => rules.broken(&format!("{call} was not answered within {limit:?}")),
    }
}
