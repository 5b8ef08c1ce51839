//! A registry with one flaw.

use std::collections::BTreeSet;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use switchboard_conformance::{Backend, Outage, Profile, async_trait};
use switchboard_core::{
    Instance, InstanceKey, MemoryRegistry, NamesStream, RegisterOptions, Registry, Result, ServiceName,
    Snapshot, SnapshotStream,
};

/// What a broken registry does differently; by default, nothing. There is one for each handle.
#[async_trait]
pub(crate) trait Flaw: Send + Sync + 'static {
    /// What is registered in place of `instance`.
    fn written(&self, instance: &Instance) -> Instance {
        instance.clone()
    }

    /// What is read in place of `snapshot`.
    fn read(&self, snapshot: Snapshot) -> Snapshot {
        snapshot
    }

    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        inner.register(it, options).await
    }

    async fn deregister(&self, inner: &MemoryRegistry, key: &InstanceKey) -> Result<()> {
        inner.deregister(key).await
    }

    async fn lookup(&self, inner: &MemoryRegistry, service: &ServiceName) -> Result<Snapshot> {
        inner.lookup(service).await
    }

    async fn services(&self, inner: &MemoryRegistry) -> Result<BTreeSet<ServiceName>> {
        inner.services().await
    }

    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        inner.watch(service)
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        inner.watch_services()
    }

    async fn suspect(&self, inner: &MemoryRegistry, key: &InstanceKey) {
        inner.suspect(key).await;
    }

    async fn set_maintenance(
        &self,
        inner: &MemoryRegistry,
        key: &InstanceKey,
        reason: Option<&str>,
    ) -> Result<()> {
        inner.set_maintenance(key, reason).await
    }

    async fn close(&self, inner: &MemoryRegistry) -> Result<()> {
        inner.close().await
    }
}

/// No flaw at all.
#[derive(Default)]
pub(crate) struct Sound;

impl Flaw for Sound {}

/// Registers something else than it was given.
pub(crate) struct Writes(pub(crate) fn(&mut Value));

impl Flaw for Writes {
    fn written(&self, instance: &Instance) -> Instance {
        edit(instance, self.0)
    }
}

/// `instance` with its serialized form changed.
pub(crate) fn edit(instance: &Instance, change: impl FnOnce(&mut Value)) -> Instance {
    let mut json = serde_json::to_value(instance).expect("an instance serializes");
    change(&mut json);
    serde_json::from_value(json).expect("a flaw makes valid instances")
}

/// A world of memory registries that all have the flaw.
pub(crate) struct World<M> {
    memory: MemoryRegistry,
    flaw: M,
    profile: Profile,
    /// Instances are written past the handles.
    only_read: bool,
}

impl<F: Flaw, M: Fn() -> F + Send + Sync> World<M> {
    /// A new world in which `flaw` makes the flaw of each handle.
    pub(crate) fn new(flaw: M) -> Self {
        let profile = Profile::new().ttl(Some(Duration::from_millis(400))).shared_ids(true);
        Self { memory: MemoryRegistry::new(), flaw, profile, only_read: false }
    }

    /// As a world whose handles can only read.
    pub(crate) fn only_read(mut self) -> Self {
        self.only_read = true;
        self
    }

    /// With another profile.
    pub(crate) fn profile(mut self, change: impl FnOnce(Profile) -> Profile) -> Self {
        self.profile = change(self.profile);
        self
    }
}

#[async_trait]
impl<F: Flaw, M: Fn() -> F + Send + Sync> Backend for World<M> {
    fn profile(&self) -> Profile {
        self.profile.clone()
    }

    async fn open(&self) -> Arc<dyn Registry> {
        Arc::new(Broken { inner: Arc::new(self.memory.handle()), flaw: Arc::new((self.flaw)()) })
    }

    async fn write(&self, service: &ServiceName, instances: &[Instance]) -> bool {
        if self.only_read {
            let before = self.memory.lookup(service).await.expect("it is open");
            for gone in before.all().iter().filter(|old| instances.iter().all(|new| new.id() != old.id())) {
                self.memory.deregister(&gone.key()).await.expect("it is open");
            }
            for instance in instances {
                self.memory.register(instance, &RegisterOptions::new()).await.expect("it is open");
            }
        }
        self.only_read
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let inner = Arc::new(self.memory.handle());
        let broken = Broken { inner: inner.clone(), flaw: Arc::new((self.flaw)()) };
        Some((Arc::new(broken), Box::new(inner)))
    }
}

struct Broken<F> {
    inner: Arc<MemoryRegistry>,
    flaw: Arc<F>,
}

#[async_trait]
impl<F: Flaw> Registry for Broken<F> {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        self.flaw.register(&self.inner, &self.flaw.written(instance), options).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.flaw.deregister(&self.inner, key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        Ok(self.flaw.read(self.flaw.lookup(&self.inner, service).await?))
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.flaw.services(&self.inner).await
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        let flaw = self.flaw.clone();
        self.flaw.watch(&self.inner, service).map(move |item| Ok(flaw.read(item?))).boxed()
    }

    fn watch_services(&self) -> NamesStream {
        self.flaw.watch_services(&self.inner)
    }

    async fn suspect(&self, key: &InstanceKey) {
        self.flaw.suspect(&self.inner, key).await;
    }

    async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        self.flaw.set_maintenance(&self.inner, key, reason).await
    }

    async fn close(&self) -> Result<()> {
        self.flaw.close(&self.inner).await
    }
}

impl<F> Debug for Broken<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broken({:?})", self.inner)
    }
}

impl<F> fmt::Display for Broken<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken:{}", self.inner)
    }
}
