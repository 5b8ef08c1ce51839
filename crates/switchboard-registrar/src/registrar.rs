use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use switchboard_core::{Error, Instance, Invalid, Registry, Result};
use tokio::time::timeout;

use crate::Running;

const INTERVAL: Duration = Duration::from_secs(30);

/// The TTL lasts for so many intervals: two renewals may fail.
const TTL_INTERVALS: u32 = 3;

/// What a check says of the server: well, or why not.
pub(crate) type Verdict = std::result::Result<(), Box<dyn StdError + Send + Sync>>;

type Check = Arc<dyn Fn() -> BoxFuture<'static, Verdict> + Send + Sync>;

/// Describes how an instance is kept registered; see the [crate's documentation](crate).
#[derive(Clone)]
#[must_use = "nothing is registered until it is started"]
pub struct Registrar {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) instance: Instance,
    interval: Option<Duration>,
    ttl: Option<Duration>,
    check: Option<Check>,
    check_timeout: Duration,
    pub(crate) withdraw: bool,
    pub(crate) start_limit: Duration,
    pub(crate) drain: Duration,
    pub(crate) shutdown_limit: Duration,
}

impl Registrar {
    /// Will keep `instance` registered in `registry`.
    pub fn new(registry: Arc<dyn Registry>, instance: Instance) -> Self {
        Self {
            registry,
            instance,
            interval: None,
            ttl: None,
            check: None,
            check_timeout: Duration::from_secs(5),
            withdraw: true,
            start_limit: Duration::from_secs(30),
            drain: Duration::ZERO,
            shutdown_limit: Duration::from_secs(10),
        }
    }

    /// Sets the time between renewals. Default 30 s, or a third of the TTL if that is shorter. Zero: register once and
    /// never renew.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Sets how long the registration lasts without renewal; more than the interval. Default three times the interval, so
    /// 90 s, and none if the interval is zero.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the health check, run before the first registration and before each renewal. Default: none, always well.
    pub fn check<F, Fut>(mut self, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Verdict> + Send + 'static,
    {
        self.check = Some(Arc::new(move || check().boxed()));
        self
    }

    /// Sets how long a check may take; one that takes longer has failed. Default 5 s.
    pub fn check_timeout(mut self, limit: Duration) -> Self {
        self.check_timeout = limit;
        self
    }

    /// Whether a failing check deregisters the instance at once (the default), or only stops renewing it, so that it goes
    /// when its TTL lapses.
    pub fn withdraw(mut self, withdraw: bool) -> Self {
        self.withdraw = withdraw;
        self
    }

    /// Sets how long [`start`](Self::start) tries. Default 30 s.
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

    /// Sets how long deregistering may take on shutdown, a renewal in flight included. Default 10 s.
    pub fn shutdown_limit(mut self, limit: Duration) -> Self {
        self.shutdown_limit = limit;
        self
    }

    /// Registers, trying again until it succeeds or the limit has passed, and keeps it up in the background.
    ///
    /// # Errors
    ///
    /// `Invalid` for a TTL that is not longer than the interval. At once what trying again does not mend, such as a refused
    /// token; else the last error when the limit has passed. Nothing goes on in the background then. A failing check is no
    /// error: the instance is withdrawn until it passes.
    pub async fn start(self) -> Result<Running> {
        let limit = self.start_limit;
        let running = self.start_in_background()?;
        match running.started(limit).await {
            Ok(()) => Ok(running),
            Err(error) => {
                let _ = running.shutdown().await;
                Err(error)
            }
        }
    }

    /// Registers and keeps it up in the background, however long the first registration takes.
    ///
    /// # Errors
    ///
    /// `Invalid` for a TTL that is not longer than the interval.
    pub fn start_in_background(self) -> Result<Running> {
        self.validate().map_err(|invalid| Error::invalid("registrar", "start", &invalid))?;
        Ok(Running::start(self))
    }

    pub(crate) fn effective_interval(&self) -> Duration {
        let default = self.ttl.map_or(INTERVAL, |ttl| INTERVAL.min(ttl / TTL_INTERVALS));
        self.interval.unwrap_or(default)
    }

    pub(crate) fn effective_ttl(&self) -> Option<Duration> {
        let interval = self.effective_interval();
        let default = (!interval.is_zero()).then(|| interval.saturating_mul(TTL_INTERVALS));
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

    /// Runs the check; why it failed.
    pub(crate) async fn verdict(&self) -> Result<(), String> {
        let Some(check) = &self.check else { return Ok(()) };
        // The closure itself may panic as well as its future.
        let guarded = AssertUnwindSafe(async { check().await }).catch_unwind();
        match timeout(self.check_timeout, guarded).await {
            Ok(Ok(verdict)) => verdict.map_err(|error| error.to_string()),
            Ok(Err(_)) => Err("the check panicked".into()),
            Err(_) => Err(format!("the check took longer than {:?}", self.check_timeout)),
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
            .field("check", &self.check.is_some())
            .finish_non_exhaustive()
    }
}
