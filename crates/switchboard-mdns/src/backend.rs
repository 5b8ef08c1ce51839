use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::AbortHandle;
use futures::stream::{self, BoxStream, StreamExt};
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, NamesStream, RegisterOptions, Registry, RegistryUrl, Result,
    ServiceName, Snapshot, SnapshotStream,
};
use tokio::time::{Instant, sleep};

use crate::BACKEND;
use crate::announce::Announcer;
use crate::browse::Browse;
use crate::browses::Browses;
use crate::config::MdnsBuilder;
use crate::daemon::Daemon;
use crate::interface::{Reach, Selection};
use crate::record::ServiceType;
use crate::watch;

/// How long a suspected instance has to answer. Shorter would drop one that was announced within the last second.
const VERIFY_WITHIN: Duration = Duration::from_secs(3);

/// How long `close` gives all goodbyes together. The daemon says those that are left when it ends.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(5);

/// The second goodbye follows the first after 120 ms.
const GOODBYES: Duration = Duration::from_millis(150);

/// The registry of one link, or several: DNS-SD over multicast DNS. See the [crate's documentation](crate).
///
/// One handle has one socket per IP version, one thread that speaks mDNS and one that reads what it hears, however many
/// lookups and watches there are; share it as an `Arc`. A plain DNS-SD type adds a thread while it is watched or looked
/// up, so a lookup of one that nobody watches has to listen anew each time.
///
/// Should the thread that speaks mDNS ever end by itself, another takes its place: watches tell `Unavailable` and then,
/// when the link has been heard again, the current state; what is registered is announced again.
pub struct MdnsRegistry {
    pub(crate) shared: Arc<Shared>,
    pub(crate) task: AbortHandle,
}

pub(crate) struct Shared {
    pub(crate) daemon: Daemon,
    pub(crate) announcer: Arc<Announcer>,
    browses: Arc<Browses>,
    pub(crate) own: Arc<Browse>,
    /// What was asked after, and when; many clients failing at once make one question.
    suspected: Mutex<BTreeMap<InstanceKey, Instant>>,
    config: MdnsBuilder,
    closed: AtomicBool,
    /// Held while closing; whether that is done.
    is_over: tokio::sync::Mutex<bool>,
}

impl MdnsRegistry {
    /// Starts with the defaults: every interface, port 5353.
    pub fn builder() -> MdnsBuilder {
        MdnsBuilder::default()
    }

    /// Opens the registry that `url` describes, such as `mdns:` or `mdns:?interface=lo`.
    ///
    /// # Errors
    ///
    /// `Invalid` for an unknown parameter or a bad value, and those of [`MdnsBuilder::open`].
    pub async fn from_url(url: &RegistryUrl) -> Result<Self> {
        let config =
            MdnsBuilder::from_url(url).map_err(|invalid| Error::invalid(BACKEND, "connect", &invalid))?;
        config.open().await
    }

    /// How many bytes of [receive buffer](MdnsBuilder::receive_buffer) the system granted. `None` where it does not tell:
    /// on Linux where `pidfd_getfd(2)` is refused. On other systems that is the system's default, which stays.
    pub fn receive_buffer(&self) -> Option<usize> {
        self.shared.daemon.receive_buffer()
    }

    /// The DNS-SD instance label under which an instance registered here is announced: its id in lower case, or a name
    /// with a number behind it when that was taken. `None` if it is not registered here.
    ///
    /// Where it was taken by a living program that registered the same id for the same service, the label is the id
    /// under which readers find this one, for as long as the other is there.
    pub fn label(&self, key: &InstanceKey) -> Option<String> {
        self.shared.announcer.label(key)
    }

    pub(crate) async fn open(config: MdnsBuilder) -> Result<Self> {
        tokio::runtime::Handle::try_current()
            .map_err(|error| Error::no_runtime(BACKEND, "connect").with_source(error))?;
        let selection = Selection::new(&config);
        selection.log_unusable();
        match selection.links().reach {
            Reach::Nowhere => tracing::warn!("no interface to speak mDNS on; waiting for one"),
            Reach::Machine => tracing::warn!("no interface but loopback to speak mDNS on; waiting for one"),
            Reach::Links => {}
        }
        let daemon = Daemon::start(&config, &selection).await?;
        let events = daemon.monitor().await?;
        let browses = Browses::new(daemon.clone(), config.settle);
        let own = browses.start(ServiceType::Own, "connect")?;
        // mdns-sd drops what it hears of a type before it browses for it.
        daemon.catch_up("connect").await?;
        let announcer = Announcer::new(daemon.clone(), selection);
        let (run, task) = futures::future::abortable(announcer.clone().run(events, Arc::downgrade(&own)));
        tokio::spawn(run);
        let closed = AtomicBool::new(false);
        let suspected = Mutex::default();
        let shared = Arc::new(Shared {
            daemon,
            announcer,
            browses,
            own,
            suspected,
            config,
            closed,
            is_over: tokio::sync::Mutex::default(),
        });
        Ok(Self { shared, task })
    }

