//! The trait.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use futures::StreamExt;
use switchboard_core::{
    Error, Instance, InstanceKey, NamesStream, RegisterOptions, Registry, RegistryUrl, Result, ServiceName,
    Snapshot, SnapshotStream,
};
use tokio::task::JoinHandle;

use crate::BACKEND;
use crate::client::Client;
use crate::config::{EtcdBuilder, Settings};
use crate::record;
use crate::registrations::{OWN_INTERVAL, Registrations};
use crate::scope::{Instances, Names, Scope};
use crate::watch::Followed;

/// A registry on etcd; see [the crate](crate).
///
/// | | |
/// |---|---|
/// | TTL | that of a lease, in whole seconds and 2 s at least; what etcd grants is honoured. It ends up to 1 s late, and a new leader gives every lease all of it again |
/// | no TTL | a lease of 30 s that this handle renews, so a killed process is gone within 31 s |
/// | a lost lease, a wiped cluster, a key that somebody deleted | the next renewal puts it back |
/// | health | what is there passes; etcd checks nothing |
/// | a member without a leader | an error, and another member is asked |
/// | compaction while not heard | all is read again; nothing is told as empty |
///
/// Watches of a service share one; it ends with the last of them.
pub struct EtcdRegistry {
    inner: Arc<Inner>,
}

struct Inner {
    client: Arc<Client>,
    registrations: Registrations,
    closed: AtomicBool,
    services: Mutex<HashMap<ServiceName, Weak<Followed<Snapshot>>>>,
    names: Mutex<Weak<Followed<BTreeSet<ServiceName>>>>,
    /// What renews the registrations that have no TTL.
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl EtcdRegistry {
    /// Sets one up.
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder::default()
    }

    /// Opens the registry of a URL such as `etcd://127.0.0.1:2379/prefix`.
    ///
    /// # Errors
    ///
    /// `Invalid` for what is no such URL; nothing is connected yet.
    pub fn from_url(url: &RegistryUrl) -> Result<Self> {
        EtcdBuilder::from_url(url).map_err(|invalid| Error::invalid(BACKEND, "connect", &invalid))?.open()
    }

    pub(crate) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(crate) fn new(settings: Settings) -> Self {
        let inner = Inner {
            client: Arc::new(Client::new(settings)),
            registrations: Registrations::default(),
            closed: AtomicBool::new(false),
            services: Mutex::default(),
            names: Mutex::default(),
            keeper: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl Inner {
    /// Whether something can be asked for: it is not closed, and there is a runtime.
    fn open(&self, operation: &'static str) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed(BACKEND, operation));
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::no_runtime(BACKEND, operation));
        }
        Ok(())
    }

    fn root(&self) -> String {
        record::root(&self.client.settings.prefix)
    }

    fn scope(&self, service: &ServiceName) -> Instances {
        let settings = &self.client.settings;
        let root = record::service_root(&settings.prefix, settings.wire, service);
        Instances::new(self.root(), root, service.clone())
    }

    /// What there is of a part of the keys now.
    async fn read<S: Scope>(&self, operation: &'static str, mut scope: S) -> Result<S::State> {
        self.open(operation)?;
        let (found, _) = self.client.range(operation, scope.root(), scope.keys_only()).await?;
        self.open(operation)?;
        for entry in &found {
            scope.put(&entry.key, &entry.value);
        }
        Ok(scope.state())
    }

    /// Has registrations without a TTL renewed from now on.
    fn keep(self: &Arc<Self>) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let inner = Arc::downgrade(self);
        *keeper = Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(OWN_INTERVAL).await;
                let Some(inner) = inner.upgrade() else { return };
                inner.registrations.renew_own(&inner.client).await;
            }
        }));
    }

    fn stop(&self) {
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            keeper.abort();
        }
    }
}

#[async_trait]
impl Registry for EtcdRegistry {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        let inner = &self.inner;
        inner.open("register")?;
        options.validate().map_err(|invalid| Error::invalid(BACKEND, "register", &invalid))?;
        inner.registrations.register(&inner.client, instance, options).await?;
        if inner.closed.load(Ordering::Acquire) {
            // It was closed meanwhile.
            let _ = inner.registrations.deregister(&inner.client, &instance.key()).await;
            return Err(Error::closed(BACKEND, "register"));
        }
        if options.ttl.is_none() {
            inner.keep();
        }
        Ok(())
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.inner.open("deregister")?;
        self.inner.registrations.deregister(&self.inner.client, key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.inner.read("lookup", self.inner.scope(service)).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.inner.read("services", Names::new(self.inner.root())).await
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        let inner = &self.inner;
        if let Err(error) = inner.open("watch") {
            return futures::stream::once(async { Err(error) }).boxed();
        }
        let mut services = inner.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.retain(|_, followed| followed.strong_count() > 0);
        let followed = services.get(service).and_then(Weak::upgrade).unwrap_or_else(|| {
            let followed = Arc::new(Followed::new(inner.client.clone(), inner.scope(service)));
            services.insert(service.clone(), Arc::downgrade(&followed));
            followed
        });
        followed.stream("watch")
    }

    fn watch_services(&self) -> NamesStream {
        let inner = &self.inner;
        if let Err(error) = inner.open("watch_services") {
            return futures::stream::once(async { Err(error) }).boxed();
        }
        let mut names = inner.names.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = names.upgrade().unwrap_or_else(|| {
            let followed = Arc::new(Followed::new(inner.client.clone(), Names::new(inner.root())));
            *names = Arc::downgrade(&followed);
            followed
        });
        followed.stream("watch_services")
    }

    async fn close(&self) -> Result<()> {
        let inner = &self.inner;
        if inner.closed.swap(true, Ordering::AcqRel) && inner.registrations.is_empty() {
            return Ok(());
        }
        inner.stop();
        let followed: Vec<_> = {
            let services = inner.services.lock().unwrap_or_else(PoisonError::into_inner);
            services.values().filter_map(Weak::upgrade).collect()
        };
        for followed in followed {
            followed.close();
        }
        let names = inner.names.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(names) = names {
            names.close();
        }
        if inner.registrations.is_empty() {
            return Ok(());
        }
        inner.registrations.revoke_all(&inner.client).await
    }
}

/// Deregisters in the background what is still registered, if there is a runtime to do so.
impl Drop for EtcdRegistry {
    fn drop(&mut self) {
        self.inner.stop();
        if self.inner.registrations.is_empty() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let inner = self.inner.clone();
            runtime.spawn(async move {
                let _ = inner.registrations.revoke_all(&inner.client).await;
            });
        }
    }
}

impl fmt::Display for EtcdRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.client.settings.fmt(f)
    }
}

impl fmt::Debug for EtcdRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EtcdRegistry").field(&self.to_string()).finish()
    }
}
