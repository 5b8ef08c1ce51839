//! The server on a registry of this process, which can fail and heal.

#[cfg(unix)]
mod browser;
mod http;
#[cfg(unix)]
mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use switchboard::{
    Error, ErrorKind, Health, HealthReason, Instance, InstanceKey, MemoryRegistry, NamesStream,
    RegisterOptions, Registry, Result, ServiceName, Snapshot, SnapshotStream,
};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::access::Access;
use super::board::Board;
use super::measured::Measured;
use super::routes;
use super::server::Server;

/// The longest anything may take; far more than it does.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs until it is ended or dropped.
struct Served {
    /// What others register.
    world: MemoryRegistry,
    /// What the server sees of it.
    seen: Arc<MemoryRegistry>,
    reasons: Reasons,
    /// Whether the service `slow` answers yet.
    slow: watch::Sender<bool>,
    url: String,
    /// Nothing is asked of the registry until this is dropped.
    hold: Option<oneshot::Sender<()>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    async fn new() -> Self {
        Self::with(None, &[]).await
    }

    async fn with(token_file: Option<&Path>, names: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut served = Self::held(listener, MemoryRegistry::new(), token_file, names);
        served.hold = None;
        served
    }

    /// With a registry that has not answered yet.
    fn held(
        listener: TcpListener,
        world: MemoryRegistry,
        token_file: Option<&Path>,
        names: &[String],
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let access = Access::new(address, token_file, names).unwrap();
        let seen = Arc::new(world.handle());
        let reasons = Reasons::default();
        let (slow, answers) = watch::channel(false);
        let registry = Checked { inner: seen.clone(), reasons: reasons.clone(), answers };
        let (hold, held) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let board = Board::new(registry.inner.to_string());
            let server = Server::start(listener, routes::app(board.states(), access, Measured::alone()));
            let _ = held.await;
            board.follow(&registry, || None, async { drop(stopped.await) }).await.unwrap();
            server.end().await;
        });
        let url = format!("http://{address}");
        Self { world, seen, reasons, slow, url, hold: Some(hold), stop: Some(stop), task }
    }

    async fn register(&self, instance: Instance) {
        self.world.register(&instance, &RegisterOptions::new()).await.unwrap();
    }

    async fn deregister(&self, service: &str, id: &str) {
        self.world.deregister(&key(service, id)).await.unwrap();
    }

    fn set_health(&self, service: &str, id: &str, health: Health) {
        self.world.set_health(&key(service, id), health);
    }

    /// A registered one fails this check, as a registry that has checks tells it.
    fn fail_check(&self, service: &str, id: &str, reason: HealthReason) {
        let health = reason.health;
        self.reasons.lock().unwrap().insert(key(service, id), reason);
        self.set_health(service, id, health);
    }

    fn fail(&self) {
        self.seen.fail(Error::new(ErrorKind::Unavailable, "memory", "watch", "no route to it"));
    }

    /// Ends it as a signal does.
    async fn end(mut self) {
        drop(self.stop.take());
        timeout(LIMIT, &mut self.task).await.expect("it ends").unwrap();
    }
}

fn instance(service: &str, id: &str, port: u16) -> Instance {
    Instance::builder(service).id(id).address(format!("10.0.0.1:{port}")).build().unwrap()
}

fn key(service: &str, id: &str) -> InstanceKey {
    InstanceKey::new(service.try_into().unwrap(), id.try_into().unwrap())
}

type Reasons = Arc<Mutex<BTreeMap<InstanceKey, HealthReason>>>;

/// A registry of this process, with the reasons for the health of its instances, and with a service that takes its time.
#[derive(Debug)]
struct Checked {
    inner: Arc<MemoryRegistry>,
    reasons: Reasons,
    answers: watch::Receiver<bool>,
}

impl std::fmt::Display for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Registry for Checked {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        self.inner.register(instance, options).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.inner.deregister(key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.inner.lookup(service).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.inner.services().await
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        let reasons = self.reasons.clone();
        let with_reason = move |instance: &Arc<Instance>| {
            let reasons = reasons.lock().unwrap();
            let reason = reasons.get(&instance.key()).filter(|reason| reason.health == instance.health());
            reason.map_or_else(
                || instance.clone(),
                |reason| Arc::new(instance.to_builder().health_reason(reason.clone()).build().unwrap()),
            )
        };
        let told = self.inner.watch(service);
        let with_reasons = move |snapshot: Snapshot| {
            Snapshot::new(snapshot.service().clone(), snapshot.all().iter().map(&with_reason))
        };
        let told = told.map(move |told| told.map(&with_reasons));
        if service.as_str() != "slow" {
            return told.boxed();
        }
        let mut answers = self.answers.clone();
        let answered = async move { answers.wait_for(|answers| *answers).await.map(drop) };
        futures::stream::once(answered).flat_map(move |_| futures::stream::empty()).chain(told).boxed()
    }

    fn watch_services(&self) -> NamesStream {
        self.inner.watch_services()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
