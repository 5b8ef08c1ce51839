//! The trait.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt};
use switchboard_core::{
    Error, Instance, InstanceKey, NamesStream, RegisterOptions, Registry, RegistryUrl, Result, ServiceName,
    Snapshot, SnapshotStream, Store,
};
use tokio::time::Instant;

use crate::BACKEND;
use crate::client::{Client, Made, PODS, SLICES};
use crate::config::{KubernetesBuilder, Registration};
use crate::follow::Followed;
use crate::readiness::Readiness;
use crate::record::SERVICE;
use crate::registrations::Registrations;
use crate::watch::{Watches, stream};
use crate::world::{Scope, World};

/// How many objects an answer holds at most; more come in several.
const PAGE: u32 = 500;

/// A registry on Kubernetes; see [the crate](crate).
pub struct KubernetesRegistry {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) client: Arc<Client>,
    watches: Watches,
    writer: Writer,
    closed: AtomicBool,
}

/// What registering does.
enum Writer {
    Nobody,
    Readiness(Readiness),
    Slices(Registrations),
}

impl KubernetesRegistry {
    /// Sets one up.
    pub fn builder() -> KubernetesBuilder {
        KubernetesBuilder::default()
    }

    /// Opens the registry of a URL such as `kubernetes:///shop?port=grpc`.
    ///
    /// # Errors
    ///
    /// `Invalid` for what is no such URL; nothing is connected yet.
    pub fn from_url(url: &RegistryUrl) -> Result<Self> {
        KubernetesBuilder::from_url(url)
            .map_err(|invalid| Error::invalid(BACKEND, "connect", &invalid))?
            .open()
    }

    pub(crate) fn new(settings: KubernetesBuilder) -> Self {
        let writer = match settings.registration {
            Registration::None => Writer::Nobody,
            Registration::Readiness => Writer::Readiness(Readiness::default()),
            Registration::Slice => Writer::Slices(Registrations::default()),
        };
        let inner = Inner {
            client: Arc::new(Client::new(settings)),
            watches: Watches::default(),
            writer,
            closed: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Whether `service` can be followed, and in which namespace it is.
    fn followed(&self, operation: &'static str) -> Result<()> {
        self.inner.open(operation)?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::no_runtime(BACKEND, operation));
        }
        Ok(())
    }
}

impl Inner {
    pub(crate) fn open(&self, operation: &'static str) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(Error::closed(BACKEND, operation)) } else { Ok(()) }
    }

    /// Why nobody registers here by a program.
    fn refused(&self, operation: &'static str) -> Error {
        match self.open(operation) {
            Err(closed) => closed,
            Ok(()) => {
                Error::read_only(BACKEND, operation, "Kubernetes, by its Services and the readiness of pods,")
            }
        }
    }

    /// What there is now, of one service or of the whole namespace.
    async fn read(&self, operation: &'static str, scope: Scope) -> Result<Store> {
        self.open(operation)?;
        let made = self.client.get(operation).await?;
        let (namespace, selector) = match &scope {
            Scope::Service(name) => {
                let place = self.client.place(operation, name)?;
                (place.namespace, format!("{SERVICE}={}", place.service))
            }
            Scope::Namespace(namespace) => (namespace.clone(), SERVICE.to_owned()),
        };
        let namespace = namespace.unwrap_or_else(|| made.namespace.clone());
        let mut world = World::new(scope, self.client.settings.clone());
        let (slices, pods) = futures::try_join!(
            self.slices(operation, &made, &namespace, &selector),
            self.pods(operation, &made, &namespace),
        )?;
        self.open(operation)?;
        world.list();
        for slice in &slices {
            world.listed(slice);
        }
        for (name, labels) in pods {
            world.pod_listed(name, labels);
        }
        let now = Instant::now();
        world.list_done(now);
        world.list_pods_done(now);
        let store = Store::new(BACKEND);
        world.publish(&store, now, Timestamp::now());
        Ok(store)
    }

