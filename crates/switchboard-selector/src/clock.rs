//! The time of a pick, which is not always worth reading.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::hub::{Hub, millis};
use crate::pick::Start;
use crate::stats::Millis;

/// While the clock is read on a lane at shorter intervals than this, in nanoseconds, it is not read for each pick: that would
/// cost as much as the rest of the pick.
const DENSE: u64 = 25_000;

/// Of picks that come so densely, up to this many do without the clock after each that reads it.
const SKIP: u32 = 15;

/// The clock of one lane.
pub(crate) struct Clock {
    /// How many picks are still to go untimed.
    skip: AtomicU32,
    /// How many did after the last that read the clock.
    stride: AtomicU32,
    /// When the clock was last read, in the hub's nanoseconds.
    nanos: AtomicU64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            skip: AtomicU32::new(0),
            stride: AtomicU32::new(0),
            // Far from any moment that will be: the first pick is not dense.
            nanos: AtomicU64::new(u64::MAX / 2),
        }
    }

    /// The time for a pick. Two threads of one lane may skip one too many or too few.
    #[inline]
    pub(crate) fn read(&self, hub: &Hub) -> (Start, Millis) {
        let skip = self.skip.load(Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Relaxed);
            return (Start::Skipped, millis(self.nanos.load(Relaxed)));
        }
        let nanos = hub.nanos();
        // Step by step: two quick picks do not say that a third will come soon.
        let dense = nanos.wrapping_sub(self.nanos.load(Relaxed)) < DENSE;
        let stride = if dense { (2 * self.stride.load(Relaxed) + 1).min(SKIP) } else { 0 };
        self.nanos.store(nanos, Relaxed);
        self.stride.store(stride, Relaxed);
        self.skip.store(stride, Relaxed);
        (Start::At(nanos), millis(nanos))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::candidate::tests::hub;

    /// How many picks, each this long after the last, do without the clock until one reads it.
    async fn skipped((clock, hub): (&Clock, &Hub), apart: Duration) -> u32 {
        let mut skipped = 0;
        loop {
            advance(apart).await;
            match clock.read(hub) {
                (Start::Skipped, _) => skipped += 1,
                (_, now) => {
                    assert_eq!(now, hub.millis());
                    return skipped;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_dense_picks_do_without_the_clock() {
        let (clock, hub) = (Clock::new(), hub());
        let clock = (&clock, &*hub);
        let dense = Duration::from_micros(1);
        for expected in [0, 0, 1, 3, 7, 15, 15] {
            assert_eq!(skipped(clock, dense).await, expected);
        }
        // What is left of a quick succession is used up, then each reads the clock.
        for expected in [15, 0, 0] {
            assert_eq!(skipped(clock, Duration::from_secs(1)).await, expected);
        }
        // A pair costs one.
        assert_eq!(skipped(clock, dense).await, 0);
        assert_eq!(skipped(clock, Duration::from_secs(1)).await, 1);
        assert_eq!(skipped(clock, Duration::from_secs(1)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pick_without_the_clock_has_the_last_time_it_was_read() {
        let (clock, hub) = (Clock::new(), hub());
        advance(Duration::from_secs(5)).await;
        for _ in 0..100 {
            let (_, now) = clock.read(&hub);
            assert_eq!(now, hub.millis());
        }
    }
}
