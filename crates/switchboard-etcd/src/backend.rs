//! The trait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use switchboard_core::{
    Error, Instance, InstanceKey, NamesStream, RegisterOptions, Registry, RegistryUrl, Result, ServiceName,
    Snapshot, SnapshotStream,
};
use switchboard_net::reachable;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::BACKEND;
use crate::client::Client;
use crate::config::{EtcdBuilder, Settings};
use crate::record;
use crate::registrations::{OWN_INTERVAL, OWN_RETRY, Registrations};
use crate::scope::{Instances, Known, Names, Scope};
use crate::watch::Followed;
use crate::wire::KeyValue;

/// How long the names of the members may take to resolve.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);

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
/// | a cluster that has lost what it knew | watches keep what is missing for [`rejoin_grace`](EtcdBuilder::rejoin_grace) |
///
/// Watches of a service share one, and all watches one gRPC stream; each ends with the last of them. Everything runs on the runtime
/// of who asked first; if that ends, watches go on with the runtime of a reader, after an error.
pub struct EtcdRegistry {
    inner: Arc<Inner>,
}

struct Inner {
    client: Arc<Client>,
    registrations: Registrations,
    closed: AtomicBool,
    services: Mutex<HashMap<ServiceName, Weak<Followed<Instances>>>>,
    names: Mutex<Weak<Followed<Names>>>,
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
        Instances { prefix: self.root(), root, service: service.clone() }
    }

    /// What there is of a part of the keys now.
    async fn read<S: Scope>(&self, operation: &'static str, scope: S) -> Result<S::State> {
        self.open(operation)?;
        let (found, _) = self.client.range(operation, scope.root(), scope.keys_only()).await?;
        self.open(operation)?;
        let mut known = Known::new(scope, self.client.notices.clone());
        known.replace(&found, false);
        Ok(known.state())
    }

    /// Has registrations without a TTL renewed from now on.
    fn keep(self: &Arc<Self>) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let inner = Arc::downgrade(self);
        *keeper = Some(tokio::spawn(async move {
            let mut pause = OWN_INTERVAL;
            loop {
                // Not all programs at the same moment.
                tokio::time::sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
                let Some(inner) = inner.upgrade() else { return };
                let renewed = inner.registrations.renew_own(&inner.client).await;
                pause = if renewed { OWN_INTERVAL } else { OWN_RETRY };
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
        self.inner.read("services", Names { root: self.inner.root() }).await
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let inner = &self.inner;
        inner.open("snapshots")?;
        let root = inner.root();
        let (found, _) = inner.client.range("snapshots", &root, false).await?;
        inner.open("snapshots")?;
        let mut services: BTreeMap<ServiceName, Vec<KeyValue>> = BTreeMap::new();
        for entry in found {
            if let Some((service, _)) = record::split(&root, &entry.key) {
                services.entry(service).or_default().push(entry);
            }
        }
        let understood = services.into_iter().map(|(service, entries)| {
            let mut known = Known::new(inner.scope(&service), inner.client.notices.clone());
            known.replace(&entries, false);
            known.state()
        });
        Ok(understood.filter(|snapshot| !snapshot.is_empty()).collect())
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
            let followed = Arc::new(Followed::new(inner.client.clone(), Names { root: inner.root() }));
            *names = Arc::downgrade(&followed);
            followed
        });
        followed.stream("watch_services")
    }

    async fn local_ip(&self) -> Option<IpAddr> {
        let members = &self.inner.client.settings.members;
        for member in members {
            let resolved = timeout(RESOLVE_WITHIN, tokio::net::lookup_host(&member.host)).await;
            let Ok(Ok(found)) = resolved else { continue };
            // A member on this machine says nothing of how others reach it.
            let ip = found.filter_map(reachable::towards).find(|ip| !ip.is_loopback());
            if ip.is_some() {
                return ip;
            }
        }
        None
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
