use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hickory_resolver::proto::rr::Name;
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, Invalid, NamesStream, RegisterOptions, Registry, RegistryUrl,
    Result, ServiceName, Snapshot, SnapshotStream,
};
use switchboard_dnssd::ServiceType;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::BACKEND;
use crate::config::{DnsBuilder, Records};
use crate::examine::{Examined, examine};
use crate::feed::Feed;
use crate::resolve::{Question, Resolve, Resolver};
use crate::watch::{failed, names, snapshot, snapshots};

/// So many questions are remembered after nobody watches, for how best to ask them.
const REMEMBERED: usize = 1024;

/// In a TXT record the name stands behind `service=`, in 255 bytes (RFC 6763, section 6.1).
const LONGEST_IN_TXT: usize = 255 - "service=".len();

/// The registry that DNS is. See the [crate's documentation](crate).
///
/// A handle has no task or thread of its own: a watch asks while it is read.
pub struct DnsRegistry {
    config: DnsBuilder,
    domain: Option<Name>,
    /// `None` once it is closed.
    feeds: Mutex<Option<Feeds>>,
    closed: watch::Sender<bool>,
}

struct Feeds {
    resolver: Arc<dyn Resolve>,
    known: HashMap<Question, Arc<Feed>>,
}

impl DnsRegistry {
    /// Starts with the defaults: the system's servers and search list, SRV records and then addresses.
    pub fn builder() -> DnsBuilder {
        DnsBuilder::default()
    }

    /// Opens the registry that `url` describes, such as `dns:` or `dns://10.0.0.2?domain=example.com`.
    ///
    /// # Errors
    ///
    /// `Invalid` for an unknown parameter or a bad value, and as [`DnsBuilder::open`] has it.
    pub fn from_url(url: &RegistryUrl) -> Result<Self> {
        let refused = |invalid| Error::invalid(BACKEND, "connect", &invalid);
        DnsBuilder::from_url(url).map_err(refused)?.open()
    }

    pub(crate) fn of(config: DnsBuilder, domain: Option<Name>) -> Self {
        let resolver = Arc::new(Resolver::new(config.clone(), domain.clone()));
        let feeds = Mutex::new(Some(Feeds { resolver, known: HashMap::new() }));
        Self { config, domain, feeds, closed: watch::Sender::new(false) }
    }

    /// Asks every server once for each name and type of records that stand for `service`, to see why it is not found; without
    /// a service, whether the servers answer at all, for the SOA record of the domain or the root. In the order of the servers.
    ///
    /// # Errors
    ///
    /// `Unavailable` where no server is known, `Invalid` for a name that DNS cannot have, `Unsupported` outside a runtime. What
    /// a server does wrong is part of the result.
    pub async fn examine(&self, service: Option<&ServiceName>) -> Result<Vec<Examined>> {
        examine(&self.config, self.domain.as_ref(), service).await.map_err(|failed| failed.error("examine"))
    }

    /// What is asked to find a service.
    fn question(&self, service: &ServiceName) -> Result<Question, Invalid> {
        if self.config.record != Records::DnsSd {
            return Ok(Question::Service(service.clone()));
        }
        let len = service.as_str().len();
        if len > LONGEST_IN_TXT {
            let why = format!("is {len} bytes long, the limit in a TXT record is {LONGEST_IN_TXT}");
            return Err(Invalid::quoting("service name", service.as_str(), why));
        }
        ServiceType::of(service).map(Question::Type)
    }

