//! A registry that records what it is told and can be made to fail or hang.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, MemoryRegistry, NamesStream, RegisterOptions, Registry, Result,
    ServiceName, Snapshot, SnapshotStream,
};
use switchboard_registrar::{Registrar, Running, Status};
use tokio::time::{Instant, sleep};

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn instance() -> Instance {
    Instance::builder("greeter").id("1").address("h:1").build().unwrap()
}

pub(crate) fn registrar(registry: &Arc<Scripted>) -> Registrar {
    Registrar::new(registry.clone(), instance())
}

/// Waits until the status is as wanted.
pub(crate) async fn until(running: &Running, wanted: impl Fn(&Status) -> bool) -> Status {
    let mut status = running.watch_status();
    let found = tokio::time::timeout(seconds(3600), status.wait_for(wanted)).await;
    found.unwrap().unwrap().clone()
}

pub(crate) fn is_registered(status: &Status) -> bool {
    matches!(status, Status::Registered { .. })
}

pub(crate) fn is_withdrawn(status: &Status) -> bool {
    matches!(status, Status::Withdrawn { .. })
}

/// Panics when it is dropped.
pub(crate) struct Bursts;

impl Drop for Bursts {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

/// What a call does before, or instead of, reaching the memory registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    Down,
    Refuses,
    /// Can only be read.
    ReadOnly,
    /// Finds something wrong with what it is told.
    Invalid,
    /// The same, for instances of this weight.
    InvalidWeight(u16),
    Panics,
    Hangs,
    /// Hangs, and panics when it is given up.
    HangsAndBursts,
    /// Takes so long and then works, whether the caller still waits or not.
    Slow(Duration),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Register { ttl: Option<Duration> },
    Deregister,
}

pub(crate) struct Scripted {
    pub(crate) memory: Arc<MemoryRegistry>,
    pub(crate) mood: Mutex<Mood>,
    pub(crate) calls: Mutex<Vec<(Instant, Call)>>,
}

impl Scripted {
    pub(crate) fn new() -> Arc<Self> {
        let memory = Arc::new(MemoryRegistry::new());
        Arc::new(Self { memory, mood: Mutex::new(Mood::Well), calls: Mutex::default() })
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().iter().map(|(_, call)| call.clone()).collect()
    }

    pub(crate) fn times(&self) -> Vec<Instant> {
        self.calls.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }

    pub(crate) fn registrations(&self) -> usize {
        self.calls().iter().filter(|call| matches!(call, Call::Register { .. })).count()
    }

    pub(crate) fn deregistrations(&self) -> usize {
        self.calls().len() - self.registrations()
    }

    pub(crate) async fn is_listed(&self, instance: &Instance) -> bool {
        self.memory.lookup(instance.service()).await.unwrap().get(instance.id()).is_some()
    }

    /// The weight that the registry has for the instance, 0 if it does not have it.
    pub(crate) async fn weight(&self) -> u16 {
        let found = self.memory.lookup(instance().service()).await.unwrap();
        found.get(instance().id()).map_or(0, |instance| instance.weight().get())
    }

    async fn behave(&self, call: Call) -> Result<()> {
        self.calls.lock().unwrap().push((Instant::now(), call));
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well | Mood::InvalidWeight(_) => Ok(()),
            Mood::Down => Err(Error::new(ErrorKind::Unavailable, "scripted", "call", "is down")),
            Mood::Refuses => {
                Err(Error::new(ErrorKind::PermissionDenied, "scripted", "call", "the token may not"))
            }
            Mood::ReadOnly => Err(Error::read_only("scripted", "call", "the platform")),
            Mood::Invalid => Err(Error::new(ErrorKind::Invalid, "scripted", "call", "makes no sense")),
            Mood::Panics => panic!("on purpose"),
            Mood::Hangs => std::future::pending().await,
            Mood::HangsAndBursts => {
                let _bursts = Bursts;
                std::future::pending().await
            }
            Mood::Slow(time) => {
                sleep(time).await;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Registry for Scripted {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        let (memory, instance, options) = (self.memory.clone(), instance.clone(), options.clone());
        if let Mood::Slow(time) = *self.mood.lock().unwrap() {
            // As over a network: the request is on its way, whatever becomes of the caller.
            let (memory, instance, options) = (memory.clone(), instance.clone(), options.clone());
            tokio::spawn(async move {
                sleep(time).await;
                memory.register(&instance, &options).await
            });
        }
        self.behave(Call::Register { ttl: options.ttl }).await?;
        if *self.mood.lock().unwrap() == Mood::InvalidWeight(instance.weight().get()) {
            return Err(Error::new(ErrorKind::Invalid, "scripted", "call", "makes no sense"));
        }
        memory.register(&instance, &options).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.behave(Call::Deregister).await?;
        self.memory.deregister(key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.memory.lookup(service).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.memory.services().await
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        self.memory.watch(service)
    }

    fn watch_services(&self) -> NamesStream {
        self.memory.watch_services()
    }

    async fn close(&self) -> Result<()> {
        self.memory.close().await
    }
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scripted:")
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}
