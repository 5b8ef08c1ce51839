//! The contract of `Registry`, kept by each composition, over memory registries. In an outage nothing can be heard.

#![allow(clippy::unwrap_used)] // in helpers of tests too

use std::sync::Arc;

use switchboard_compose::{Failover, Mirror, Route, Union};
use switchboard_conformance::{Backend, Outage, Profile, async_trait};
use switchboard_core::{MemoryRegistry, Registry};

type Composed = fn(Vec<Arc<dyn Registry>>) -> Arc<dyn Registry>;

/// A composition of two registries.
struct Two(MemoryRegistry, MemoryRegistry, Composed);

impl Two {
    fn new(composed: Composed) -> Self {
        Self(MemoryRegistry::new(), MemoryRegistry::new(), composed)
    }

    fn handles(&self) -> [Arc<MemoryRegistry>; 2] {
        [Arc::new(self.0.handle()), Arc::new(self.1.handle())]
    }

    fn composed(&self, handles: &[Arc<MemoryRegistry>]) -> Arc<dyn Registry> {
        (self.2)(handles.iter().map(|handle| handle.clone() as Arc<dyn Registry>).collect())
    }
}

struct Both([Arc<MemoryRegistry>; 2]);

#[async_trait]
impl Outage for Both {
    async fn begin(&self) {
        self.0[0].begin().await;
        self.0[1].begin().await;
    }

    async fn end(&self) {
        self.0[0].end().await;
        self.0[1].end().await;
    }
}

#[async_trait]
impl Backend for Two {
    fn profile(&self) -> Profile {
        Profile::new()
    }

    async fn open(&self) -> Arc<dyn Registry> {
        self.composed(&self.handles())
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let handles = self.handles();
        Some((self.composed(&handles), Box::new(Both(handles))))
    }
}

mod union {
    use super::{Arc, Two, Union};

    switchboard_conformance::suite!(Two::new(|parts| Arc::new(Union::new(parts).unwrap())));
}

mod failover {
    use super::{Arc, Failover, Two};

    switchboard_conformance::suite!(Two::new(|parts| Arc::new(Failover::new(parts).unwrap())));
}

mod mirror {
    use super::{Arc, Mirror, Two};

    switchboard_conformance::suite!(Two::new(|parts| Arc::new(Mirror::new(parts).unwrap())));
}

mod route {
    use super::{Arc, Route, Two};

    // Half of the cases' names have such a letter.
    switchboard_conformance::suite!(Two::new(|parts| {
        Arc::new(Route::new(["*e*", "*"].into_iter().zip(parts)).unwrap())
    }));
}
