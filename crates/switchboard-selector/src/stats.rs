use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::hub::Hub;

/// A moment in milliseconds since its group began; wraps after 49 days, so only differences mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Millis(pub(crate) u32);

impl Millis {
    /// Since `earlier`; zero if that is later, as it may be by a hair when another thread wrote it.
    #[inline]
    pub(crate) fn since(self, earlier: Millis) -> u32 {
        self.after(earlier).max(0).unsigned_abs()
    }

    /// Milliseconds from `other` to this; less than zero if this is the earlier.
    #[inline]
    #[allow(clippy::cast_possible_wrap)] // half of all differences are of the past
    pub(crate) fn after(self, other: Millis) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }
}

/// The ramp of an instance that gets its full share.
pub(crate) const FULL: u32 = 1 << 16;

/// What is learned about one instance. It outlives snapshots, and is shared by all lanes and variants.
#[derive(Debug)]
pub(crate) struct Stats {
    /// Calls in flight, as far as the lanes have told; see [`Candidate`](crate::Candidate).
    pub(crate) in_flight: AtomicI32,
    /// Failures since the last success.
    pub(crate) consecutive: AtomicU32,
    /// The share of its traffic a slow-starting instance gets, of [`FULL`].
    pub(crate) ramp: AtomicU32,
    /// When the registry was last told of a connection failure.
    pub(crate) hinted: AtomicU32,
    latency: Latency,
    hub: Arc<Hub>,
}

impl Stats {
    pub(crate) fn new(hub: &Arc<Hub>) -> Self {
        Self {
            in_flight: AtomicI32::new(0),
            consecutive: AtomicU32::new(0),
            ramp: AtomicU32::new(FULL),
            hinted: AtomicU32::new(0),
            latency: Latency::default(),
            hub: hub.clone(),
        }
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Forgets what was learned; calls in flight stay.
    pub(crate) fn reset(&self) {
        self.consecutive.store(0, Relaxed);
        self.ramp.store(FULL, Relaxed);
        self.latency.0.store(0, Relaxed);
    }
}

/// A peak-sensitive moving average of latency: the nanoseconds as `f32` and the moment of its last change, in one
/// word, so that it is read and written whole without a lock. Zero: nothing measured.
#[derive(Debug, Default)]
pub(crate) struct Latency(AtomicU64);

impl Latency {
    #[inline]
    pub(crate) fn is_unknown(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    /// The average in nanoseconds, decayed to `now`; `None` before the first measurement.
    pub(crate) fn at(&self, now: Millis, decay: Decay) -> Option<f32> {
        self.measured().map(|(nanos, measured)| nanos / decay.faded(now.after(measured).max(0)))
    }

    /// The average in nanoseconds when it was last changed, and that moment; `None` before the first measurement.
    #[inline]
    pub(crate) fn measured(&self) -> Option<(f32, Millis)> {
        let word = self.0.load(Relaxed);
        (word != 0).then(|| unpack(word))
    }

    /// Takes in one latency: a peak at once, less than the average gently.
    pub(crate) fn observe(&self, sample: f32, now: Millis, decay: Decay) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            if word == 0 {
                return Some(pack(sample, now));
            }
            let (nanos, measured) = unpack(word);
            let old = 1.0 / decay.faded(now.after(measured).max(0));
            let next = if sample >= nanos { sample } else { nanos * old + sample * (1.0 - old) };
            Some(pack(next, now))
        });
    }
}

/// How fast an average is forgotten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decay {
    per_milli: f32,
}

impl Decay {
    /// To 1/e in this time, at least 1 ms.
    pub(crate) fn over(time: Duration) -> Self {
        Self { per_milli: 1.0 / (time.as_secs_f32() * 1e3).max(1.0) }
    }

    /// What to divide by after so many milliseconds; less than 1 for a time before.
    ///
    /// It is e^x, as the fourth power of the first terms of the series of e^(x/4): within 0.1 % for up to one decay time and
    /// 1 % for two, and flatter after. The function itself costs as much as all the rest of a pick. For the shortest of
    /// times 1 + x is as good, and is known sooner.
    #[inline]
    #[allow(clippy::cast_precision_loss)] // needs no 24 bits of precision
    pub(crate) fn faded(self, millis: i32) -> f32 {
        const SHORT: f32 = 0.04;
        let x = millis as f32 * self.per_milli;
        if x.abs() < SHORT {
            return 1.0 + x;
        }
        // Bounded, lest a cost become infinite or none.
        let y = x.abs().min(100.0);
        let root = 1.0 + y * (0.25 + y * (1.0 / 32.0 + y * (1.0 / 384.0)));
        let faded = root * root * (root * root);
        if x < 0.0 { 1.0 / faded } else { faded }
    }
}

fn pack(nanos: f32, at: Millis) -> u64 {
    // At least 1 ns, so that no measurement reads as none.
    u64::from(nanos.max(1.0).to_bits()) << 32 | u64::from(at.0)
}

#[allow(clippy::cast_possible_truncation)] // the two halves of the word
fn unpack(word: u64) -> (f32, Millis) {
    (f32::from_bits((word >> 32) as u32), Millis(word as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Decay = Decay { per_milli: 1e-4 };

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let latency = Latency::default();
        let at = |millis| latency.at(Millis(millis), DECAY);
        assert_eq!(at(5), None);
        latency.observe(1e6, Millis(0), DECAY);
        latency.observe(1e9, Millis(0), DECAY);
        assert_eq!(at(0), Some(1e9));
        let faded = at(10_000).unwrap();
        assert!((faded / 1e9 - (-1.0_f32).exp()).abs() < 1e-3, "{faded}");
        latency.observe(1e6, Millis(10_000), DECAY);
        let mixed = at(10_000).unwrap();
        let expected = 1e9 * (-1.0_f32).exp() + 1e6 * (1.0 - (-1.0_f32).exp());
        assert!((mixed / expected - 1.0).abs() < 1e-3, "{mixed}");
    }

    #[test]
    fn fading_is_close_to_the_exponential() {
        for millis in -20_000..=20_000_i16 {
            let x = f32::from(millis) * 1e-4;
            let off = (DECAY.faded(millis.into()) / x.exp() - 1.0).abs();
            assert!(off < if x.abs() <= 1.0 { 1e-3 } else { 1e-2 }, "{x}: {off}");
        }
        for extreme in [i32::MIN, i32::MAX] {
            let faded = DECAY.faded(extreme);
            assert!(faded > 0.0 && faded.is_finite(), "{extreme}: {faded}");
        }
    }

    #[test]
    fn moments_wrap_and_never_run_backwards() {
        assert_eq!(Millis(5).since(Millis(u32::MAX - 4)), 10);
        assert_eq!(Millis(5).since(Millis(6)), 0);
        assert_eq!(Millis(5).after(Millis(6)), -1);
    }
}
