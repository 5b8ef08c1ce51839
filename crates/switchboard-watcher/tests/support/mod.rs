//! A registry that says what a test tells it to say.

#![allow(dead_code)] // each test binary uses its part

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, NamesStream, RegisterOptions, Registry, Result, ServiceName,
    Snapshot, SnapshotStream,
};

/// What each new watch is told first, and what the present ones are.
#[derive(Clone, Default)]
pub(crate) struct Scripted {
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    first: Option<Result<Snapshot>>,
    ends_at_once: bool,
    watchers: Vec<UnboundedSender<Result<Snapshot>>>,
    watches: usize,
    suspects: Vec<InstanceKey>,
    hangs_on_suspects: bool,
    panics: bool,
}

impl Scripted {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Tells every watch, and every later one first.
    pub(crate) fn say(&self, item: Result<Snapshot>) {
        let mut script = self.script();
        script.watchers.retain(|watcher| watcher.unbounded_send(item.clone()).is_ok());
        script.first = Some(item);
    }

    /// Breaks every watch off, and every later one at once until something is said.
    pub(crate) fn end(&self) {
        let mut script = self.script();
        script.watchers.clear();
        script.ends_at_once = true;
    }

    /// Lets watches live again.
    pub(crate) fn mend(&self) {
        self.script().ends_at_once = false;
    }

    pub(crate) fn hang_on_suspects(&self) {
        self.script().hangs_on_suspects = true;
    }

    pub(crate) fn panic_on_watch(&self, panics: bool) {
        self.script().panics = panics;
    }

    /// How many watches were started so far.
    pub(crate) fn watches(&self) -> usize {
        self.script().watches
    }

    /// How many watches have somebody listening.
    pub(crate) fn listeners(&self) -> usize {
        self.script().watchers.iter().filter(|watcher| !watcher.is_closed()).count()
    }

    pub(crate) fn suspects(&self) -> Vec<InstanceKey> {
        self.script().suspects.clone()
    }
}

#[async_trait]
impl Registry for Scripted {
    async fn register(&self, _: &Instance, _: &RegisterOptions) -> Result<()> {
        Ok(())
    }

    async fn deregister(&self, _: &InstanceKey) -> Result<()> {
        Ok(())
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        Ok(Snapshot::empty(service.clone()))
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        Ok(BTreeSet::new())
    }

    fn watch(&self, _: &ServiceName) -> SnapshotStream {
        let panics = self.script().panics;
        assert!(!panics, "a registry that panics, as the test wants it");
        let mut script = self.script();
        script.watches += 1;
        let (watcher, watch) = unbounded();
        if !script.ends_at_once {
            if let Some(first) = script.first.clone() {
                watcher.unbounded_send(first).unwrap();
            }
            script.watchers.push(watcher);
        }
        watch.boxed()
    }

    fn watch_services(&self) -> NamesStream {
        futures::stream::pending().boxed()
    }

    async fn suspect(&self, key: &InstanceKey) {
        let hangs = {
            let mut script = self.script();
            script.suspects.push(key.clone());
            script.hangs_on_suspects
        };
        if hangs {
            std::future::pending::<()>().await;
        }
    }

    async fn close(&self) -> Result<()> {
        Ok(())
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

pub(crate) fn name(service: &str) -> ServiceName {
    ServiceName::new(service).unwrap()
}

pub(crate) fn instance(service: &str, id: &str) -> Instance {
    let port =
        1 + id.bytes().fold(0_u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 60_000;
    Instance::builder(service).id(id).address(format!("127.0.0.1:{port}")).build().unwrap()
}

pub(crate) fn snapshot(service: &str, ids: &[&str]) -> Snapshot {
    Snapshot::new(name(service), ids.iter().map(|id| instance(service, id)))
}

pub(crate) fn unavailable(message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "scripted", "watch", message)
}

/// Lets every task that can run do so, without moving a paused clock.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
