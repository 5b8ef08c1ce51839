use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use switchboard_core::{
    Error, Instance, InstanceKey, NamesStream, RegisterOptions, Registry, RegistryUrl, Result, ServiceName,
    Snapshot, SnapshotStream, Store,
};

use crate::config::{FileBuilder, Format};
use crate::file::{self, File};
use crate::record::{Instances, to_url};
use crate::watch::following;

/// How a list in a URL calls itself in URLs and errors.
const LIST: &str = "static";

/// A registry that is a list: given once, or in a file that is watched. See the [crate's documentation](crate).
pub struct StaticRegistry {
    source: Source,
}

enum Source {
    List { store: Store, snapshots: Vec<Snapshot> },
    File(Arc<File>),
}

impl StaticRegistry {
    /// Of these instances, which stay as they are.
    ///
    /// # Errors
    ///
    /// `Invalid` if two of a service have one id.
    pub fn new(instances: impl IntoIterator<Item = Instance>) -> Result<Self> {
        let list =
            Instances::unique(instances).map_err(|invalid| Error::invalid(LIST, "connect", &invalid))?;
        Ok(Self::of_list(list))
    }

    /// In a file, TOML or JSON.
    pub fn file(path: impl Into<PathBuf>) -> FileBuilder {
        FileBuilder::new(path)
    }

    /// The file it is in; `None` for a list that was given.
    pub fn path(&self) -> Option<&Path> {
        match &self.source {
            Source::List { .. } => None,
            Source::File(file) => Some(&file.config.path),
        }
    }

    /// Opens the registry that `url` describes: `static:orders=10.0.0.1:80,10.0.0.2:80;stock=10.0.0.3:90` or
    /// `file:///etc/services.toml`.
    ///
    /// # Errors
    ///
    /// `Invalid` for an unknown parameter, a list that is none, and as [`FileBuilder::open`] has it.
    pub fn from_url(url: &RegistryUrl) -> Result<Self> {
        if url.scheme() == file::BACKEND {
            let refused = |invalid| Error::invalid(file::BACKEND, "connect", &invalid);
            return FileBuilder::from_url(url).map_err(refused)?.open();
        }
        let refused = |invalid| Error::invalid(LIST, "connect", &invalid);
        url.params(LIST).finish().map_err(refused)?;
        Ok(Self::of_list(Instances::from_url(url.rest()).map_err(refused)?))
    }

    fn of_list(list: Instances) -> Self {
        let (store, snapshots) = (Store::new(LIST), list.snapshots());
        store.publish(snapshots.clone());
        Self { source: Source::List { store, snapshots } }
    }

    pub(crate) fn of_file(config: FileBuilder, format: Format) -> Self {
        Self { source: Source::File(Arc::new(File::new(config, format))) }
    }

    /// Who keeps it.
    fn keeper(&self) -> (&'static str, String) {
        match &self.source {
            Source::List { .. } => (LIST, "whoever writes the list".into()),
            Source::File(file) => (file::BACKEND, format!("whoever writes {}", file.config.path.display())),
        }
    }

    fn refused(&self, operation: &'static str) -> Error {
        let (backend, keeper) = self.keeper();
        if self.store().is_closed() {
            return Error::closed(backend, operation);
        }
        Error::read_only(backend, operation, keeper)
    }

    fn store(&self) -> &Store {
        match &self.source {
            Source::List { store, .. } => store,
            Source::File(file) => &file.store,
        }
    }

    /// The store, as it is now.
    async fn read(&self, operation: &'static str) -> Result<&Store> {
        let store = self.store();
        if !store.is_closed() {
            if let Source::File(file) = &self.source {
                file.refresh(operation).await?;
            }
        }
        if store.is_closed() { Err(Error::closed(self.keeper().0, operation)) } else { Ok(store) }
    }
}

#[async_trait]
impl Registry for StaticRegistry {
    async fn register(&self, _: &Instance, _: &RegisterOptions) -> Result<()> {
        Err(self.refused("register"))
    }

    async fn deregister(&self, _: &InstanceKey) -> Result<()> {
        Err(self.refused("deregister"))
    }

    async fn set_maintenance(&self, _: &InstanceKey, _: Option<&str>) -> Result<()> {
        Err(self.refused("set_maintenance"))
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        Ok(self.read("lookup").await?.snapshot(service))
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        Ok(self.read("services").await?.services())
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let store = self.read("services").await?;
        Ok(store.services().iter().map(|service| store.snapshot(service)).collect())
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        match &self.source {
            Source::List { store, .. } => store.watch(service),
            Source::File(file) => {
                let service = service.clone();
                following(file.clone(), "watch", move |store| store.watch(&service))
            }
        }
    }

    fn watch_services(&self) -> NamesStream {
        match &self.source {
            Source::List { store, .. } => store.watch_services(),
            Source::File(file) => following(file.clone(), "watch_services", Store::watch_services),
        }
    }

    async fn close(&self) -> Result<()> {
        self.end();
        Ok(())
    }
}

impl StaticRegistry {
    fn end(&self) {
        match &self.source {
            Source::List { store, .. } => store.close(),
            Source::File(file) => file.close(),
        }
    }
}

impl Drop for StaticRegistry {
    fn drop(&mut self) {
        self.end();
    }
}

/// The URL that opens a registry like this one.
impl fmt::Display for StaticRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::List { snapshots, .. } => f.write_str(&to_url(snapshots)),
            Source::File(file) => write!(f, "file:{}", file.config.path.display()),
        }
    }
}

impl fmt::Debug for StaticRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StaticRegistry").field(&self.to_string()).finish()
    }
}
