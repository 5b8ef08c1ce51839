use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
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
use crate::config::MdnsBuilder;
use crate::daemon::Daemon;
use crate::interface::Selection;
use crate::record::ServiceType;
use crate::watch;

/// How long a suspected instance has to answer. Shorter would drop one that was announced within the last second.
const VERIFY_WITHIN: Duration = Duration::from_secs(3);

/// The second goodbye follows the first after 120 ms.
const GOODBYES: Duration = Duration::from_millis(150);

/// How long a plain DNS-SD type is listened to after it was last looked up, so that the next lookup need not wait.
const LINGER: Duration = Duration::from_secs(60);

/// The registry of one link, or several: DNS-SD over multicast DNS. See the [crate's documentation](crate).
///
/// One handle has one socket per IP version, one thread that speaks mDNS and one that reads what it hears, however many
/// lookups and watches there are; share it as an `Arc`. A plain DNS-SD type adds a thread while it is watched, and
/// for a minute after a lookup.
pub struct MdnsRegistry {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    daemon: Daemon,
    announcer: Arc<Announcer>,
    own: Arc<Browse>,
    plain: tokio::sync::Mutex<BTreeMap<ServiceName, Plain>>,
    /// What was asked after, and when; many clients failing at once make one question.
    suspected: Mutex<BTreeMap<InstanceKey, Instant>>,
    config: MdnsBuilder,
    closed: AtomicBool,
}

struct Plain {
    browse: Arc<Browse>,
    used: Instant,
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

    /// The DNS-SD instance label under which an instance registered here is announced: its id in lower case, or a name
    /// with a number behind it when that was taken. `None` if it is not registered here.
    pub fn label(&self, key: &InstanceKey) -> Option<String> {
        self.shared.announcer.label(key)
    }

    pub(crate) async fn open(config: MdnsBuilder) -> Result<Self> {
        let selection = Selection::new(&config);
        if selection.links().is_empty() {
            tracing::warn!("no interface to speak mDNS on; waiting for one");
        }
        let daemon = Daemon::start(&config, &selection).await?;
        let events = daemon.monitor().await?;
        let own = Arc::new(Browse::start(daemon.clone(), ServiceType::Own).await?);
        let announcer = Announcer::new(daemon.clone(), selection);
        let (run, task) = futures::future::abortable(announcer.clone().run(events, Arc::downgrade(&own)));
        tokio::spawn(run);
        let closed = AtomicBool::new(false);
        let (plain, suspected) = (tokio::sync::Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { daemon, announcer, own, plain, suspected, config, closed });
        Ok(Self { shared, task })
    }

    fn check_open(&self, operation: &'static str) -> Result<()> {
        if self.shared.is_closed() { Err(Error::closed(BACKEND, operation)) } else { Ok(()) }
    }

    async fn browse(&self, operation: &'static str, service: &ServiceName) -> Result<Arc<Browse>> {
        self.check_open(operation)?;
        let kind =
            ServiceType::of(service).map_err(|invalid| Error::invalid(BACKEND, operation, &invalid))?;
        self.shared.browse(kind).await
    }
}

impl Shared {
    /// The browse of a type, started if need be.
    async fn browse(&self, kind: ServiceType) -> Result<Arc<Browse>> {
        let ServiceType::Plain(service) = &kind else { return Ok(self.own.clone()) };
        let mut plain = self.plain.lock().await;
        let now = Instant::now();
        // What is still watched has other owners, and stays.
        plain.retain(|_, entry| Arc::strong_count(&entry.browse) > 1 || now - entry.used < LINGER);
        if let Some(entry) = plain.get_mut(service) {
            entry.used = now;
            return Ok(entry.browse.clone());
        }
        let browse = Arc::new(Browse::start(self.daemon.clone(), kind.clone()).await?);
        plain.insert(service.clone(), Plain { browse: browse.clone(), used: now });
        Ok(browse)
    }

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
        self.shared.announcer.withdraw(key).await.map(drop)
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        let browse = self.browse("lookup", service).await?;
        let snapshot = watch::lookup(&browse, service, self.shared.config.settle).await;
        self.check_open("lookup")?;
        Ok(snapshot)
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.check_open("services")?;
        let services = watch::services(&self.shared.own, self.shared.config.settle).await;
        self.check_open("services")?;
        Ok(services)
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        let kind = match ServiceType::of(service) {
            Ok(kind) => kind,
            Err(invalid) => return failed(Error::invalid(BACKEND, "watch", &invalid)),
        };
        let (shared, service) = (self.shared.clone(), service.clone());
        let start = async move {
            if shared.is_closed() {
                return failed(Error::closed(BACKEND, "watch"));
            }
            match shared.browse(kind).await {
                Ok(browse) => {
                    let snapshots = browse.store().watch(&service);
                    watch::settled(browse, snapshots, shared.config.settle, Snapshot::is_empty)
                }
                Err(error) => failed(error),
            }
        };
        stream::once(start).flatten().boxed()
    }

    fn watch_services(&self) -> NamesStream {
        if self.shared.is_closed() {
            return failed(Error::closed(BACKEND, "watch_services"));
        }
        let own = self.shared.own.clone();
        let names = own.store().watch_services();
        watch::settled(own, names, self.shared.config.settle, BTreeSet::is_empty)
    }

    async fn suspect(&self, key: &InstanceKey) {
        let Ok(browse) = self.browse("suspect", key.service()).await else { return };
        if let Some(fullname) = browse.fullname(key) {
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
    }

    async fn close(&self) -> Result<()> {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let left = self.shared.announcer.withdraw_all().await;
        sleep(GOODBYES).await;
        self.shared.end_streams().await;
        self.task.abort();
        self.shared.daemon.shut_down().await?;
        if left > 0 {
            let message =
                format!("{left} instances got no goodbye and stay listed until their records lapse");
            return Err(Error::new(ErrorKind::Unavailable, BACKEND, "close", message));
        }
        Ok(())
    }
}

impl Shared {
    async fn end_streams(&self) {
        self.own.store().close();
        for (_, entry) in std::mem::take(&mut *self.plain.lock().await) {
            entry.browse.store().close();
        }
    }
}

impl Drop for MdnsRegistry {
    fn drop(&mut self) {
        self.task.abort();
        if !self.shared.closed.swap(true, Ordering::AcqRel) {
            self.shared.own.store().close();
            self.shared.daemon.begin_shut_down();
        }
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
