use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use switchboard_core::{InstanceId, ServiceName};

use crate::Options;
use crate::budget::{Budget, Budgets, Rate};
use crate::failures::Failures;
use crate::limits::Limits;

/// How often failed calls are tried again, on another instance.
///
/// The first retry follows at once, since it goes to another instance; each further one waits, from 25 ms up to 1 s, with
/// jitter. A pause that would outlast the call's deadline is not made: the call fails at once, with what there is.
///
/// Each service has a budget of its own: when many of its calls fail, retries would only add to the trouble. All clones
/// share these budgets, also those given to several clients.
///
/// An attempt for which no connection came about goes on at once to an instance that was not tried, if there is one, up to 10
/// times. That is no retry: it counts for none and costs no budget, since no instance has worked on it (gRPC's A6 calls it
/// transparent). So a call is answered as long as one of a dozen listed instances lives. With [`never`](Self::never) not even
/// that is done.
///
/// Defaults: 2 retries for a call; a budget of 20 % of the calls of the last 10 s and another 10 for each second, which are
/// Finagle's.
#[derive(Clone, Debug)]
pub struct Retry {
    most: u32,
    budgets: Arc<Budgets>,
}

impl Retry {
    /// The defaults.
    pub fn new() -> Self {
        Self { most: 2, budgets: Arc::new(Budgets::new(Rate { fraction: 0.2, per_second: 10 })) }
    }

    /// No call is tried again, not even one that no instance has seen.
    pub fn never() -> Self {
        Self { most: 0, ..Self::new() }
    }

    /// At most this many retries for one call; 0 is [`never`](Self::never).
    pub fn most(mut self, retries: u32) -> Self {
        self.most = retries;
        self
    }

    /// Retries may be this fraction of the calls to a service (0 to 1, brought into this range), and another `per_second`.
    /// Begins new budgets.
    pub fn budget(mut self, fraction: f64, per_second: u32) -> Self {
        let fraction = if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) };
        self.budgets = Arc::new(Budgets::new(Rate { fraction, per_second }));
        self
    }

    /// Begins a call to `service`.
    pub(crate) fn begin(&self, service: &ServiceName, options: &Options) -> Attempts {
        let budget = self.budgets.of(service);
        budget.deposit();
        let (most, failures) = (options.retries_or(self.most), Failures::new(service));
        Attempts { most, retries: 0, moves: 0, budget, tried: Vec::new(), failures, pauses: None }
    }
}

/// So often a call goes on to another instance after it has reached nobody.
const MOVES: u32 = 10;

/// The attempts at one call.
pub(crate) struct Attempts {
    most: u32,
    retries: u32,
    /// How often it went on after it had reached nobody.
    moves: u32,
    budget: Arc<Budget>,
    tried: Vec<InstanceId>,
    /// Why attempts failed.
    pub(crate) failures: Failures,
    pauses: Option<ExponentialBackoff>,
}

impl Attempts {
    /// The instances already tried.
    pub(crate) fn tried(&self) -> &[InstanceId] {
        &self.tried
    }

    /// Whether another attempt could be allowed, budget and time aside.
    pub(crate) fn has_more(&self) -> bool {
        self.retries < self.most || self.most > 0 && self.moves < MOVES
    }

    /// After a failure on `id`, which may have been `reached`: waits and returns true if the call may be tried again. `has_other`
    /// says whether there is an instance that was not tried.
    pub(crate) async fn again(
        &mut self,
        id: &InstanceId,
        limits: &Limits,
        reached: bool,
        has_other: impl FnOnce(&[InstanceId]) -> bool,
    ) -> bool {
        self.tried.push(id.clone());
        if !reached && self.most > 0 && self.moves < MOVES && has_other(&self.tried) {
            self.moves += 1;
            return limits.left() != Some(Duration::ZERO);
        }
        if self.retries >= self.most {
            return false;
        }
        let pause = self.pause();
        let in_time = limits.left().is_none_or(|left| pause < left);
        if !in_time {
            return false;
        }
        if reached && !self.budget.withdraw() {
            self.budget.metrics.refused.count();
            return false;
        }
        self.retries += 1;
        self.budget.metrics.retries.count();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        true
    }

    /// How long to wait now.
    fn pause(&mut self) -> Duration {
        if let Some(pauses) = &mut self.pauses {
            return pauses.next().unwrap_or_default();
        }
        let pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(25))
            .with_max_delay(Duration::from_secs(1))
            .with_jitter()
            .without_max_times();
        self.pauses = Some(pauses.build());
        Duration::ZERO
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> InstanceId {
        InstanceId::new("a").unwrap()
    }

