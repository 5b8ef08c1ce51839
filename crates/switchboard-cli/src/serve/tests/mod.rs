//! The server on a registry of this process, which can fail and heal.

#[cfg(unix)]
mod browser;
mod http;
#[cfg(unix)]
mod page;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use switchboard::{
    Error, ErrorKind, Health, HealthReason, Instance, InstanceKey, MemoryRegistry, RegisterOptions, Registry,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
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
        let registry = seen.clone();
        let (hold, held) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let board = Board::new(registry.to_string());
            let server = Server::start(listener, routes::app(board.states(), access, Measured::alone()));
            let _: Result<(), _> = held.await;
            board.follow(&*registry, || None, async { drop(stopped.await) }).await.unwrap();
            server.end().await;
        });
        let url = format!("http://{address}");
        Self { world, seen, url, hold: Some(hold), stop: Some(stop), task }
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

    /// A registered one fails this check, as a registry with checks tells it.
    async fn fail_check(&self, instance: Instance, reason: HealthReason) {
        let health = reason.health;
        self.set_health(instance.service().as_str(), instance.id().as_str(), health);
        self.register(instance.to_builder().health(health).health_reason(reason).build().unwrap()).await;
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
