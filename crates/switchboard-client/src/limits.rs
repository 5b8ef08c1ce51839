//! How long a call may take, and each attempt at it.

use std::time::Duration;

use tokio::time::Instant;

/// A call was given up because its time was over.
///
/// The status of the gRPC adapter has it as its source, an error of the HTTP one can be downcast to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimedOut {
    /// The time for the whole call.
    #[error("the call is not over after {0:?}")]
    Call(Duration),
    /// The time for one attempt, and no other was allowed.
    #[error("the attempt is not over after {0:?}")]
    Try(Duration),
}

/// The limits of one call, which began when this was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    whole: Option<Duration>,
    until: Option<Instant>,
    per_try: Option<Duration>,
}

impl Limits {
    /// A time longer than the clock can say is none.
    pub(crate) fn new(whole: Option<Duration>, per_try: Option<Duration>) -> Self {
        Self { whole, until: whole.and_then(|whole| Instant::now().checked_add(whole)), per_try }
    }

    /// When the call must be over.
    #[cfg(feature = "tonic")]
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// What is left for the call.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Waits for `future` while the call lasts.
    pub(crate) async fn wait<F: Future>(&self, future: F) -> Result<F::Output, TimedOut> {
        bounded(self.until, future).await.ok_or_else(|| self.over())
    }

    /// Waits for an attempt: while the call lasts and `grace` longer, and as long as an attempt may take.
    pub(crate) async fn attempt<F: Future>(&self, grace: Duration, future: F) -> Result<F::Output, TimedOut> {
        let call = self.until.and_then(|until| until.checked_add(grace));
        let per_try = self.per_try.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
        match per_try.filter(|(until, _)| call.is_none_or(|call| *until < call)) {
            Some((until, limit)) => bounded(Some(until), future).await.ok_or(TimedOut::Try(limit)),
            None => bounded(call, future).await.ok_or_else(|| self.over()),
        }
    }

    /// Whether a time-out of the attempt that began at `began` says something of its instance: it does not if most of the
    /// call's time had gone before.
    pub(crate) fn blames(&self, began: Instant) -> bool {
        match (self.left(), self.whole) {
            (Some(Duration::ZERO), Some(whole)) => began.elapsed() >= whole / 2,
            _ => true,
        }
    }

    /// That the call's time is over.
    pub(crate) fn over(&self) -> TimedOut {
        TimedOut::Call(self.whole.unwrap_or(Duration::MAX))
    }
}

async fn bounded<F: Future>(until: Option<Instant>, future: F) -> Option<F::Output> {
    match until {
        Some(until) => tokio::time::timeout_at(until, future).await.ok(),
        None => Some(future.await),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_attempt_ends_with_its_own_limit_or_with_the_call() {
        let limits = Limits::new(Some(SECOND * 5), Some(SECOND * 2));
        let began = Instant::now();
        let attempt = async || limits.attempt(Duration::ZERO, pending::<()>()).await.unwrap_err();
        assert_eq!(attempt().await, TimedOut::Try(SECOND * 2));
        assert!(limits.blames(began), "it had its time");
        assert_eq!(attempt().await, TimedOut::Try(SECOND * 2));
        let last = Instant::now();
        assert_eq!(attempt().await, TimedOut::Call(SECOND * 5));
        assert_eq!(began.elapsed(), SECOND * 5);
        assert!(!limits.blames(last), "it had a second of five");
        assert!(limits.blames(began));
        let waited = tokio::time::timeout(SECOND, limits.wait(pending::<()>())).await;
        assert_eq!(waited, Ok(Err(TimedOut::Call(SECOND * 5))));
        assert_eq!(limits.wait(async { 7 }).await, Ok(7), "what is there is taken");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_time_is_none() {
        let limits = Limits::new(Some(Duration::MAX), Some(Duration::MAX));
        assert_eq!(limits.left(), None);
        let long = tokio::time::sleep(SECOND * 100_000);
        assert_eq!(limits.attempt(Duration::MAX, long).await, Ok(()));
    }
}
