pub(crate) mod server;
pub(crate) mod zone;

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use switchboard_core::{Result, ServiceName, Snapshot, SnapshotStream};
use switchboard_dns::{DnsBuilder, DnsRegistry};
use tokio::time::timeout;

/// The longest anything may take here; far more than it does.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

/// A registry on one server, which asks again soon.
pub(crate) fn quick(server: SocketAddr) -> DnsBuilder {
    DnsRegistry::builder()
        .server(server)
        .domain("example")
        .min_refresh(Duration::from_millis(20))
        .max_refresh(Duration::from_millis(200))
}

pub(crate) async fn next(watch: &mut SnapshotStream) -> Result<Snapshot> {
    timeout(LIMIT, watch.next()).await.expect("in time").expect("it goes on")
}

/// Reads on until as many are told.
pub(crate) async fn until(watch: &mut SnapshotStream, count: usize) -> Snapshot {
    loop {
        match next(watch).await {
            Ok(snapshot) if snapshot.len() == count => return snapshot,
            _ => {}
        }
    }
}

/// Each instance as `id address weight`.
pub(crate) fn shown(snapshot: &Snapshot) -> Vec<String> {
    let all = snapshot.all().iter();
    all.map(|one| format!("{} {:?} {}", one.id(), one.addresses(), one.weight())).collect()
}
