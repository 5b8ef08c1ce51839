use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::{Error, ErrorKind, Instance, InstanceKey, Result, ServiceName, Snapshot};

/// What [`Registry::watch`] gives: the current snapshot, then every newer one.
pub type SnapshotStream = BoxStream<'static, Result<Snapshot>>;

/// What [`Registry::watch_services`] gives: the current names, then every newer set.
pub type NamesStream = BoxStream<'static, Result<BTreeSet<ServiceName>>>;

/// How many lookups [`Registry::snapshots`] has under way at a time.
const LOOKUPS: usize = 16;

/// A place where instances are registered and found.
///
/// Used as `Arc<dyn Registry>`. Displays as the URL it was opened from, without credentials.
///
/// # For every method
///
/// - After [`close`](Self::close) the answer is [`ErrorKind::Closed`](crate::ErrorKind::Closed).
/// - Bad input is [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming what, why and the limit, and nothing has
///   been sent.
/// - No call waits for ever: a backend has a limit on each, and answers
///   [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) when it passes.
/// - Dropping the future of a call abandons the call; whether it took effect is then unknown.
///
/// # Registries one can only read
///
/// Where the platform registers, as in DNS, a list or Kubernetes, [`register`](Self::register),
/// [`deregister`](Self::deregister) and [`set_maintenance`](Self::set_maintenance) answer
/// [`Error::read_only`](crate::Error::read_only), whatever they are given: of kind
/// [`Unsupported`](crate::ErrorKind::Unsupported), with the words for who registers instead. All else is as everywhere. A
/// program that registers runs on them unchanged: its registrar takes that answer for the place being taken care of, and
/// goes on checking.
///
/// The `switchboard-conformance` crate is this contract as tests, for any implementation.
#[async_trait]
pub trait Registry: Debug + Display + Send + Sync + 'static {
    /// Registers `instance`, or renews it: an idempotent upsert.
    ///
    /// - The same key with the same content renews the registration cheaply; watchers see nothing.
    /// - The same key with other content replaces it; watchers see one update, never a gap.
    /// - If the backend has lost it (a restarted agent, a lapsed TTL), this puts it back.
    ///
    /// When it returns `Ok`, another process's [`lookup`](Self::lookup) finds the instance as it is now. The TTL of the last
    /// call counts; a call without one removes it. The instance's [`health`](Instance::health) is ignored: the
    /// registry decides.
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()>;

    /// Removes an instance. Succeeds when it is already gone, or never was.
    ///
    /// When it returns, watchers have been told as fast as the backend can.
    async fn deregister(&self, key: &InstanceKey) -> Result<()>;

    /// The instances of `service` now.
    ///
    /// An unknown service is an empty snapshot, not an error; a failure is an error, never an empty snapshot.
    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot>;

    /// The names of all services with at least one instance, whatever its health.
    ///
    /// Names another program registered that are no valid [`ServiceName`] are left out.
    async fn services(&self) -> Result<BTreeSet<ServiceName>>;

    /// The snapshots of all [`services`](Self::services) now, sorted by name; none is empty.
    ///
    /// This default asks for the names and looks each up. A registry that can answer in one request does.
    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        look_up_all(self).await
    }

    /// A stream of snapshots: the current one first, even if empty, then each newer one.
    ///
    /// - Equal snapshots are not repeated, but for the one after an `Err`.
    /// - A reader slower than the changes may miss states between, never the last one.
    /// - An `Err` says that the registry cannot be heard at present; what was last read still stands. The stream goes
    ///   on by itself, with backoff inside, and ends only after [`close`](Self::close), with one
    ///   [`ErrorKind::Closed`](crate::ErrorKind::Closed); whoever reads it then is told again that it has ended.
    /// - After an `Err`, the current snapshot is told again as soon as the registry is heard, equal to the one before
    ///   or not: that is how a reader knows that the outage is over. A reader that was told of no `Err`, because it was
    ///   slower than the outage, need not be told of its end.
    /// - A stream that begins during an outage may begin with an `Err`; the snapshot follows when there is one.
    /// - Dropping the stream stops the work behind it.
    fn watch(&self, service: &ServiceName) -> SnapshotStream;

    /// The same for the set of names that [`services`](Self::services) gives, told again after an `Err` too.
    fn watch_services(&self) -> NamesStream;

    /// A hint: a client could not reach this instance.
    ///
    /// mDNS asks on the network whether it is still there, and drops it within about 3 s if nobody answers. A
    /// registry with health checks of its own may ignore the hint, as this default does. Never fails: a hint about
    /// something unknown, or to a closed registry, is nothing.
    async fn suspect(&self, key: &InstanceKey) {
        let _ = key;
    }

    /// Takes an instance out of use for `Some(reason)`, or back into use for `None`, without deregistering it.
    ///
    /// Meanwhile its health is [`Health::Maintenance`](crate::Health::Maintenance), whatever checks and renewals say, so
    /// clients leave it alone; the reason is for people, and is its [health reason](Instance::health_reasons). Twice the
    /// same succeeds. Deregistering ends it. Anybody may do it to any instance, as far as the registry lets them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where the registry has nothing of the kind, as by this
    /// default, or has it only in another place, which it names; [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an
    /// instance that is not registered.
    async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        let _ = (key, reason);
        let message = format!("{self} has no maintenance; deregister the instance, or end its program");
        Err(Error::new(ErrorKind::Unsupported, "registry", "set_maintenance", message))
    }

    /// The address of this machine at which those who read this registry can reach it, as far as the registry knows.
    ///
    /// mDNS: of the link in use. Consul: the one this machine speaks to its agent from, unless the agent runs on this
    /// machine. `None`, as by this default, where it does not know. A server that is bound to every address advertises it.
    async fn local_ip(&self) -> Option<IpAddr> {
        None
    }

    /// The registries that this one is made of, in their order; none, as by this default, for one that is made of no others.
    ///
    /// For tools, which can so say where an instance is known. To close them is the affair of this one.
    fn parts(&self) -> Vec<Arc<dyn Registry>> {
        Vec::new()
    }

    /// Deregisters what this handle registered, and stops every task and thread behind it.
    ///
    /// Idempotent: the second call does nothing and succeeds. If deregistering fails the handle is closed all the
    /// same, and the error says what may be left behind. Dropping a handle without closing it does what can be done
    /// without waiting.
    async fn close(&self) -> Result<()>;
}