    /// What all who ask a question share.
    fn feed(&self, operation: &'static str, question: Question) -> Result<Arc<Feed>> {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Feeds { resolver, known }) = &mut *feeds else {
            return Err(Error::closed(BACKEND, operation));
        };
        resolver.check(&question).map_err(|invalid| Error::invalid(BACKEND, operation, &invalid))?;
        if known.len() >= REMEMBERED && !known.contains_key(&question) {
            known.retain(|_, feed| Arc::strong_count(feed) > 1);
        }
        let feed = known.entry(question).or_insert_with_key(|question| {
            Feed::new(question.clone(), resolver.clone(), self.config.clone())
        });
        Ok(feed.clone())
    }

    fn feed_of(&self, operation: &'static str, service: &ServiceName) -> Result<Arc<Feed>> {
        let question = self.question(service);
        let question = question.map_err(|invalid| Error::invalid(BACKEND, operation, &invalid))?;
        self.feed(operation, question)
    }

    fn feed_of_names(&self, operation: &'static str) -> Result<Arc<Feed>> {
        if self.config.record == Records::DnsSd || *self.closed.borrow() {
            return self.feed(operation, Question::Names);
        }
        let message =
            "DNS has no list of names; ask for a service by its name, or browse DNS-SD by record=dnssd";
        Err(Error::new(ErrorKind::Unsupported, BACKEND, operation, message))
    }

    fn refused(&self, operation: &'static str) -> Error {
        if *self.closed.borrow() {
            return Error::closed(BACKEND, operation);
        }
        Error::read_only(BACKEND, operation, "whoever keeps the zone")
    }

    /// Asks, and waits for the answer.
    async fn ask(&self, feed: &Arc<Feed>, operation: &'static str) -> Result<()> {
        let mut closed = self.closed.subscribe();
        let asked = async { feed.ask(Instant::now()).await };
        tokio::select! {
            () = asked => {}
            _ = closed.wait_for(|closed| *closed) => {}
        }
        if *self.closed.borrow() { Err(Error::closed(BACKEND, operation)) } else { Ok(()) }
    }

    fn end(&self) {
        self.closed.send_replace(true);
        drop(self.feeds.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

#[async_trait]
impl Registry for DnsRegistry {
    async fn register(&self, _: &Instance, _: &RegisterOptions) -> Result<()> {
        Err(self.refused("register"))
    }

    async fn deregister(&self, _: &InstanceKey) -> Result<()> {
        Err(self.refused("deregister"))
    }

    async fn set_maintenance(&self, _: &InstanceKey, _: Option<&str>) -> Result<()> {
        Err(self.refused("set_maintenance"))
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        let feed = self.feed_of("lookup", service)?;
        self.ask(&feed, "lookup").await?;
        feed.read(|kept, _| snapshot(kept, service)).map_err(|failed| failed.error("lookup"))
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        let feed = self.feed_of_names("services")?;
        self.ask(&feed, "services").await?;
        feed.read(|_, found| found.names.clone()).map_err(|failed| failed.error("services"))
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        match self.feed_of("watch", service) {
            Ok(feed) => snapshots(feed, self.closed.subscribe(), service.clone()),
            Err(error) => failed(error),
        }
    }

    fn watch_services(&self) -> NamesStream {
        match self.feed_of_names("watch_services") {
            Ok(feed) => names(feed, self.closed.subscribe()),
            Err(error) => failed(error),
        }
    }

    async fn suspect(&self, key: &InstanceKey) {
        let Ok(feed) = self.feed_of("suspect", key.service()) else { return };
        if feed.knows(|instance| instance.key() == *key) {
            feed.suspect();
        }
    }

    async fn close(&self) -> Result<()> {
        self.end();
        Ok(())
    }
}

impl Drop for DnsRegistry {
    fn drop(&mut self) {
        self.end();
    }
}

/// The URL that opens a registry like this one.
impl fmt::Display for DnsRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DnsBuilder { servers, domain, record, port, .. } = &self.config;
        f.write_str("dns:")?;
        for (at, server) in servers.iter().enumerate() {
            write!(f, "{}{server}", if at == 0 { "//" } else { "," })?;
        }
        let record = match record {
            Records::Auto => None,
            Records::Srv => Some("srv"),
            Records::Addresses => Some("a"),
            Records::DnsSd => Some("dnssd"),
        };
        let port = port.map(|port| port.to_string());
        let given = [("domain", domain.as_deref()), ("record", record), ("port", port.as_deref())];
        let given = given.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        let given = given.collect::<Vec<_>>().join("&");
        if given.is_empty() { Ok(()) } else { write!(f, "?{given}") }
    }
}

impl fmt::Debug for DnsRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsRegistry").field("config", &self.config).finish_non_exhaustive()
    }
}