    fn check_open(&self, operation: &'static str) -> Result<()> {
        if self.shared.is_closed() { Err(Error::closed(BACKEND, operation)) } else { Ok(()) }
    }

    /// The browse that hears `service`, started if need be.
    fn browse(&self, operation: &'static str, service: &ServiceName) -> Result<Arc<Browse>> {
        let kind =
            ServiceType::of(service).map_err(|invalid| Error::invalid(BACKEND, operation, &invalid))?;
        self.shared.browses.start(kind, operation)
    }
}

impl Shared {
    /// Whether this suspicion is news: nobody has asked after the instance just now.
    fn note_suspicion(&self, key: &InstanceKey) -> bool {
        let now = Instant::now();
        let mut suspected = self.suspected.lock().unwrap_or_else(PoisonError::into_inner);
        suspected.retain(|_, asked| now - *asked < VERIFY_WITHIN);
        let news = !suspected.contains_key(key);
        if news {
            suspected.insert(key.clone(), now);
        }
        news
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// A stream that says why it cannot begin, and ends.
fn failed<T: Send + 'static>(error: Error) -> BoxStream<'static, Result<T>> {
    stream::iter([Err(error)]).boxed()
}

#[async_trait]
impl Registry for MdnsRegistry {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        self.check_open("register")?;
        options.validate().map_err(|invalid| Error::invalid(BACKEND, "register", &invalid))?;
        self.shared.announcer.announce(instance, options.ttl, &self.shared.own).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.check_open("deregister")?;
        self.shared.announcer.withdraw(key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        let browse = self.browse("lookup", service)?;
        watch::lookup(&browse, service, self.shared.config.settle).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        watch::services(&self.shared.own, self.shared.config.settle).await
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        match self.browse("watch", service) {
            Ok(browse) => watch::snapshots(browse, service, self.shared.config.settle),
            Err(error) => failed(error),
        }
    }

    fn watch_services(&self) -> NamesStream {
        watch::names(self.shared.own.clone(), self.shared.config.settle)
    }

    async fn suspect(&self, key: &InstanceKey) {
        let Ok(kind) = ServiceType::of(key.service()) else { return };
        // What nobody listens to, nobody has heard of.
        let Some(browse) = self.shared.browses.get(&kind) else { return };
        let Some(fullname) = browse.fullname(key) else { return };
        if !self.shared.note_suspicion(key) {
            return;
        }
        if let Err(error) = self.shared.daemon.verify(&fullname, VERIFY_WITHIN).await {
            tracing::debug!(instance = %key, %error, "could not ask whether it is still there");
            return;
        }
        // mdns-sd does not always tell when nobody has answered; what it still knows by then tells.
        browse.ask_again(std::time::Instant::now() + VERIFY_WITHIN);
    }

    async fn local_ip(&self) -> Option<IpAddr> {
        self.shared.announcer.local_ip()
    }

    async fn close(&self) -> Result<()> {
        self.shared.closed.store(true, Ordering::Release);
        // One that was given up is gone on with by the next.
        let mut is_over = self.shared.is_over.lock().await;
        if *is_over {
            return Ok(());
        }
        let left = self.shared.announcer.withdraw_all(WITHDRAW_WITHIN).await;
        sleep(GOODBYES).await;
        self.shared.browses.close();
        self.task.abort();
        self.shared.daemon.shut_down().await?;
        *is_over = true;
        if left > 0 {
            let message =
                format!("{left} instances got no goodbye and stay listed until their records lapse");
            return Err(Error::new(ErrorKind::Unavailable, BACKEND, "close", message));
        }
        Ok(())
    }
}

impl Drop for MdnsRegistry {
    fn drop(&mut self) {
        // After a `close` none of it does anything, unless that was dropped half-way.
        self.task.abort();
        self.shared.browses.close();
        self.shared.daemon.begin_shut_down();
    }
}

/// The URL that opens a registry like this one.
impl fmt::Display for MdnsRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MdnsBuilder { interfaces, port, .. } = &self.shared.config;
        let mut separator = '?';
        f.write_str("mdns:")?;
        for interface in interfaces {
            write!(f, "{separator}interface={interface}")?;
            separator = '&';
        }
        if *port != mdns_sd::MDNS_PORT {
            write!(f, "{separator}port={port}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MdnsRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MdnsRegistry").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
