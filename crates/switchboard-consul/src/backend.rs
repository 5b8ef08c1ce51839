use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, Invalid, NamesStream, RegisterOptions, Registry, RegistryUrl,
    Result, ServiceName, Snapshot, SnapshotStream, look_up_all,
};
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, timeout_at};

use crate::agent::Agent;
use crate::agent_api::{Draft, set_maintenance};
use crate::check::{CheckPolicy, DeregisterAfter, checks, ttl_check_id};
use crate::client::{Client, Request, check_addressable};
use crate::config::ConsulBuilder;
use crate::query::ReadOptions;
use crate::registration::Registrations;
use crate::settings::Settings;
use crate::token::Token;
use crate::turns::Crowd;
use crate::watch::Watches;
use crate::{BACKEND, MAX_SECONDS, Wire, foreign, local, record};

/// How many deregistrations `close` has under way at a time.
const CLOSING: usize = 16;
/// How long `close` waits for all of them: an agent without a leader does them one after the other, 7 to 90 s each.
const CLOSE_WITHIN: Duration = Duration::from_secs(60);

/// A [`Registry`] over Consul's HTTP API.
///
/// Instances are registered with an agent, normally the one on the same host, with a TTL check if the registration has
/// a TTL; renewing passes the check. Reads are answered by the agent, watches by its blocking queries. See the
/// [crate's documentation](crate) for what each fault does.
///
/// Needs a tokio runtime with I/O and time. Dropping it without [`close`](Registry::close) deregisters in the
/// background, as long as the runtime it is dropped on lives.
pub struct ConsulRegistry {
    client: Arc<Client>,
    watches: Arc<Watches>,
    registrations: Arc<Registrations>,
    reads: ReadOptions,
    wire: Wire,
    policy: CheckPolicy,
    move_after: Duration,
    /// Whether a partition is asked for, which old agents would ignore; set once they were asked.
    partition: Option<OnceCell<()>>,
}

impl ConsulRegistry {
    /// Starts from Consul's environment variables and the defaults.
    pub fn builder() -> ConsulBuilder {
        ConsulBuilder::default()
    }

    /// The registry that `url` names: `consul://127.0.0.1:8500?dc=dc1`, several agents as `consul://a:8500,b:8500`, a
    /// socket as `consul:///run/consul/http.sock`, or `consul:` for what the environment says. The parameters are the
    /// methods of [`ConsulBuilder`].
    ///
    /// # Errors
    ///
    /// As for [`ConsulBuilder::build`]; an unknown parameter is refused with a list of those there are.
    pub fn from_url(url: &RegistryUrl) -> Result<Self> {
        Self::builder().url(url).build()
    }

    pub(crate) fn open(settings: Settings) -> Result<Self, Invalid> {
        let range = |name: &str, given: Option<Duration>, default: Duration, min: Duration, max: Duration| {
            match given {
                Some(given) if given < min || given > max => Err(Invalid::new(
                    format!("{name} {given:?}"),
                    format!("is out of range; it is {min:?} to {max:?}"),
                )),
                given => Ok(given.unwrap_or(default)),
            }
        };
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let wait = range("wait", settings.wait, second * 60, second, second * 600)?;
        let timeout = range("timeout", settings.timeout, second * 15, second / 100, hour)?;
        let move_after = range("move_after", settings.move_after, second * 10, Duration::ZERO, hour * 24)?;
        let grace = range("rejoin_grace", settings.rejoin_grace, second * 45, Duration::ZERO, hour)?;
        let interval = range("check_interval", settings.check_interval, second * 10, second, hour)?;
        let check_timeout = range("check_timeout", settings.check_timeout, second * 5, second / 100, hour)?;

        let local = || vec!["127.0.0.1:8500".parse()].into_iter().collect::<Result<Vec<_>, Invalid>>();
        let addresses = settings.addresses.clone().map_or_else(local, Ok)?;
        let agents =
            addresses.iter().map(|address| Agent::new(address, &settings)).collect::<Result<Vec<_>, _>>()?;
        let token = settings.token.clone().map(Token::open).transpose()?;
        let scope = [("ns", settings.ns.clone()), ("partition", settings.partition.clone())];
        let scope = scope.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let client = Arc::new(Client::new(agents, token, scope, timeout));
        let reads = ReadOptions::new(&settings);
        Ok(Self {
            watches: Arc::new(Watches {
                client: client.clone(),
                closed: watch::Sender::new(false),
                sources: reads.sources(),
                crowd: Crowd::default(),
                wait,
                rejoin_grace: grace,
            }),
            client,
            registrations: Arc::default(),
            reads,
            wire: settings.wire.unwrap_or_default(),
            policy: CheckPolicy {
                check: settings.check,
                interval,
                timeout: check_timeout,
                deregister_after: settings.deregister_after.unwrap_or(DeregisterAfter::ByTtl),
            },
            move_after,
            partition: settings.partition.map(|_| OnceCell::new()),
        })
    }

