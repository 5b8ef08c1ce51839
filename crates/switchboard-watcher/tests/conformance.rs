//! The contract of `Registry`, kept by the decorator.

use std::sync::Arc;

use switchboard_conformance::{Backend, Outage, Profile, async_trait};
use switchboard_core::{MemoryRegistry, Registry};
use switchboard_watcher::Cached;

struct CachedMemory(MemoryRegistry);

#[async_trait]
impl Backend for CachedMemory {
    fn profile(&self) -> Profile {
        Profile::new()
    }

    async fn open(&self) -> Arc<dyn Registry> {
        Arc::new(Cached::new(Arc::new(self.0.handle())))
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let handle = Arc::new(self.0.handle());
        Some((Arc::new(Cached::new(handle.clone())), Box::new(handle)))
    }
}

switchboard_conformance::suite!(CachedMemory(MemoryRegistry::new()));
