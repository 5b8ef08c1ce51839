use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use switchboard_core::{Error, Instance, IntoRegistry, Invalid, Registry, Result};
use tokio::runtime::Handle;

use crate::check::Check;
use crate::{CheckError, Running};

const INTERVAL: Duration = Duration::from_secs(30);

/// The TTL lasts for so many intervals: two renewals may fail.
const TTL_INTERVALS: u32 = 3;

/// An interval derived from a TTL is no shorter; zero would mean that it is never renewed.
const SHORTEST_DERIVED: Duration = Duration::from_millis(1);

/// Describes how an instance is kept registered; see the [crate's documentation](crate).
#[derive(Clone)]
#[must_use = "nothing is registered until it is started"]
pub struct Registrar {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) instance: Instance,
    interval: Option<Duration>,
    ttl: Option<Duration>,
    pub(crate) check: Check,
    pub(crate) withdraw: bool,
    pub(crate) start_limit: Duration,
    pub(crate) drain: Duration,
    pub(crate) shutdown_limit: Duration,
}

impl Registrar {
    /// Will keep `instance` registered in `registry`, given by value or shared: `Arc<dyn Registry>`, `&Arc<dyn Registry>`.
    pub fn new(registry: impl IntoRegistry, instance: Instance) -> Self {
        Self {
            registry: registry.into_registry(),
            instance,
            interval: None,
            ttl: None,
            check: Check::default(),
            withdraw: true,
            start_limit: Duration::from_secs(30),
            drain: Duration::ZERO,
            shutdown_limit: Duration::from_secs(8),
        }
    }

    /// Sets the time between renewals. Default 30 s, or a third of the TTL if that is shorter. Zero: register once and
    /// never renew.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Sets how long the registration lasts without renewal; more than the interval. Default three times the interval, so
    /// 90 s, and none if the interval is zero or three times as much is more than a [`Duration`] holds.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the health check. Default: none, always well.
    ///
    /// The first registration waits until it has passed once. From then on it runs at its own interval, whatever the
    /// renewals do, and never twice at a time. One that fails, panics or takes too long counts as failed. It shares a task
    /// with the renewals, so it must not block the thread.
    ///
    /// Its error may be of any type that converts into a [`CheckError`]: any `std::error::Error`, `anyhow::Error`, `String`,
    /// `&str`. So a function goes in as it is; a block that ends in `Ok(())` has to name its error:
    ///
    /// ```
    /// # use switchboard_core::{Instance, MemoryRegistry};
    /// # use switchboard_registrar::{CheckError, Registrar};
    /// # let instance = Instance::builder("greeter").address("127.0.0.1:8080").build()?;
    /// # let registrar = Registrar::new(MemoryRegistry::new(), instance);
    /// async fn disk() -> std::io::Result<()> {
    ///     tokio::fs::metadata("data").await.map(drop)
    /// }
    ///
    /// let registrar = registrar.check(disk);
    /// let registrar = registrar.check(|| async {
    ///     disk().await?;
    ///     Ok::<_, CheckError>(())
    /// });
    /// # drop(registrar);
    /// # Ok::<(), switchboard_core::Error>(())
    /// ```
    pub fn check<F, Fut, E>(mut self, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Into<CheckError>,
    {
        self.check.set(check);
        self
    }

    /// Sets the time from the start of one check to the start of the next, after a failure too; up to a fifth less, at
    /// random, and after the first check any part of it, so that a fleet does not check what it shares in lockstep. A check
    /// that takes longer is followed by the next at once. Default 10 s, as `periodSeconds` in Kubernetes; at least 1 ms.
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.check.interval = interval;
        self
    }

    /// Sets how long a check may take; one that takes longer has failed. Default 5 s, half of the check interval:
    /// `timeoutSeconds` in Kubernetes is 1, which makes a failure of every slow moment of a shared dependency.
    pub fn check_timeout(mut self, limit: Duration) -> Self {
        self.check.timeout = limit;
        self
    }

    /// Sets how many checks must fail in a row to withdraw the instance. Default 3, as `failureThreshold` in Kubernetes, so
    /// that it takes 20 to 30 s of failures, and one slow check of a shared dependency takes nobody out. 0 is 1. Before the
    /// first registration a single one withdraws.
    pub fn unhealthy_after(mut self, failures: u32) -> Self {
        self.check.unhealthy_after = failures;
        self
    }