    fn begin(retry: &Retry, service: &str) -> Attempts {
        retry.begin(&ServiceName::new(service).unwrap(), &Options::new())
    }

    fn nobody(_: &[InstanceId]) -> bool {
        false
    }

    fn no_limits() -> Limits {
        Limits::new(None, None)
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_limited_for_a_call_and_by_the_budget() {
        let retry = Retry::new();
        let mut attempts = begin(&retry, "hello");
        assert!(
            attempts.again(&id(), &no_limits(), true, nobody).await
                && attempts.again(&id(), &no_limits(), true, nobody).await
        );
        assert!(!attempts.again(&id(), &no_limits(), true, nobody).await);
        assert_eq!(attempts.tried().len(), 3, "the last too");

        // 10 a second over 10 s, and a fifth of the calls.
        let retry = Retry::new();
        let mut granted = 0;
        for _ in 0..1000 {
            granted += u32::from(begin(&retry, "hello").again(&id(), &no_limits(), true, nobody).await);
        }
        assert_eq!(granted, 300);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_does_not_live_off_the_calls_to_others() {
        let retry = Retry::new().budget(0.2, 0);
        for _ in 0..990 {
            begin(&retry, "well");
        }
        let mut granted = 0;
        for _ in 0..10 {
            granted +=
                u32::from(begin(&retry.clone(), "failing").again(&id(), &no_limits(), true, nobody).await);
        }
        assert_eq!(granted, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_retry_is_at_once_and_later_ones_wait() {
        let retry = Retry::new().most(3);
        let mut attempts = begin(&retry, "hello");
        let started = tokio::time::Instant::now();
        attempts.again(&id(), &no_limits(), true, nobody).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        attempts.again(&id(), &no_limits(), true, nobody).await;
        assert!(started.elapsed() >= Duration::from_millis(25));
        assert!(!begin(&Retry::never(), "hello").again(&id(), &no_limits(), true, nobody).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_would_outlast_the_call_is_neither_made_nor_paid_for() {
        let retry = Retry::new().budget(1.0, 0);
        let limits = Limits::new(Some(Duration::from_millis(20)), None);
        begin(&retry, "hello");
        let mut attempts = begin(&retry, "hello");
        assert!(attempts.again(&id(), &limits, true, nobody).await);
        let started = tokio::time::Instant::now();
        assert!(!attempts.again(&id(), &limits, true, nobody).await);
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(retry.budgets.of(&ServiceName::new("hello").unwrap()).withdraw());
    }

    #[tokio::test(start_paused = true)]
    async fn what_reached_nobody_goes_on_at_once_to_others_and_is_limited_all_the_same() {
        let retry = Retry::new().budget(0.0, 0);
        let mut attempts = begin(&retry, "hello");
        let others = |tried: &[InstanceId]| !tried.is_empty();
        let started = tokio::time::Instant::now();
        assert!(!attempts.again(&id(), &no_limits(), true, others).await, "no budget");
        for _ in 0..10 {
            assert!(attempts.has_more() && attempts.again(&id(), &no_limits(), false, others).await);
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        // From now on they count, and take their time.
        assert!(attempts.again(&id(), &no_limits(), false, others).await);
        assert!(attempts.again(&id(), &no_limits(), false, others).await);
        assert!(!attempts.again(&id(), &no_limits(), false, others).await && !attempts.has_more());
        assert!(started.elapsed() >= Duration::from_millis(25));
        assert!(!begin(&Retry::never(), "hello").again(&id(), &no_limits(), false, others).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_reached_nobody_costs_no_budget_where_there_are_no_others_either() {
        let mut attempts = begin(&Retry::new().budget(0.0, 0), "hello");
        assert!(attempts.again(&id(), &no_limits(), false, nobody).await);
        assert!(attempts.again(&id(), &no_limits(), false, nobody).await);
        assert!(!attempts.again(&id(), &no_limits(), false, nobody).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_time_is_over_goes_on_to_nobody() {
        let limits = Limits::new(Some(Duration::from_millis(20)), None);
        let mut attempts = begin(&Retry::new(), "hello");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!attempts.again(&id(), &limits, false, |_: &[InstanceId]| true).await);
    }

    #[test]
    fn no_budget_is_refused() {
        for fraction in [f64::NAN, 7.0, -1.0, f64::INFINITY] {
            begin(&Retry::new().budget(fraction, u32::MAX), "hello");
        }
    }
}
