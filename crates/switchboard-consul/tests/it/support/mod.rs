//! Real agents and scripted servers, always ended.

pub(crate) mod scripted;

use std::future::Future;
use std::time::Duration;

use switchboard_consul::{ConsulBuilder, ConsulRegistry};
use switchboard_core::{Instance, RegisterOptions, ServiceName, Snapshot};
use tokio::time::{Instant, sleep, timeout};

pub(crate) use switchboard_tests::consul::LIMIT;

pub(crate) fn builder(address: &str) -> ConsulBuilder {
    ConsulRegistry::builder().ignore_env().address(address)
}

pub(crate) fn registry(address: &str) -> ConsulRegistry {
    builder(address).build().unwrap()
}

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

pub(crate) fn instance(service: &str, id: &str) -> Instance {
    Instance::builder(service).id(id).address("127.0.0.1:7001").build().unwrap()
}

pub(crate) fn ttl(seconds: u64) -> RegisterOptions {
    RegisterOptions::new().ttl(Duration::from_secs(seconds))
}

pub(crate) fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.all().iter().map(|instance| instance.id().as_str()).collect()
}

/// Waits for `future`, within [`LIMIT`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

/// Asks again until there is an answer, for what tells no event.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {LIMIT:?}");
        sleep(Duration::from_millis(20)).await;
    }
}
