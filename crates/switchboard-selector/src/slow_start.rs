use std::time::Duration;

use crate::outlier::at_most_1;

/// The share of an instance that gets all that is its due.
pub(crate) const FULL: u32 = 1 << 16;

/// How a new or returning instance gets up to its full share.
///
/// Its share grows evenly from the least to the full one over the window. It applies to instances that come after the
/// first snapshot, become healthy again, or return from ejection, as long as there are others with a full share to take
/// the rest. Default: 30 s from 10 % (Envoy's least; Envoy has no default window).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    window: Duration,
    least: f64,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), least: 0.10 }
    }
}

impl SlowStart {
    /// Over `window`, from 10 %.
    pub fn over(window: Duration) -> Self {
        Self { window, ..Self::default() }
    }

    /// From this fraction, at least 1 %.
    pub fn from_share(mut self, least: f64) -> Self {
        self.least = at_most_1(least, 0.01);
        self
    }

    /// How often the shares of those that are starting are brought up to date.
    pub(crate) fn step(self) -> Duration {
        (self.window / 50).max(Duration::from_millis(20))
    }

    /// The share after this time, of [`FULL`].
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to FULL
    pub(crate) fn share(self, passed: Duration) -> u32 {
        if passed >= self.window {
            return FULL;
        }
        let part = passed.as_secs_f64() / self.window.as_secs_f64();
        ((self.least + (1.0 - self.least) * part) * f64::from(FULL)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_evenly_from_the_least() {
        let seconds = Duration::from_secs;
        let slow = SlowStart::over(seconds(10));
        assert_eq!([0, 10, 11].map(|passed| slow.share(seconds(passed))), [FULL / 10, FULL, FULL]);
        let slow = slow.from_share(0.5);
        assert_eq!(
            [0, 5, 9].map(|passed| slow.share(seconds(passed))),
            [FULL / 2, FULL * 3 / 4, FULL * 19 / 20]
        );
        assert_eq!(slow.step(), Duration::from_millis(200));
        assert_eq!(SlowStart::over(Duration::ZERO).step(), Duration::from_millis(20));
    }
}
