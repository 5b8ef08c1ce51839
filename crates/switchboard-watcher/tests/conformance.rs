//! The contract of `Registry`, kept by the decorator.

use std::sync::Arc;

use switchboard_conformance::{Backend, Profile, async_trait};
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
}

switchboard_conformance::suite!(CachedMemory(MemoryRegistry::new()));
