use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use switchboard_core::{
    Instance, InstanceKey, NamesStream, RegisterOptions, Registry, Result, ServiceName, Snapshot,
    SnapshotStream,
};

use crate::parts::Parts;

/// Reads the first registry and registers in all: the first step of a migration, in which everybody is in the new registry
/// before anybody reads it.
///
/// What registering in several means is said by [the crate](crate).
pub struct Mirror {
    parts: Parts,
}

impl Mirror {
    /// Reads the first of these, and registers in all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](switchboard_core::ErrorKind::Invalid) if there are none.
    pub fn new(registries: Vec<Arc<dyn Registry>>) -> Result<Self> {
        Ok(Self { parts: Parts::new("mirror", registries)? })
    }
}

#[async_trait]
impl Registry for Mirror {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        self.parts.register(instance, options).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.parts.deregister(key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.parts.first().lookup(service).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.parts.first().services().await
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.parts.first().snapshots().await
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        self.parts.first().watch(service)
    }

    fn watch_services(&self) -> NamesStream {
        self.parts.first().watch_services()
    }

    async fn suspect(&self, key: &InstanceKey) {
        self.parts.suspect(key).await;
    }

    async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        self.parts.set_maintenance(key, reason).await
    }

    async fn local_ip(&self) -> Option<IpAddr> {
        self.parts.local_ip().await
    }

    fn parts(&self) -> Vec<Arc<dyn Registry>> {
        self.parts.list().to_vec()
    }

    async fn close(&self) -> Result<()> {
        self.parts.close().await
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.display(f, " > ")
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mirror").field(&self.parts).finish()
    }
}