    /// Sets how many checks must pass in a row to bring a withdrawn instance back. Default 1, as `successThreshold` in
    /// Kubernetes: while an instance is out, others carry its load. 0 is 1. For the first registration one is enough, as in
    /// Envoy, unless the first check has failed.
    pub fn healthy_after(mut self, passes: u32) -> Self {
        self.check.healthy_after = passes;
        self
    }

    /// Whether checks that fail deregister the instance (the default), or only stop renewing it, so that it goes when its TTL
    /// lapses.
    pub fn withdraw(mut self, withdraw: bool) -> Self {
        self.withdraw = withdraw;
        self
    }

    /// Sets how long [`start`](Self::start) tries; it ends 1 s later at most. Default 30 s.
    pub fn start_limit(mut self, limit: Duration) -> Self {
        self.start_limit = limit;
        self
    }

    /// Sets how long [`Running::shutdown`] waits after deregistering, for requests in flight and clients that have not
    /// heard yet. Default 0.
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Sets how long deregistering may take on shutdown, a renewal in flight included. One call to deregister may take half
    /// of what is left, 30 s at most, so that there is time for another if it hangs. Default 8 s, so that with a drain time of
    /// 1 s all is over within the 10 s after which Docker kills.
    pub fn shutdown_limit(mut self, limit: Duration) -> Self {
        self.shutdown_limit = limit;
        self
    }

    /// Registers, trying again until it succeeds or the limit has passed, and keeps it up in the background.
    ///
    /// # Errors
    ///
    /// `Invalid` for a TTL that is not longer than the interval; `Unsupported` outside a tokio runtime. At once what trying
    /// again does not mend, such as a refused token or a closed registry; else the last error when the limit has passed.
    /// Nothing goes on in the background then, and there is no drain. If the registry may have the instance all the same,
    /// for want of a clear answer, it is deregistered once. That, with a registration in flight before it, takes 1 s at
    /// most, by which the limit can be exceeded. A failing check is no error: the instance is withdrawn until it passes.
    pub async fn start(self) -> Result<Running> {
        let limit = self.start_limit;
        let running = self.start_in_background()?;
        match running.started(limit).await {
            Ok(()) => Ok(running),
            Err(error) => {
                running.give_up().await;
                Err(error)
            }
        }
    }

    /// Registers and keeps it up in the background, however long the first registration takes.
    ///
    /// # Errors
    ///
    /// `Invalid` for a TTL that is not longer than the interval; `Unsupported` outside a tokio runtime.
    pub fn start_in_background(self) -> Result<Running> {
        self.validate().map_err(|invalid| Error::invalid("registrar", "start", &invalid))?;
        let runtime = Handle::try_current()
            .map_err(|error| Error::no_runtime("registrar", "start").with_source(error))?;
        Ok(Running::start(self, &runtime))
    }

    pub(crate) fn effective_interval(&self) -> Duration {
        let derived = |ttl: Duration| INTERVAL.min(ttl / TTL_INTERVALS).max(SHORTEST_DERIVED);
        self.interval.unwrap_or_else(|| self.ttl.map_or(INTERVAL, derived))
    }

    pub(crate) fn effective_ttl(&self) -> Option<Duration> {
        let interval = self.effective_interval();
        // Three intervals that no duration holds are for ever.
        let default = interval.checked_mul(TTL_INTERVALS).filter(|ttl| !ttl.is_zero());
        self.ttl.or(default)
    }

    fn validate(&self) -> Result<(), Invalid> {
        let interval = self.effective_interval();
        match self.effective_ttl() {
            Some(ttl) if ttl <= interval => Err(Invalid::new(
                format!("TTL {ttl:?}"),
                format!("is not longer than the interval {interval:?}; it would lapse between renewals"),
            )),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar")
            .field("registry", &self.registry)
            .field("instance", &self.instance)
            .field("interval", &self.effective_interval())
            .field("ttl", &self.effective_ttl())
            .field("check", &self.check.is_set())
            .finish_non_exhaustive()
    }
}
