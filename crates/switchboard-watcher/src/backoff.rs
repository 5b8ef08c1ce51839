use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use switchboard_core::time::bounded;

/// How long to wait between tries: exponential, with jitter, without end, and starting over once things go well.
///
/// The n-th wait is drawn at random from the upper half of `initial × factorⁿ`, bounded by `cap`, so that clients
/// that failed together do not come back together. A failure that comes after twice the cap without one counts as
/// the first again. There is no last try.
///
/// The default is 100 ms × 1.6 (gRPC's factor) up to 1 s. The cap is short because a registry's own stream has its
/// own backoff against its server; this one keeps a stream that breaks off from spinning, and bounds how long a
/// recovery goes unnoticed.
#[derive(Clone, Debug, PartialEq)]
pub struct Backoff {
    initial: Duration,
    factor: f32,
    cap: Duration,
    seed: Option<u64>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(100), factor: 1.6, cap: Duration::from_secs(1), seed: None }
    }
}

impl Backoff {
    /// The shortest and the longest wait. `initial` is at least 1 ms, and `cap` at least `initial`: less is raised to
    /// that.
    pub fn new(initial: Duration, cap: Duration) -> Self {
        let initial = initial.max(Duration::from_millis(1));
        Self { initial, cap: cap.max(initial), ..Self::default() }
    }

    /// With this growth from wait to wait. Less than 1, or no number, counts as 1.
    pub fn factor(mut self, factor: f32) -> Self {
        self.factor = factor.max(1.0);
        self
    }

    /// With jitter that is the same each time, for tests.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The longest wait.
    pub fn cap(&self) -> Duration {
        self.cap
    }

    fn waits(&self) -> ExponentialBackoff {
        // The library's jitter adds up to the wait itself, so half of what is wanted goes in.
        let builder = ExponentialBuilder::new()
            .with_min_delay(bounded(self.initial) / 2)
            .with_max_delay(bounded(self.cap) / 2)
            .with_factor(self.factor)
            .without_max_times()
            .with_jitter();
        match self.seed {
            Some(seed) => builder.with_jitter_seed(seed).build(),
            None => builder.build(),
        }
    }
}

/// A [`Backoff`] in use.
#[derive(Debug)]
pub(crate) struct Waits {
    backoff: Backoff,
    running: ExponentialBackoff,
    last_failure: Option<Instant>,
}

impl Waits {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { running: backoff.waits(), backoff, last_failure: None }
    }

    /// How long to wait after a failure at `now`.
    pub(crate) fn next(&mut self, now: Instant) -> Duration {
        let calm = self
            .last_failure
            .is_none_or(|last| now.duration_since(last) > self.backoff.cap.saturating_mul(2));
        if calm {
            self.running = self.backoff.waits();
        }
        self.last_failure = Some(now);
        // The iterator has no end: no largest number of times is set.
        self.running.next().unwrap_or(self.backoff.cap).min(self.backoff.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn grows_to_the_cap_with_jitter_and_starts_over_after_a_calm() {
        let mut waits = Waits::new(Backoff::new(Duration::from_millis(100), Duration::from_secs(10)));
        let (mut ceiling, mut least) = (0.1, 10.0_f64);
        for _ in 0..40 {
            let wait = waits.next(Instant::now()).as_secs_f64();
            assert!(wait >= ceiling / 2.0 - 1e-3 && wait <= ceiling + 1e-3, "{wait} for {ceiling}");
            least = if ceiling < 10.0 { 10.0 } else { least.min(wait) };
            ceiling = (ceiling * 1.6_f64).min(10.0);
        }
        assert!(least < 9.0, "the longest have jitter too: {least}");
        tokio::time::advance(Duration::from_secs(21)).await;
        assert!(waits.next(Instant::now()) <= Duration::from_millis(100));
    }

    #[test]
    fn waits_of_any_length_are_taken() {
        for longest in [Duration::MAX, Duration::from_secs(u64::MAX / 2)] {
            for factor in [1.0, f32::MAX, f32::INFINITY] {
                let mut waits = Waits::new(Backoff::new(longest, longest).factor(factor));
                for _ in 0..10 {
                    let wait = waits.next(Instant::now());
                    assert!(
                        wait > Duration::from_secs(365 * 24 * 3600)
                            && Instant::now().checked_add(wait).is_some()
                    );
                }
            }
        }
    }

    #[test]
    fn two_clients_wait_differently() {
        let first = |_| Waits::new(Backoff::default()).next(Instant::now());
        let mut waits: Vec<_> = (0..50).map(first).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 25, "{waits:?}");
        let seeded = || Waits::new(Backoff::default().seed(7)).next(Instant::now());
        assert_eq!(seeded(), seeded());
    }

    #[test]
    fn odd_settings_are_made_usable() {
        let backoff = Backoff::new(Duration::ZERO, Duration::ZERO).factor(f32::NAN);
        assert_eq!(backoff.cap(), Duration::from_millis(1));
        let mut waits = Waits::new(backoff);
        for _ in 0..100 {
            assert!(waits.next(Instant::now()) <= Duration::from_millis(1));
        }
    }
}
