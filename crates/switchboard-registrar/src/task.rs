//! The loop that keeps one instance registered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use switchboard_core::{Error, ErrorKind, RegisterOptions, Result};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::{Registrar, Status};

/// The first pause after a failure.
const RETRY_FROM: Duration = Duration::from_millis(100);

/// A call to the registry may take at least so long, however short the TTL.
const SHORTEST_CALL: Duration = Duration::from_secs(1);

/// The pause between checks, and the longest between retries, when there is no interval.
const WITHOUT_INTERVAL: Duration = Duration::from_secs(30);

/// A call may take so long when there is no TTL to keep.
const CALL_WITHOUT_TTL: Duration = Duration::from_secs(30);

/// Keeps the instance registered until `stop`, then deregisters it; what came of that.
pub(crate) async fn run(
    registrar: &Registrar,
    status: &watch::Sender<Status>,
    mut stop: oneshot::Receiver<()>,
) -> Result<()> {
    let stopping = AtomicBool::new(false);
    let mut keeper = Keeper { registrar, status, stopping: &stopping, retries: None };
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => break,
            () = sleep(wait) => {}
        }
        // A renewal is not dropped on stop: it might arrive at the registry after the deregistration.
        let mut renewal = std::pin::pin!(keeper.renew());
        tokio::select! {
            biased;
            next = &mut renewal => wait = next,
            _ = &mut stop => {
                stopping.store(true, Ordering::Relaxed);
                let patience = Instant::now() + registrar.shutdown_limit / 2;
                let _ = timeout_at(patience, renewal).await;
                break;
            }
        }
    }
    deregister(registrar).await
}

struct Keeper<'a> {
    registrar: &'a Registrar,
    status: &'a watch::Sender<Status>,
    stopping: &'a AtomicBool,
    retries: Option<ExponentialBackoff>,
}

impl Keeper<'_> {
    /// Checks and registers; how long to wait until the next time.
    async fn renew(&mut self) -> Duration {
        let interval = self.registrar.effective_interval();
        if let Err(why) = self.registrar.verdict().await {
            self.withdraw(&why).await;
            // Even what is registered only once comes back when its check passes.
            return if interval.is_zero() { WITHOUT_INTERVAL } else { interval };
        }
        if self.stopping.load(Ordering::Relaxed) {
            return Duration::MAX;
        }
        match self.register().await {
            Ok(()) => {
                self.retries = None;
                self.note(None);
                if interval.is_zero() { Duration::MAX } else { early(interval) }
            }
            Err(error) => {
                tracing::warn!(instance = %self.registrar.instance.key(), %error, "not registered; will try again");
                self.note(Some(error));
                self.next_retry()
            }
        }
    }

    async fn register(&self) -> Result<()> {
        let Registrar { registry, instance, .. } = self.registrar;
        let interval = self.registrar.effective_interval();
        let ttl = self.registrar.effective_ttl();
        let mut options = RegisterOptions::new();
        options.ttl = ttl;
        // What is left of the TTL when a renewal is due is how long the renewal may take.
        let limit = ttl.map_or(CALL_WITHOUT_TTL, |ttl| ttl.saturating_sub(interval)).max(SHORTEST_CALL);
        match tokio::time::timeout(limit, registry.register(instance, &options)).await {
            Ok(done) => done,
            Err(_) => Err(late("register", limit)),
        }
    }

    async fn withdraw(&mut self, why: &str) {
        let key = self.registrar.instance.key();
        let since = match &*self.status.borrow() {
            Status::Withdrawn { since, .. } => Some(*since),
            _ => None,
        };
        if since.is_none() {
            tracing::warn!(instance = %key, why, "the check fails; withdrawing");
        }
        if self.registrar.withdraw {
            // Also when it was withdrawn before: that may have failed, and it costs nothing.
            if let Err(error) = deregister(self.registrar).await {
                tracing::warn!(instance = %key, %error, "not withdrawn; will try again");
            }
        }
        let since = since.unwrap_or_else(Instant::now);
        self.status.send_replace(Status::Withdrawn { since, why: why.into() });
    }

    /// Tells how the last registration went.
    fn note(&self, failed: Option<Error>) {
        self.status.send_if_modified(|status| {
            let next = match (&*status, failed) {
                (Status::Registered { .. }, None) => return false,
                (_, None) => Status::Registered { since: Instant::now() },
                (Status::Registered { .. }, Some(error)) => Status::Failing { since: Instant::now(), error },
                (Status::Failing { since, .. }, Some(error)) => Status::Failing { since: *since, error },
                (_, Some(error)) => Status::Registering { error: Some(error) },
            };
            *status = next;
            true
        });
    }

    fn next_retry(&mut self) -> Duration {
        let interval = self.registrar.effective_interval();
        let longest = if interval.is_zero() { WITHOUT_INTERVAL } else { interval };
        let backoff = ExponentialBuilder::new()
            .with_min_delay(RETRY_FROM.min(longest))
            .with_max_delay(longest)
            .with_jitter()
            .without_max_times();
        let retries = self.retries.get_or_insert_with(|| backoff.build());
        retries.next().unwrap_or(longest).min(longest)
    }
}

/// A moment in the last half of the interval, so that renewals of many registrations spread; never after it.
fn early(interval: Duration) -> Duration {
    interval.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
}

/// Deregisters, with retries, within the shutdown limit.
async fn deregister(registrar: &Registrar) -> Result<()> {
    let limit = registrar.shutdown_limit;
    let deadline = Instant::now() + limit;
    let key = registrar.instance.key();
    let retries = ExponentialBuilder::new().with_min_delay(RETRY_FROM).with_jitter().without_max_times();
    for pause in retries.build() {
        match timeout_at(deadline, registrar.registry.deregister(&key)).await {
            Ok(Ok(())) => return Ok(()),
            // The registry deregistered everything when it was closed.
            Ok(Err(error)) if error.kind() == ErrorKind::Closed => return Ok(()),
            Ok(Err(error)) if !error.is_transient() || Instant::now() + pause >= deadline => {
                return Err(error);
            }
            Ok(Err(_)) => sleep_until(Instant::now() + pause).await,
            Err(_) => break,
        }
    }
    Err(late("deregister", limit))
}

fn late(operation: &'static str, limit: Duration) -> Error {
    let message = format!("the registry did not answer within {limit:?}");
    Error::new(ErrorKind::Unavailable, "registrar", operation, message)
}
