//! The memory registry keeps the contract, and so do one behind another `Arc` and a namespace of one.

use std::sync::Arc;
use std::time::Duration;

use switchboard_conformance::{Backend, Outage, Profile, async_trait, suite};
use switchboard_core::{MemoryRegistry, Namespace, Registry};

fn profile() -> Profile {
    Profile::new().quiet(Duration::from_millis(50)).ttl(Some(Duration::from_millis(400))).shared_ids(true)
}

struct Memory(MemoryRegistry);

#[async_trait]
impl Backend for Memory {
    fn profile(&self) -> Profile {
        profile()
    }

    async fn open(&self) -> Arc<dyn Registry> {
        Arc::new(self.0.handle())
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let handle = Arc::new(self.0.handle());
        Some((handle.clone(), Box::new(handle)))
    }
}

/// Each handle is an `Arc` in an `Arc`, and the runtime has two threads.
struct Shared(MemoryRegistry);

#[async_trait]
impl Backend for Shared {
    fn profile(&self) -> Profile {
        profile().worker_threads(2)
    }

    async fn open(&self) -> Arc<dyn Registry> {
        let shared: Arc<dyn Registry> = Arc::new(self.0.handle());
        Arc::new(shared)
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let handle = Arc::new(self.0.handle());
        let shared: Arc<dyn Registry> = handle.clone();
        Some((Arc::new(shared), Box::new(handle)))
    }
}

/// Each handle is a namespace of one, in which there is another.
struct Within(MemoryRegistry);

impl Within {
    fn handle(&self) -> Arc<MemoryRegistry> {
        Arc::new(self.0.handle())
    }
}

#[async_trait]
impl Backend for Within {
    fn profile(&self) -> Profile {
        profile()
    }

    async fn open(&self) -> Arc<dyn Registry> {
        Arc::new(Namespace::new(self.handle(), "alice").expect("a namespace"))
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let handle = self.handle();
        let namespace = Namespace::new(&handle, "alice").expect("a namespace");
        Some((Arc::new(namespace), Box::new(handle)))
    }
}

mod memory {
    use super::*;

    suite!(Memory(MemoryRegistry::new()));
}

mod shared {
    use super::*;

    /// One world for all the tests, so that they prove not to disturb each other.
    fn world() -> MemoryRegistry {
        let url = "memory:conformance".parse().expect("a URL");
        MemoryRegistry::from_url(&url).expect("the URL of a memory registry")
    }

    suite!(Shared(world()));
}

mod namespace {
    use super::*;

    suite!(Within(MemoryRegistry::new()));
}