    /// What every call begins with.
    async fn ready(&self, operation: &'static str) -> Result<()> {
        if self.watches.is_closed() {
            return Err(Error::closed(BACKEND, operation));
        }
        // Else reqwest and tokio's timers panic.
        tokio::runtime::Handle::try_current()
            .map_err(|error| Error::no_runtime(BACKEND, operation).with_source(error))?;
        if let Some(known) = &self.partition {
            known.get_or_try_init(|| knows_partitions(&self.client, operation)).await?;
        }
        Ok(())
    }

    /// All snapshots by one request; `None` if they cannot be had so.
    async fn everything(&self) -> Option<Result<Vec<Snapshot>>> {
        let everything = self.reads.everything()?;
        let answer = match self.client.read("snapshots", everything.request()).await {
            Ok(answer) => answer,
            Err(failure) if failure.error.kind() == ErrorKind::Unavailable => {
                return Some(Err(failure.error));
            }
            Err(failure) => {
                tracing::debug!(error = %failure.error, "asking for each service instead");
                return None;
            }
        };
        match everything.decode(&answer.body) {
            // What access rules have emptied is told as the names are.
            Ok(snapshots) if snapshots.is_empty() => None,
            Ok(snapshots) => Some(Ok(snapshots)),
            Err(error) => {
                tracing::debug!(%error, "asking for each service instead");
                None
            }
        }
    }

    fn draft(&self, instance: &Instance, options: &RegisterOptions) -> Result<Draft, Invalid> {
        options.validate()?;
        if let Some(ttl) = options.ttl.filter(|ttl| ttl.as_secs() > MAX_SECONDS) {
            return Err(Invalid::new(format!("TTL {ttl:?}"), "is too long; the limit is a year"));
        }
        check_names(&instance.key())?;
        let checks = checks(instance, options.ttl, &self.policy);
        Ok(Draft {
            key: instance.key(),
            address: instance.address().clone(),
            body: record::encode(instance, &checks, self.wire)?,
            checks: checks.into_iter().map(|check| check.id).collect(),
            ttl_check: options.ttl.map(|_| ttl_check_id(instance.id())),
            ttl: options.ttl,
        })
    }
}

fn check_names(key: &InstanceKey) -> Result<(), Invalid> {
    check_addressable("service name", key.service().as_str())?;
    check_addressable("instance id", key.id().as_str())
}

/// Agents before 1.11 ignore the parameter `partition` and answer from the wrong place.
async fn knows_partitions(client: &Client, operation: &'static str) -> Result<()> {
    let answer =
        client.read(operation, &Request::get("/v1/agent/self")).await.map_err(|failure| failure.error)?;
    let about: serde_json::Value =
        serde_json::from_slice(&answer.body).map_err(|error| answer.malformed(operation, error))?;
    let version = about["Config"]["Version"].as_str().unwrap_or_default();
    let mut numbers = version.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (major, minor) >= (1, 11) {
        return Ok(());
    }
    let message = format!("partitions need Consul Enterprise 1.11, and the agent is {version:?}");
    Err(Error::new(ErrorKind::Unsupported, BACKEND, operation, message))
}

