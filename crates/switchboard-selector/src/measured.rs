use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A moment or a time, in nanoseconds; 584 years of them.
pub(crate) type Nanos = u64;

/// A time in nanoseconds, and the millisecond it was last set in: one word, so that both are read and written whole without
/// a lock. Zero: nothing measured.
#[derive(Default)]
pub(crate) struct Measured(AtomicU64);

impl Measured {
    /// `None` before the first.
    #[inline]
    pub(crate) fn get(&self) -> Option<f32> {
        let word = self.0.load(Relaxed);
        (word != 0).then(|| unpack(word).0)
    }

    /// Sets what `next` makes of the time, or of zero before the first, and of how long ago that was set, in nanoseconds.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // milliseconds wrap; 24 bits are enough
    pub(crate) fn update(&self, now: Nanos, next: impl Fn(f32, f32) -> Option<f32>) {
        let now = (now / 1_000_000) as u32;
        // Fails where there is nothing to write.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let (time, at) = unpack(word);
            // Wraps after 49 days. Another thread may have set it a moment from now: the last minute of them is none.
            let passed = now.wrapping_sub(at);
            let passed = if passed > u32::MAX - 60_000 { 0 } else { passed };
            // At least 1 ns, so that nothing measured reads as none.
            let word = |time: f32| u64::from(time.max(1.0).to_bits()) << 32 | u64::from(now);
            next(time, passed as f32 * 1e6).map(word)
        });
    }

    pub(crate) fn clear(&self) {
        self.0.store(0, Relaxed);
    }
}

#[allow(clippy::cast_possible_truncation)] // the two halves of the word
fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

/// An average, if there is one yet, and what comes so long after it, by which the older is forgotten: to 1/e over the decay.
#[allow(clippy::cast_precision_loss)] // 24 bits are enough for an average
pub(crate) fn mixed(average: f32, new: f32, passed: f32, decay: Nanos) -> f32 {
    let kept = if average > 0.0 { (-passed / decay as f32).exp() } else { 0.0 };
    average * kept + new * (1.0 - kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_kept_with_the_millisecond_it_was_set_in() {
        let measured = Measured::default();
        assert_eq!(measured.get(), None);
        let set = |at: Nanos, time: f32| {
            let passed = std::cell::Cell::new(f32::NAN);
            measured.update(at * 1_000_000, |_, since| {
                passed.set(since / 1e6);
                Some(time)
            });
            (passed.get(), measured.get())
        };
        assert_eq!(set(5, 0.0), (5.0, Some(1.0)), "no measurement reads as none");
        assert_eq!(set(15, 7.0), (10.0, Some(7.0)));
        assert_eq!(set(5, 7.0), (0.0, Some(7.0)), "the clock of another thread");
        assert!(set(4_000_000_000, 7.0).0 > 3.9e9, "however long ago");
        measured.clear();
        assert_eq!(measured.get(), None);
    }
}
