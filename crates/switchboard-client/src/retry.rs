use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use switchboard_core::InstanceId;
use tower::retry::budget::{Budget, TpsBudget};

/// How often failed calls are tried again, on another instance.
///
/// The first retry follows at once, since it goes to another instance; each further one waits, from 25 ms up to 1 s, with
/// jitter. The budget is shared by all clones: when many calls fail, retries would only add to the trouble.
///
/// Defaults: 2 retries for a call; a budget of 20 % of the calls of the last 10 s and another 10 for each second, which are
/// Finagle's.
#[derive(Clone)]
pub struct Retry {
    most: u32,
    budget: Arc<TpsBudget>,
}

/// How long the calls count that earn retries.
const WINDOW: Duration = Duration::from_secs(10);

impl Retry {
    /// The defaults.
    pub fn new() -> Self {
        Self { most: 2, budget: Arc::new(TpsBudget::new(WINDOW, 10, 0.2)) }
    }

    /// No call is tried again.
    pub fn never() -> Self {
        Self { most: 0, ..Self::new() }
    }

    /// At most this many retries for one call.
    pub fn most(mut self, retries: u32) -> Self {
        self.most = retries;
        self
    }

    /// Retries may be this fraction of calls (0 to 1, brought into this range), and another `per_second`.
    pub fn budget(mut self, fraction: f32, per_second: u32) -> Self {
        // The budget refuses more, with a panic.
        let fraction = if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) };
        self.budget = Arc::new(TpsBudget::new(WINDOW, per_second.min(1_000_000), fraction));
        self
    }

    /// Begins a call.
    pub(crate) fn begin(&self) -> Attempts<'_> {
        self.budget.deposit();
        Attempts { retry: self, tried: Vec::new(), pauses: None }
    }
}

/// The attempts at one call.
pub(crate) struct Attempts<'a> {
    retry: &'a Retry,
    tried: Vec<InstanceId>,
    pauses: Option<ExponentialBackoff>,
}

impl Attempts<'_> {
    /// The instances already tried.
    pub(crate) fn tried(&self) -> &[InstanceId] {
        &self.tried
    }

    /// Whether another attempt would be allowed, the budget aside.
    pub(crate) fn has_more(&self) -> bool {
        self.tried.len() < self.retry.most as usize
    }

    /// After a failure on `id`: waits and returns true if the call may be tried again.
    pub(crate) async fn again(&mut self, id: &InstanceId) -> bool {
        if !self.has_more() || !self.retry.budget.withdraw() {
            return false;
        }
        self.tried.push(id.clone());
        match &mut self.pauses {
            None => {
                let pauses = ExponentialBuilder::new()
                    .with_min_delay(Duration::from_millis(25))
                    .with_max_delay(Duration::from_secs(1))
                    .with_jitter()
                    .without_max_times();
                self.pauses = Some(pauses.build());
            }
            Some(pauses) => tokio::time::sleep(pauses.next().unwrap_or_default()).await,
        }
        true
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("most", &self.most).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_are_limited_for_a_call_and_by_the_budget() {
        let id = InstanceId::new("a").unwrap();
        let retry = Retry::new();
        let mut attempts = retry.begin();
        assert!(attempts.again(&id).await && attempts.again(&id).await);
        assert!(!attempts.again(&id).await);
        assert_eq!(attempts.tried().len(), 2);

        // 10 a second over 10 s, and a fifth of the calls.
        let retry = Retry::new();
        let mut granted = 0;
        for _ in 0..1000 {
            if retry.begin().again(&id).await {
                granted += 1;
            }
        }
        assert!((290..=310).contains(&granted), "{granted}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_retry_is_at_once_and_later_ones_wait() {
        let id = InstanceId::new("a").unwrap();
        let retry = Retry::new().most(3);
        let mut attempts = retry.begin();
        let started = tokio::time::Instant::now();
        attempts.again(&id).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        attempts.again(&id).await;
        assert!(started.elapsed() >= Duration::from_millis(25));
        assert!(!Retry::never().begin().again(&id).await);
    }

    #[test]
    fn no_budget_is_refused() {
        let _ = Retry::new().budget(f32::NAN, u32::MAX).budget(7.0, 0).budget(-1.0, 0);
    }
}
