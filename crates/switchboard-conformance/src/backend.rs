use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use switchboard_core::{Endpoint, Error, ErrorKind, Instance, MemoryRegistry, Registry, ServiceName};

/// What is tested: a world of instances, and handles on it.
#[async_trait]
pub trait Backend: Send + Sync {
    /// What the backend can do, and how long it may take. Default: the strictest profile.
    fn profile(&self) -> Profile {
        Profile::new()
    }

    /// Opens another handle on the same world, as a second program would. The case closes it.
    async fn open(&self) -> Arc<dyn Registry>;

    /// Writes into a world whose handles can [only read](Registry#registries-one-can-only-read): edits the zone, writes the
    /// file. From then on `instances` are all there are of `service`, and lookups find them; without any, it is gone.
    ///
    /// Returns `true`; by default `false`, which says that handles register. Panics when it fails, as `open` does.
    async fn write(&self, service: &ServiceName, instances: &[Instance]) -> bool {
        let _ = (service, instances);
        false
    }

    /// Opens a handle like [`open`](Self::open), whose registry can be made to fail.
    ///
    /// The outage should be of this handle alone, so that cases in the same world go on: a proxy between it and the
    /// server, say. By default there is none, and the cases of theme `outage` are skipped.
    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        None
    }
}

/// An outage to be brought about.
#[async_trait]
pub trait Outage: Send + Sync {
    /// Cuts the handle off from its registry: from now on it cannot be heard.
    async fn begin(&self);

    /// Ends the outage. The registry has forgotten nothing.
    async fn end(&self);
}

/// A handle of a memory registry is cut off by [`MemoryRegistry::fail`].
#[async_trait]
impl Outage for Arc<MemoryRegistry> {
    async fn begin(&self) {
        self.fail(Error::new(ErrorKind::Unavailable, "memory", "outage", "cut off"));
    }

    async fn end(&self) {
        self.heal();
    }
}

/// What a backend can do, and how long it may take.
///
/// [`new`](Self::new) is the strictest profile; a backend relaxes what it must.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(clippy::struct_excessive_bools)] // independent answers, each with its name at the place it is given
pub struct Profile {
    pub(crate) answer: Duration,
    pub(crate) settle: Duration,
    pub(crate) quiet: Duration,
    pub(crate) ttl: Option<Duration>,
    pub(crate) expiry: Duration,
    pub(crate) suspicion: Duration,
    pub(crate) burst: u32,
    pub(crate) host: IpAddr,
    pub(crate) keeps_lapsed: bool,
    pub(crate) endpoint_details: bool,
    pub(crate) ipv6: bool,
    pub(crate) host_names: bool,
    pub(crate) many_addresses: bool,
    pub(crate) shared_ids: bool,
    pub(crate) reads: Option<fn(&Instance) -> Instance>,
    pub(crate) lists: bool,
    pub(crate) ignores_case: bool,
    pub(crate) worker_threads: usize,
}

impl Profile {
    /// Everything can be done, within seconds.
    pub fn new() -> Self {
        Self {
            answer: Duration::from_secs(15),
            settle: Duration::from_secs(5),
            quiet: Duration::from_millis(100),
            ttl: Some(Duration::from_secs(1)),
            expiry: Duration::from_secs(3),
            suspicion: Duration::ZERO,
            burst: 100,
            host: Ipv4Addr::LOCALHOST.into(),
            keeps_lapsed: false,
            endpoint_details: true,
            ipv6: true,
            host_names: true,
            many_addresses: true,
            shared_ids: false,
            reads: None,
            lists: true,
            ignores_case: false,
            worker_threads: 0,
        }
    }

    /// The longest that any call may take. Default 15 s.
    pub fn answer(self, limit: Duration) -> Self {
        Self { answer: limit, ..self }
    }

    /// The longest that a change may take to reach a watch of another handle. Default 5 s.
    pub fn settle(self, limit: Duration) -> Self {
        Self { settle: limit, ..self }
    }

    /// How long to listen before concluding that nothing more comes: longer than one change takes to arrive. Default
    /// 100 ms.
    pub fn quiet(self, time: Duration) -> Self {
        Self { quiet: time, ..self }
    }

    /// The TTL to test with, or `None` if the backend does not keep TTLs; those cases are then skipped. Default 1 s.
    ///
    /// Must be long enough for a renewal every quarter of it to arrive in time.
    pub fn ttl(self, ttl: Option<Duration>) -> Self {
        Self { ttl, ..self }
    }

