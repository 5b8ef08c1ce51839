//! How long a call may take, and each attempt at it.
//!
//! An attempt has a limit by default, since one that hangs takes its caller with it. A default must not be wrong for what is
//! slow by nature, so it begins only when the request has been sent.

use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::time::Instant;

use crate::TimedOut;

/// So much earlier another's clock may say that a time is over, and never by more than a tenth of it.
const AHEAD: Duration = Duration::from_millis(10);

/// How long the head of a response may take once the request was sent, unless it is said otherwise: Envoy's default for a
/// route, which begins then, too.
const ANSWER: Duration = Duration::from_secs(15);

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

    /// The limits of an attempt that finds out how an instance is and may be followed by another: that has as much time.
    #[cfg(any(feature = "caller", feature = "reqwest", feature = "tonic", test))]
    pub(crate) fn of_trial(self) -> Self {
        let half = self.left().map(|left| left / 2);
        Self { per_try: self.per_try.into_iter().chain(half).min(), ..self }
    }

    /// When the call must be over.
    #[cfg(feature = "tonic")]
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// What is left for the call.
    #[cfg(any(feature = "caller", feature = "reqwest", feature = "tonic", test))]
    pub(crate) fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Waits for `future` while the call lasts.
    pub(crate) async fn wait<F: Future>(&self, future: F) -> Result<F::Output, TimedOut> {
        bounded(self.until, future).await.ok_or_else(|| self.over())
    }

    /// Waits for an attempt: while the call lasts and `grace` longer, and as long as an attempt may take, by default from when
    /// its request was `sent`.
    pub(crate) async fn attempt<F: Future>(
        &self,
        grace: Duration,
        sent: impl Future<Output = ()>,
        future: F,
    ) -> Result<F::Output, TimedOut> {
        let call = self.until.and_then(|until| until.checked_add(grace));
        let answered = async {
            let Some(limit) = self.per_try else { return answered(sent, future).await };
            bounded(Instant::now().checked_add(limit), future).await.ok_or(TimedOut::Try(limit))
        };
        bounded(call, answered).await.unwrap_or_else(|| Err(self.over()))
    }

    /// Which time of an attempt that began at `began` is over or as good as over, if one is.
    pub(crate) fn spent(&self, began: Instant) -> Option<TimedOut> {
        let call = self.until.zip(self.whole).map(|(until, whole)| (until, whole, TimedOut::Call(whole)));
        let per_try =
            self.per_try.and_then(|limit| Some((began.checked_add(limit)?, limit, TimedOut::Try(limit))));
        let now = Instant::now();
        let is_spent = |(until, limit, _): &(Instant, Duration, TimedOut)| {
            until.saturating_duration_since(now) <= AHEAD.min(*limit / 10)
        };
        let spent = call.into_iter().chain(per_try).filter(is_spent);
        spent.min_by_key(|(until, ..)| *until).map(|(.., over)| over)
    }

    /// Whether a time-out of the attempt that began at `began` says something of its instance: it does not if most of the
    /// call's time had gone before.
    pub(crate) fn blames(&self, began: Instant) -> bool {
        match self.spent(began) {
            Some(TimedOut::Call(whole)) => began.elapsed() >= whole / 2,
            _ => true,
        }
    }

    /// That the call's time is over.
    pub(crate) fn over(&self) -> TimedOut {
        TimedOut::Call(self.whole.unwrap_or(Duration::MAX))
    }
}

/// Waits for `future`, so long from when its request was `sent`.
async fn answered<F: Future>(sent: impl Future<Output = ()>, future: F) -> Result<F::Output, TimedOut> {
    let late = async {
        sent.await;
        tokio::time::sleep(ANSWER).await;
    };
    match select(pin!(future), pin!(late)).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(_) => Err(TimedOut::Try(ANSWER)),
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
        let attempt = async || limits.attempt(Duration::ZERO, pending(), pending::<()>()).await.unwrap_err();
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
    async fn a_time_is_as_good_as_over_just_before_its_end() {
        let long = Limits::new(Some(SECOND), None);
        let short = Limits::new(Some(SECOND / 20), Some(SECOND / 100));
        let began = Instant::now();
        let after = async |millis| {
            tokio::time::sleep_until(began + Duration::from_millis(millis)).await;
            (short.spent(began), long.spent(began))
        };
        let (call, attempt) = (TimedOut::Call(SECOND / 20), TimedOut::Try(SECOND / 100));
        assert_eq!(after(8).await, (None, None));
        assert_eq!(after(9).await, (Some(attempt), None));
        assert_eq!(short.spent(began + SECOND / 100), None, "the next attempt");
        assert_eq!(after(45).await, (Some(attempt), None), "it was over first");
        assert_eq!(short.spent(Instant::now()), Some(call));
        assert!(!short.blames(Instant::now()), "it had nothing of it");
        assert_eq!(after(989).await.1, None);
        assert_eq!(after(990).await.1, Some(TimedOut::Call(SECOND)));
        assert_eq!(after(2000).await.1, Some(TimedOut::Call(SECOND)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_out_leaves_as_much_time_to_another() {
        let limits = Limits::new(Some(SECOND * 4), None).of_trial();
        let began = Instant::now();
        let attempt = async || limits.attempt(Duration::ZERO, async {}, pending::<()>()).await.unwrap_err();
        assert_eq!((attempt().await, began.elapsed()), (TimedOut::Try(SECOND * 2), SECOND * 2));
        assert!(limits.blames(began), "it had its time");
        let short = Limits::new(Some(SECOND * 4), Some(SECOND)).of_trial();
        assert_eq!(
            short.attempt(Duration::ZERO, async {}, pending::<()>()).await,
            Err(TimedOut::Try(SECOND))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_time_is_none() {
        let limits = Limits::new(Some(Duration::MAX), Some(Duration::MAX));
        assert_eq!(limits.left(), None);
        let long = tokio::time::sleep(SECOND * 100_000);
        assert_eq!(limits.attempt(Duration::MAX, async {}, long).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_a_limit_by_default_from_when_the_request_was_sent() {
        let limits = Limits::new(None, None);
        let began = Instant::now();
        let sent = tokio::time::sleep(SECOND * 100);
        let late = limits.attempt(Duration::ZERO, sent, pending::<()>()).await;
        assert_eq!((late, began.elapsed()), (Err(TimedOut::Try(ANSWER)), SECOND * 100 + ANSWER));
        let long = tokio::time::sleep(SECOND * 100_000);
        assert_eq!(limits.attempt(Duration::ZERO, pending(), long).await, Ok(()), "it is still being sent");
        let soon = Limits::new(Some(SECOND), None).attempt(Duration::ZERO, async {}, pending::<()>()).await;
        assert_eq!(soon, Err(TimedOut::Call(SECOND)));
    }
}
