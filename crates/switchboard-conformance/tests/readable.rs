//! A registry of a third party that can only be read: what it takes to have it tested.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use switchboard_conformance::{Backend, async_trait, suite};
use switchboard_core::{
    Error, Instance, InstanceKey, NamesStream, RegisterOptions, Registry, Result, ServiceName, Snapshot,
    SnapshotStream, Store,
};

/// A list that somebody keeps, and those who read it.
#[derive(Clone, Default)]
struct List(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    snapshots: Vec<Snapshot>,
    readers: Vec<Store>,
}

impl List {
    fn put(&self, service: &ServiceName, instances: &[Instance]) {
        let mut kept = self.0.lock().expect("no panic");
        let now = Snapshot::new(service.clone(), instances.iter().map(unjudged));
        kept.snapshots.retain(|old| old.service() != service);
        kept.snapshots.push(now.clone());
        kept.readers.iter().for_each(|reader| reader.publish([now.clone()]));
    }

    fn reader(&self) -> Reader {
        let (mut kept, store) = (self.0.lock().expect("no panic"), Store::new("list"));
        store.publish(kept.snapshots.clone());
        kept.readers.push(store.clone());
        Reader(store)
    }
}

/// Nobody keeps a health in this list.
fn unjudged(instance: &Instance) -> Instance {
    instance.to_builder().health(switchboard_core::Health::Passing).build().expect("it was one")
}

#[async_trait]
impl Backend for List {
    async fn open(&self) -> Arc<dyn Registry> {
        Arc::new(self.reader())
    }

    async fn write(&self, service: &ServiceName, instances: &[Instance]) -> bool {
        self.put(service, instances);
        true
    }
}

suite!(List::default());

/// A third party has no more to write than for a registry that takes registrations.
#[test]
fn describing_it_takes_no_more_lines_than_one_that_registers() {
    let lines = |source: &str, name: &str| {
        let from = source.lines().skip_while(|line| *line != format!("impl Backend for {name} {{"));
        from.take_while(|line| *line != "}").count()
    };
    let (here, there) = (include_str!("readable.rs"), include_str!("memory.rs"));
    let (reads, registers) = (lines(here, "List"), lines(there, "Memory"));
    assert!(0 < reads && reads <= registers, "{reads} lines, and {registers} for one that registers");
}

#[derive(Debug)]
struct Reader(Store);

impl Reader {
    fn open(&self, operation: &'static str) -> Result<()> {
        if self.0.is_closed() { Err(Error::closed("list", operation)) } else { Ok(()) }
    }
}

#[async_trait]
impl Registry for Reader {
    async fn register(&self, _: &Instance, _: &RegisterOptions) -> Result<()> {
        self.open("register")?;
        Err(Error::read_only("list", "register", "whoever keeps the list"))
    }

    async fn deregister(&self, _: &InstanceKey) -> Result<()> {
        self.open("deregister")?;
        Err(Error::read_only("list", "deregister", "whoever keeps the list"))
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.open("lookup")?;
        Ok(self.0.snapshot(service))
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.open("services")?;
        Ok(self.0.services())
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        self.0.watch(service)
    }

    fn watch_services(&self) -> NamesStream {
        self.0.watch_services()
    }

    async fn close(&self) -> Result<()> {
        self.0.close();
        Ok(())
    }
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("list:")
    }
}
