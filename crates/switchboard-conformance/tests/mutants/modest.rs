//! What is no flaw: errors that pass, and what a profile declares.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures::stream::iter;
use futures::{FutureExt, StreamExt};
use switchboard_conformance::{Profile, async_trait};
use switchboard_core::{
    Error, ErrorKind, Health, Host, Instance, InstanceKey, MemoryRegistry, NamesStream, RegisterOptions,
    Registry, Result, ServiceName, SnapshotStream,
};
use tokio::sync::OnceCell;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::broken::{Flaw, edit};
use crate::outage::{Leaves, is_cut, nagging};

/// Tells of a passing error before each item.
pub(crate) struct Ambient;

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "ambient", "watch", "the network is down for a moment")
}

impl Flaw for Ambient {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        inner.watch(service).flat_map(|item| iter([Err(unavailable()), item])).boxed()
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        inner.watch_services().flat_map(|item| iter([Err(unavailable()), item])).boxed()
    }
}

/// Does in an outage what one across a network may: a registration arrives and its answer does not, a watch tells an error
/// for each try, with the pauses of Consul's watch, and `close` fails and names what it leaves.
pub(crate) struct Remote {
    left: Leaves,
    /// Through it arrives what an outage hides the answer to.
    back_door: OnceCell<MemoryRegistry>,
}

fn names(left: &[Instance]) -> String {
    left.iter().map(|it| it.key().to_string()).collect::<Vec<_>>().join(", ")
}

impl Remote {
    pub(crate) fn new() -> Self {
        Self { left: Leaves::saying(Some(names)), back_door: OnceCell::new() }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);

#[async_trait]
impl Flaw for Remote {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        if is_cut(inner).await {
            let arrives = self.back_door.get_or_init(async || inner.handle()).await;
            arrives.register(it, options).await?;
        }
        self.left.register(inner, it, options).await
    }

    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        nagging(inner.watch(service), FIRST_PAUSE, 2)
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        nagging(inner.watch_services(), FIRST_PAUSE, 2)
    }

    async fn close(&self, inner: &MemoryRegistry) -> Result<()> {
        self.left.close(inner).await
    }
}

/// Takes its time for everything, as a network does.
pub(crate) struct Slow;

const LATENCY: Duration = Duration::from_millis(300);
const LAG: Duration = Duration::from_millis(900);

/// What [`Slow`] declares.
pub(crate) fn slow_profile(fast: Profile) -> Profile {
    fast.ttl(Some(Duration::from_secs(4))).quiet(LAG * 2)
}

#[async_trait]
impl Flaw for Slow {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        sleep(LATENCY).await;
        inner.register(it, options).await
    }

    async fn deregister(&self, inner: &MemoryRegistry, key: &InstanceKey) -> Result<()> {
        sleep(LATENCY).await;
        inner.deregister(key).await
    }

    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        inner.watch(service).then(|item| sleep(LAG).map(|()| item)).boxed()
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        inner.watch_services().then(|item| sleep(LAG).map(|()| item)).boxed()
    }

    async fn close(&self, inner: &MemoryRegistry) -> Result<()> {
        sleep(LATENCY).await;
        inner.close().await
    }
}

/// Has room for one IPv4 address and the names of endpoints, and keeps lapsed instances as critical.
#[derive(Default)]
pub(crate) struct Modest {
    lapses: Mutex<BTreeMap<InstanceKey, AbortHandle>>,
}

/// What [`Modest`] declares.
pub(crate) fn profile(strict: Profile) -> Profile {
    strict
        .endpoint_details(false)
        .ipv6(false)
        .host_names(false)
        .many_addresses(false)
        .keeps_lapsed(true)
        .shared_ids(false)
}

impl Modest {
    fn stop(&self, key: &InstanceKey) {
        if let Some(lapse) = self.lapses.lock().expect("no panic").remove(key) {
            lapse.abort();
        }
    }
}

#[async_trait]
impl Flaw for Modest {
    fn written(&self, instance: &Instance) -> Instance {
        edit(instance, |it| {
            for endpoint in it["endpoints"].as_array_mut().expect("a list") {
                *endpoint = serde_json::json!({ "name": endpoint["name"] });
            }
        })
    }

    async fn set_maintenance(&self, _: &MemoryRegistry, _: &InstanceKey, _: Option<&str>) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "modest", "set_maintenance", "there is no maintenance"))
    }

    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        if it.addresses().len() > 1 || !matches!(it.address().host(), Host::Ip(ip) if ip.is_ipv4()) {
            return Err(Error::new(ErrorKind::Invalid, "modest", "register", "only one IPv4 address"));
        }
        options.validate().map_err(|invalid| Error::invalid("modest", "register", &invalid))?;
        inner.register(it, &RegisterOptions::new()).await?;
        inner.set_health(&it.key(), Health::Passing);
        self.stop(&it.key());
        if let Some(ttl) = options.ttl {
            let (world, key) = (inner.handle(), it.key());
            let lapse = tokio::spawn(async move {
                sleep(ttl).await;
                world.set_health(&key, Health::Critical);
            });
            self.lapses.lock().expect("no panic").insert(it.key(), lapse.abort_handle());
        }
        Ok(())
    }

    async fn deregister(&self, inner: &MemoryRegistry, key: &InstanceKey) -> Result<()> {
        inner.deregister(key).await?;
        self.stop(key);
        Ok(())
    }
}
