use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use switchboard_core::{
    ErrorKind, Instance, InstanceBuilder, InstanceKey, RegisterOptions, Registry, Result, ServiceName,
    Snapshot,
};
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

/// One case at work: names of its own, and the handles it opened.
pub(crate) struct World<'b> {
    backend: &'b dyn Backend,
    rules: Arc<Rules>,
    suffix: String,
    handles: Vec<Arc<dyn Registry>>,
}

impl<'b> World<'b> {
    /// Begins the case of this name.
    pub(crate) fn new(backend: &'b dyn Backend, case: &'static str) -> Self {
        let suffix = format!("{:012x}", fastrand::u64(..1 << 48));
        let rules = Arc::new(Rules { case, profile: backend.profile() });
        Self { backend, rules, suffix, handles: Vec::new() }
    }

    /// Begins the case with two handles.
    pub(crate) async fn two(backend: &'b dyn Backend, case: &'static str) -> (Self, Handle, Handle) {
        let mut world = Self::new(backend, case);
        let (one, two) = (world.open().await, world.open().await);
        (world, one, two)
    }

    /// Another handle.
    pub(crate) async fn open(&mut self) -> Handle {
        let registry = bounded(&self.rules, "open", self.backend.open()).await;
        self.handles.push(registry.clone());
        Handle { registry, rules: self.rules.clone() }
    }

    /// Another handle, and how to bring an outage about for it; `None` if the backend cannot.
    pub(crate) async fn open_fragile(&mut self) -> Option<(Handle, Box<dyn Outage>)> {
        let (registry, outage) = bounded(&self.rules, "open_fragile", self.backend.open_fragile()).await?;
        self.handles.push(registry.clone());
        Some((Handle { registry, rules: self.rules.clone() }, outage))
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

    /// The same, to go on with.
    pub(crate) fn builder(&self, service: &ServiceName) -> InstanceBuilder {
        Instance::builder(service).address(self.address(7001))
    }

    /// An address with this port that instances may have.
    pub(crate) fn address(&self, port: u16) -> std::net::SocketAddr {
        (self.profile().host, port).into()
    }

    pub(crate) fn built(&self, builder: InstanceBuilder) -> Instance {
        builder.build().unwrap_or_else(|invalid| self.broken(&format!("the suite is wrong: {invalid}")))
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
    pub(crate) fn release(&mut self, handle: &Handle) {
        self.handles.retain(|held| !Arc::ptr_eq(held, &handle.registry));
    }

    /// Ends the case: every handle is closed, so that nothing stays behind.
    pub(crate) async fn done(self) -> Outcome {
        let closed =
            join_all(self.handles.iter().map(|handle| bounded(&self.rules, "close", handle.close())));
        for result in closed.await {
            self.ensure(result.is_ok(), || format!("close failed: {result:?}"));
        }
        Outcome::Passed
    }
}

/// A handle whose calls have a limit, and must succeed unless they are said to be tried.
#[derive(Clone)]
pub(crate) struct Handle {
    registry: Arc<dyn Registry>,
    rules: Arc<Rules>,
}

impl Handle {
    /// The registry itself.
    pub(crate) fn registry(&self) -> &Arc<dyn Registry> {
        &self.registry
    }

    /// Registers without a TTL.
    pub(crate) async fn register(&self, instance: &Instance) {
        self.must("register", self.try_register(instance, &RegisterOptions::new())).await;
    }

    /// Registers with a TTL.
    pub(crate) async fn register_for(&self, instance: &Instance, ttl: Duration) {
        self.must("register", self.try_register(instance, &RegisterOptions::new().ttl(ttl))).await;
    }

    pub(crate) async fn deregister(&self, key: &InstanceKey) {
        self.must("deregister", self.try_deregister(key)).await;
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

    /// A lookup made now must find `instance`, as the backend carries it.
    pub(crate) async fn finds(&self, instance: &Instance) {
        let (found, wanted) = (self.lookup(instance.service()).await, self.rules.profile.carried(instance));
        if found.get(instance.id()).map(AsRef::as_ref) != Some(&wanted) {
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