/// What [`Registry::snapshots`] does unless a registry knows better: asks for the names, and looks each up, 16 at a time.
///
/// # Errors
///
/// The first of any of them.
pub async fn look_up_all<R: Registry + ?Sized>(registry: &R) -> Result<Vec<Snapshot>> {
    let names = registry.services().await?;
    let looked_up = stream::iter(names).map(|name| async move { registry.lookup(&name).await });
    let found: Vec<Snapshot> = looked_up.buffered(LOOKUPS).try_collect().await?;
    // A service may have gone between the two questions.
    Ok(found.into_iter().filter(|snapshot| !snapshot.is_empty()).collect())
}

/// How to register an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisterOptions {
    /// How long the registration lasts without being renewed. `None`, the default: until it is deregistered or its
    /// handle is closed. Zero is invalid.
    pub ttl: Option<Duration>,
}

impl RegisterOptions {
    /// The defaults: no TTL.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this TTL.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Checks what holds on every backend: a TTL is not zero.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::Invalid) for a TTL of zero.
    pub fn validate(&self) -> Result<(), crate::Invalid> {
        match self.ttl {
            Some(Duration::ZERO) => {
                Err(crate::Invalid::new("TTL 0s", "is too short; leave it out for no TTL"))
            }
            _ => Ok(()),
        }
    }
}

/// A shared registry is a registry.
#[async_trait]
impl<R: Registry + ?Sized> Registry for Arc<R> {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        (**self).register(instance, options).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        (**self).deregister(key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        (**self).lookup(service).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        (**self).services().await
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        (**self).snapshots().await
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        (**self).watch(service)
    }

    fn watch_services(&self) -> NamesStream {
        (**self).watch_services()
    }

    async fn suspect(&self, key: &InstanceKey) {
        (**self).suspect(key).await;
    }

    async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        (**self).set_maintenance(key, reason).await
    }

    async fn local_ip(&self) -> Option<IpAddr> {
        (**self).local_ip().await
    }

    fn parts(&self) -> Vec<Arc<dyn Registry>> {
        (**self).parts()
    }

    async fn close(&self) -> Result<()> {
        (**self).close().await
    }
}