    /// All slices that a selector chooses.
    pub(crate) async fn slices(
        &self,
        operation: &'static str,
        made: &Made,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<EndpointSlice>> {
        let api: Api<EndpointSlice> = Api::namespaced(made.kube.clone(), namespace);
        let all = async {
            let mut params = ListParams::default().labels(selector).limit(PAGE);
            let mut found = Vec::new();
            loop {
                let page = api.list(&params).await?;
                found.extend(page.items);
                match page.metadata.continue_.filter(|next| !next.is_empty()) {
                    None => return Ok(found),
                    Some(next) => params = params.continue_token(&next),
                }
            }
        };
        self.client.call(operation, SLICES, namespace, all).await
    }

    /// The labels of all pods, where they are wanted.
    async fn pods(
        &self,
        operation: &'static str,
        made: &Made,
        namespace: &str,
    ) -> Result<Vec<(String, BTreeMap<String, String>)>> {
        if self.client.settings.labels.is_none() {
            return Ok(Vec::new());
        }
        let api: Api<PartialObjectMeta<Pod>> = Api::namespaced(made.kube.clone(), namespace);
        let all = async {
            let mut params = ListParams::default().limit(PAGE);
            let mut found = Vec::new();
            loop {
                let page = api.list(&params).await?;
                found.extend(page.items.into_iter().map(|pod| (pod.name_any(), pod.labels().clone())));
                match page.metadata.continue_.filter(|next| !next.is_empty()) {
                    None => return Ok(found),
                    Some(next) => params = params.continue_token(&next),
                }
            }
        };
        self.client.call(operation, PODS, namespace, all).await
    }

    /// Ends what was begun while it was closed.
    fn close_late(&self, followed: &Followed) {
        if self.closed.load(Ordering::Acquire) {
            followed.close();
        }
    }

    async fn withdraw_all(&self) -> Result<()> {
        match &self.writer {
            Writer::Nobody => Ok(()),
            Writer::Readiness(readiness) => readiness.withdraw_all(&self.client).await,
            Writer::Slices(registrations) => registrations.withdraw_all(&self.client).await,
        }
    }

    fn has_registered(&self) -> bool {
        match &self.writer {
            Writer::Nobody => false,
            Writer::Readiness(readiness) => !readiness.is_empty(),
            Writer::Slices(registrations) => !registrations.is_empty(),
        }
    }
}

#[async_trait]
impl Registry for KubernetesRegistry {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        let inner = &self.inner;
        if let Writer::Nobody = inner.writer {
            return Err(inner.refused("register"));
        }
        inner.open("register")?;
        options.validate().map_err(|invalid| Error::invalid(BACKEND, "register", &invalid))?;
        let client = &inner.client;
        match &inner.writer {
            Writer::Nobody => {}
            Writer::Readiness(readiness) => readiness.register(client, &instance.key()).await?,
            Writer::Slices(registrations) => registrations.register(client, instance, options.ttl).await?,
        }
        if inner.closed.load(Ordering::Acquire) {
            // It was closed meanwhile.
            let _ = inner.withdraw_all().await;
            return Err(Error::closed(BACKEND, "register"));
        }
        Ok(())
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        let inner = &self.inner;
        match &inner.writer {
            Writer::Nobody => Err(inner.refused("deregister")),
            Writer::Readiness(readiness) => {
                inner.open("deregister")?;
                readiness.deregister(&inner.client, key).await
            }
            Writer::Slices(registrations) => {
                inner.open("deregister")?;
                registrations.deregister(&inner.client, key).await
            }
        }
    }

    async fn set_maintenance(&self, _: &InstanceKey, _: Option<&str>) -> Result<()> {
        self.inner.open("set_maintenance")?;
        if let Writer::Nobody = self.inner.writer {
            return Err(self.inner.refused("set_maintenance"));
        }
        let message = "Kubernetes has no maintenance of single instances; deregister it, or take the pod out by its labels";
        Err(Error::new(switchboard_core::ErrorKind::Unsupported, BACKEND, "set_maintenance", message))
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        let store = self.inner.read("lookup", Scope::Service(service.clone())).await?;
        Ok(store.snapshot(service))
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        Ok(self.inner.read("services", Scope::Namespace(None)).await?.services())
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let store = self.inner.read("services", Scope::Namespace(None)).await?;
        Ok(store.services().iter().map(|service| store.snapshot(service)).collect())
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        let place = match self.followed("watch").and_then(|()| self.inner.client.place("watch", service)) {
            Ok(place) => place,
            Err(error) => return futures::stream::once(async { Err(error) }).boxed(),
        };
        let followed = self.inner.watches.of(&self.inner.client, service, place.namespace.as_deref());
        self.inner.close_late(&followed);
        let service = service.clone();
        stream(followed, move |store| store.watch(&service))
    }

    fn watch_services(&self) -> NamesStream {
        if let Err(error) = self.followed("watch_services") {
            return futures::stream::once(async { Err(error) }).boxed();
        }
        let followed = self.inner.watches.of_names(&self.inner.client);
        self.inner.close_late(&followed);
        stream(followed, Store::watch_services)
    }

    async fn close(&self) -> Result<()> {
        let inner = &self.inner;
        inner.closed.store(true, Ordering::Release);
        inner.watches.close();
        if inner.has_registered() { inner.withdraw_all().await } else { Ok(()) }
    }
}

/// Deregisters in the background what is still registered, if there is a runtime to do so.
impl Drop for KubernetesRegistry {
    fn drop(&mut self) {
        if !self.inner.has_registered() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let inner = self.inner.clone();
            runtime.spawn(async move {
                let _ = inner.withdraw_all().await;
            });
        }
    }
}

impl fmt::Display for KubernetesRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.client.settings.fmt(f)
    }
}

impl fmt::Debug for KubernetesRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KubernetesRegistry").field(&self.to_string()).finish()
    }
}
