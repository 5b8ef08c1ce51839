//! What the tests have in common.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use switchboard_core::{Error, Instance, RegisterOptions, Registry, Result, ServiceName, Snapshot};
use switchboard_etcd::{EtcdBuilder, EtcdRegistry};
use switchboard_tests::etcd::Member;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// The longest anything may take here; far more than it does.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn builder(addresses: &[String]) -> EtcdBuilder {
    let builder = EtcdRegistry::builder().timeout(Duration::from_secs(5));
    addresses.iter().fold(builder, EtcdBuilder::endpoint)
}

pub(crate) fn registry(member: &Member) -> EtcdRegistry {
    builder(&[member.address()]).open().unwrap()
}

pub(crate) fn name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(crate) fn instance(service: &str, id: impl std::fmt::Display) -> Instance {
    Instance::builder(service)
        .id(id.to_string())
        .address("10.0.0.1:80")
        .metadata("zone", "eu-1")
        .build()
        .unwrap()
}

pub(crate) fn ttl(seconds: u64) -> RegisterOptions {
    RegisterOptions::new().ttl(Duration::from_secs(seconds))
}

/// Registers, trying again for as long as a test may take: as a registrar does.
pub(crate) async fn register(registry: &EtcdRegistry, instance: &Instance, options: &RegisterOptions) {
    until("registered", async || registry.register(instance, options).await.ok()).await;
}

/// Asks again until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}

/// When it was told, and how many instances or why none.
type News = (Instant, Result<usize, Error>);

/// All that a watch tells.
pub(crate) struct Told {
    all: Arc<Mutex<Vec<News>>>,
    task: JoinHandle<()>,
}

impl Told {
    pub(crate) fn by(registry: &EtcdRegistry, service: &str) -> Self {
        let mut watch = registry.watch(&name(service));
        let all: Arc<Mutex<Vec<_>>> = Arc::default();
        let to = Arc::clone(&all);
        let task = tokio::spawn(async move {
            while let Some(told) = watch.next().await {
                let told = told.map(|snapshot: Snapshot| snapshot.len());
                to.lock().unwrap().push((Instant::now(), told));
            }
        });
        Self { all, task }
    }

    pub(crate) fn all(&self) -> Vec<News> {
        self.all.lock().unwrap().clone()
    }

    /// Waits until the last that was told is this many; when that was.
    pub(crate) async fn until(&self, expected: usize) -> Instant {
        until(&format!("{expected} told"), async || match self.all().last() {
            Some((at, Ok(found))) if *found == expected => Some(*at),
            _ => None,
        })
        .await
    }

    /// Waits for an error.
    pub(crate) async fn until_error(&self) -> Error {
        until("an error told", async || self.all().last()?.1.clone().err()).await
    }

    /// The fewest that were told.
    pub(crate) fn fewest(&self) -> usize {
        self.all().iter().filter_map(|(_, told)| told.clone().ok()).min().unwrap()
    }

    /// In words: `10, error, 10`.
    pub(crate) fn story(&self) -> String {
        let told = self.all();
        let word = |told: &Result<usize, Error>| told.as_ref().map_or("error".into(), ToString::to_string);
        told.iter().map(|(_, told)| word(told)).collect::<Vec<_>>().join(", ")
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.task.abort();
    }
}