#[async_trait]
impl Registry for ConsulRegistry {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        let operation = "register";
        if self.watches.is_closed() {
            return Err(Error::closed(BACKEND, operation));
        }
        let draft =
            self.draft(instance, options).map_err(|invalid| Error::invalid(BACKEND, operation, &invalid))?;
        self.ready(operation).await?;
        self.registrations.register(&self.client, draft, self.move_after).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.ready("deregister").await?;
        if check_names(key).is_err() {
            // It can never have been registered.
            return Ok(());
        }
        if self.registrations.deregister(&self.client, key).await? {
            return Ok(());
        }
        let whole = self.reads.whole(key.service());
        foreign::deregister(&self.client, &self.registrations, &whole, key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.ready("lookup").await?;
        check_addressable("service name", service.as_str())
            .map_err(|invalid| Error::invalid(BACKEND, "lookup", &invalid))?;
        self.watches.once("lookup", self.reads.instances(service)).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.ready("services").await?;
        self.watches.once("services", self.reads.names()).await
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.ready("snapshots").await?;
        match self.everything().await {
            Some(read) => read,
            None => look_up_all(self).await,
        }
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        match check_addressable("service name", service.as_str()) {
            Ok(()) => self.watches.follow("watch", self.reads.instances(service).dating()),
            Err(invalid) => self.watches.refuse("watch", Error::invalid(BACKEND, "watch", &invalid)),
        }
    }

    fn watch_services(&self) -> NamesStream {
        self.watches.follow("watch_services", self.reads.names())
    }

    async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        let operation = "set_maintenance";
        self.ready(operation).await?;
        let places = match check_names(key) {
            Ok(()) => foreign::places(operation, &self.client, &self.reads.whole(key.service()), key).await?,
            // It can never have been registered.
            Err(_) => Vec::new(),
        };
        if places.is_empty() {
            let invalid = Invalid::new(format!("instance {key}"), "is not registered");
            return Err(Error::invalid(BACKEND, operation, &invalid));
        }
        for (agent, id) in places {
            set_maintenance(&self.client, agent, &id, reason).await.map_err(|failure| failure.error)?;
        }
        Ok(())
    }

    async fn local_ip(&self) -> Option<IpAddr> {
        local::ip(self.client.agents.iter().map(|agent| agent.name.as_str())).await
    }

    async fn close(&self) -> Result<()> {
        self.watches.closed.send_replace(true);
        deregister_all(&self.client, &self.registrations).await
    }
}

/// Deregisters everything; an error names what may be left.
async fn deregister_all(client: &Client, registrations: &Registrations) -> Result<()> {
    // Also what an earlier call has left that failed or was given up.
    let keys = registrations.close();
    // What waits to be renewed would only be in the way.
    let closed = Error::closed(BACKEND, "register");
    client.agents.iter().for_each(|agent| agent.turns.give_up(&closed));
    let end = Instant::now() + CLOSE_WITHIN;
    let failures: Vec<(InstanceKey, Error)> = stream::iter(keys)
        .map(|key| async move {
            let done = timeout_at(end, registrations.deregister(client, &key)).await;
            let error = done.unwrap_or_else(|_| Err(late())).err()?;
            Some((key, error))
        })
        .buffer_unordered(CLOSING)
        .filter_map(|failure| async { failure })
        .collect()
        .await;
    let Some((_, first)) = failures.first() else { return Ok(()) };
    let keys: Vec<_> = failures.iter().map(|(key, _)| key.to_string()).collect();
    let message =
        format!("may be left behind: {}; the first failed with {:?}", keys.join(", "), first.message());
    Err(Error::new(first.kind(), BACKEND, "close", message).with_source(first.clone()))
}

fn late() -> Error {
    let message = format!("not done within {CLOSE_WITHIN:?}");
    Error::new(ErrorKind::Unavailable, BACKEND, "close", message)
}

impl Drop for ConsulRegistry {
    fn drop(&mut self) {
        self.watches.closed.send_replace(true);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, registrations) = (self.client.clone(), self.registrations.clone());
            // Bounded: every request has its limit. Without a close there is nobody left to tell.
            if registrations.has_any() {
                runtime.spawn(async move {
                    if let Err(error) = deregister_all(&client, &registrations).await {
                        tracing::warn!(%error, "deregistering after a drop");
                    }
                });
            }
        }
    }
}

/// The URL without parameters.
impl fmt::Display for ConsulRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("consul://")?;
        for (index, agent) in self.client.agents.iter().enumerate() {
            let separator = if index > 0 { "," } else { "" };
            write!(f, "{separator}{}", agent.name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for ConsulRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulRegistry")
            .field("url", &self.to_string())
            .field("reads", &self.reads)
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}
