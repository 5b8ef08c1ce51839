//! How long to wait: always a little at random, so that many waiting at once do not come back at once.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The first pause after a failure.
const RETRY_FROM: Duration = Duration::from_millis(100);

/// The longest pause between tries that fail, unless the interval is shorter: who comes back is to be found again soon.
pub(crate) const LONGEST_RETRY: Duration = Duration::from_secs(3);

/// The same after what trying again does not mend.
pub(crate) const AT_LEISURE: Duration = Duration::from_secs(30);

/// A random moment in the last `1 / part` of the interval; never after it.
pub(crate) fn early(interval: Duration, part: u32) -> Duration {
    interval.saturating_sub((interval / part).mul_f64(fastrand::f64()))
}

/// Pauses between tries that fail, without end: twice as long each time, from 100 ms up to `longest`.
pub(crate) fn retries(longest: Duration) -> ExponentialBackoff {
    // The jitter comes on top of a pause and doubles it at most.
    let longest = longest / 2;
    ExponentialBuilder::new()
        .with_min_delay(RETRY_FROM.min(longest))
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_is_within_the_last_part_whatever_the_interval() {
        for interval in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(30), Duration::MAX] {
            for part in [1, 2, 5] {
                for _ in 0..1000 {
                    let pause = early(interval, part);
                    assert!(
                        pause <= interval && pause >= interval.saturating_sub(interval / part),
                        "{interval:?} {pause:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn retries_grow_to_the_longest_and_stay_spread() {
        for longest in [Duration::ZERO, Duration::from_millis(150), Duration::from_secs(30), Duration::MAX] {
            let pauses: Vec<Duration> = retries(longest).take(100).collect();
            assert_eq!(pauses.len(), 100);
            assert!(pauses[0] <= 2 * RETRY_FROM);
            assert!(pauses.iter().all(|pause| *pause <= longest), "{pauses:?}");
            assert!(pauses[90..].iter().all(|pause| *pause >= longest / 2), "{pauses:?}");
            assert!(longest.is_zero() || pauses[98] != pauses[99]);
        }
    }
}