    /// The longest that a lapse may go unnoticed after its TTL has passed. Default 3 s.
    pub fn expiry(self, limit: Duration) -> Self {
        Self { expiry: limit, ..self }
    }

    /// A lapsed instance stays in snapshots with a health that is no longer healthy, as in Consul, instead of leaving
    /// them. Default: it leaves them.
    pub fn keeps_lapsed(self, keeps: bool) -> Self {
        Self { keeps_lapsed: keeps, ..self }
    }

    /// How long the backend may take to judge a suspected instance; a live one must be there all that time and after.
    /// Default 0: [`quiet`](Self::quiet) is enough.
    pub fn suspicion(self, time: Duration) -> Self {
        Self { suspicion: time, ..self }
    }

    /// How many changes are made while a watcher is not reading: more than any queue in the backend holds, if that is
    /// affordable. Default 100, at least 2.
    pub fn burst(self, changes: u32) -> Self {
        Self { burst: changes.max(2), ..self }
    }

    /// The address that instances of the cases have, with ports nobody listens on. Default `127.0.0.1`.
    pub fn host(self, host: impl Into<IpAddr>) -> Self {
        Self { host: host.into(), ..self }
    }

    /// Whether endpoints are kept with metadata, request and response, or only their names. Default `true`.
    pub fn endpoint_details(self, kept: bool) -> Self {
        Self { endpoint_details: kept, ..self }
    }

    /// Whether IPv6 addresses can be registered. If not, they must be kept all the same or be refused. Default `true`.
    pub fn ipv6(self, can: bool) -> Self {
        Self { ipv6: can, ..self }
    }

    /// Whether host names can be registered. If not, they must be kept all the same or be refused. Default `true`.
    pub fn host_names(self, can: bool) -> Self {
        Self { host_names: can, ..self }
    }

    /// Whether several addresses, each with its own port, can be registered. If not, they must be kept all the same
    /// or be refused. Default `true`.
    pub fn many_addresses(self, can: bool) -> Self {
        Self { many_addresses: can, ..self }
    }

    /// Whether instances of two services may have the same id. The contract tells programs not to do it, so the
    /// default is `false`, and the case is skipped.
    pub fn shared_ids(self, can: bool) -> Self {
        Self { shared_ids: can, ..self }
    }

    /// What is read of an instance that was [written](Backend::write), where that is not all of it: addresses and weights
    /// only, say, with ids that the registry makes of them. Default: everything but the health.
    ///
    /// Cases about what is not read are skipped. Written instances have the [host](Self::host) as address, each with a port
    /// of its own.
    pub fn reads(self, what: fn(&Instance) -> Instance) -> Self {
        Self { reads: Some(what), ..self }
    }

    /// Whether there is a list of names. If not, `services` must say so as `Unsupported`. Default `true`.
    pub fn lists(self, can: bool) -> Self {
        Self { lists: can, ..self }
    }

    /// Whether names that differ only in upper and lower case are one service, as in DNS. Default `false`.
    pub fn ignores_case(self, ignores: bool) -> Self {
        Self { ignores_case: ignores, ..self }
    }

    /// How many worker threads the runtime has under which [`suite!`](crate::suite) runs a case; 0, the default,
    /// is one thread in all.
    pub fn worker_threads(self, threads: usize) -> Self {
        Self { worker_threads: threads, ..self }
    }

    /// What is read of `instance` once it is registered.
    pub(crate) fn carried(&self, instance: &Instance) -> Instance {
        if let Some(read) = self.reads {
            return read(instance);
        }
        let mut copy =
            Instance::builder(instance.service()).id(instance.id().as_str()).weight(instance.weight().get());
        if let Some(version) = instance.version() {
            copy = copy.version(version);
        }
        if let Some(weight) = instance.warning_weight() {
            copy = copy.warning_weight(weight);
        }
        for address in instance.addresses() {
            copy = copy.address(address);
        }
        for tag in instance.tags() {
            copy = copy.tag(tag);
        }
        for (key, value) in instance.metadata() {
            copy = copy.metadata(key, value);
        }
        for endpoint in instance.endpoints() {
            let kept =
                if self.endpoint_details { endpoint.clone() } else { Endpoint::new(endpoint.name.as_str()) };
            copy = copy.endpoint(kept);
        }
        copy.build().expect("the parts of a valid instance make a valid instance")
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::new()
    }
}
