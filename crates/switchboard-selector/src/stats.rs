use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::FailureKind;
use crate::hub::{Hub, Nanos};
use crate::outlier::Tally;
use crate::slow_start::FULL;

/// The registry hears of the same instance at most this often.
const HINT_INTERVAL: Nanos = 1_000_000_000;

/// Calls given up say that an instance hangs when it has answered nothing for this long.
const SILENCE: Nanos = 1_000_000_000;

/// A call that tries an instance which returns from ejection, and does not end, keeps others from it no longer than this.
const TRIAL: Nanos = 10_000_000_000;

/// A slow instance that has not been called for the decay time is tried by one in so many of the picks that would have
/// left it out: at any rate of calls few of them are slow, and it is found out when the instance has recovered.
const PROBE_EVERY: u32 = 32;

/// What is known of one instance. It outlives changes of the registration, and all balancers of the service share it.
///
/// In cache lines of its own: threads that call other instances do not wait for this one.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Stats {
    /// Exact over all threads.
    in_flight: AtomicU32,
    /// Failures since the last success, and calls given up that took longer than usual.
    pub(crate) row: AtomicU32,
    picked: AtomicU64,
    latency: Latency,
    succeeded: AtomicU32,
    failed: AtomicU32,
    /// The part of its due that it gets, of [`FULL`]. 0: it returns from ejection and gets one call at a time, until one
    /// succeeds.
    pub(crate) share: AtomicU32,
    /// When the first of the calls was given up that nothing has answered since; 0: none was.
    silent: AtomicU64,
    /// When the call began that tries it on its return; 0: none is out.
    tried: AtomicU64,
    hinted: AtomicU64,
    hub: Arc<Hub>,
}

impl Stats {
    pub(crate) fn new(hub: &Arc<Hub>) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            row: AtomicU32::new(0),
            picked: AtomicU64::new(hub.now()),
            latency: Latency::default(),
            succeeded: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            share: AtomicU32::new(FULL),
            silent: AtomicU64::new(0),
            tried: AtomicU64::new(0),
            hinted: AtomicU64::new(0),
            hub: hub.clone(),
        }
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    #[inline]
    pub(crate) fn begin(&self, now: Nanos) {
        self.in_flight.fetch_add(1, Relaxed);
        self.picked.store(now, Relaxed);
    }

    /// The call that began then is over, perhaps the one that tries it.
    #[inline]
    pub(crate) fn end(&self, began: Nanos) {
        self.in_flight.fetch_sub(1, Relaxed);
        if self.tried.load(Relaxed) == began.max(1) {
            let _ = self.tried.compare_exchange(began.max(1), 0, Relaxed, Relaxed);
        }
    }

    /// The moving average of latency in nanoseconds; `None` before the first call that was timed.
    #[inline]
    pub(crate) fn latency(&self) -> Option<f32> {
        self.latency.average()
    }

    /// Takes in that it has answered well, and how long it took unless that is not known or was noted before.
    pub(crate) fn note_answer(&self, took: Option<Nanos>, now: Nanos) {
        self.speak();
        self.pass();
        if let Some(took) = took {
            self.hub.note_success(took, now);
            self.latency.observe(took, now, self.hub.decay);
        }
    }

    /// Takes in what came of a call, and how long it took unless that is not known or was noted before.
    pub(crate) fn judge(&self, outcome: Result<(), FailureKind>, took: Option<Nanos>, now: Nanos) {
        self.hub.telemetry.verdict(outcome);
        if outcome.is_err() {
            self.failed.fetch_add(1, Relaxed);
            self.speak();
            self.one_more_in_the_row();
            // It must not look fast: it costs more than any success does.
            let usual = self.hub.slowest().unwrap_or(0);
            let cost = took.unwrap_or(0).max(usual.saturating_mul(2));
            if cost > 0 {
                self.latency.observe(cost, now, self.hub.decay);
            }
            return;
        }
        self.succeeded.fetch_add(1, Relaxed);
        if self.row.load(Relaxed) != 0 {
            self.row.store(0, Relaxed);
        }
        self.note_answer(took, now);
    }

    /// Takes in that a call was given up after this time. Longer than usual, it says that the instance is at least that
    /// slow; and many such, over a second and more in which it has answered nothing, that it hangs. (Losers of hedged
    /// requests, or all calls of a process that stood still, are given up together or between answers.)
    pub(crate) fn give_up(&self, took: Nanos, now: Nanos) {
        if self.hub.usual().is_none_or(|usual| took <= usual) {
            return;
        }
        self.hub.telemetry.abandoned.count();
        self.latency.observe(took, now, self.hub.decay);
        match self.silent.load(Relaxed) {
            0 => self.silent.store(now.max(1), Relaxed),
            since if now.saturating_sub(since) >= SILENCE => self.one_more_in_the_row(),
            _ => {}
        }
    }

    /// It has answered something, whatever it was.
    fn speak(&self) {
        if self.silent.load(Relaxed) != 0 {
            self.silent.store(0, Relaxed);
        }
    }

    fn one_more_in_the_row(&self) {
        let row = self.row.fetch_add(1, Relaxed).wrapping_add(1);
        let consecutive = self.hub.consecutive();
        if self.is_on_trial() || (consecutive != 0 && row % consecutive == 0) {
            self.hub.wake.notify_one();
        }
    }

    /// Whether the registry is to be told of a connection that failed.
    pub(crate) fn is_hint_due(&self, now: Nanos) -> bool {
        // 0 stands for never.
        let (last, now) = (self.hinted.load(Relaxed), now.max(1));
        let due = last == 0 || now.saturating_sub(last) >= HINT_INTERVAL;
        due && self.hinted.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }

    /// Whether to call it although another is faster, to learn how it is now: one caller of all, now and then.
    #[inline]
    pub(crate) fn is_probe_due(&self, now: Nanos) -> bool {
        let picked = self.picked.load(Relaxed);
        now.saturating_sub(picked) > self.hub.decay
            && fastrand::u32(..PROBE_EVERY) == 0
            && self.picked.compare_exchange(picked, now, Relaxed, Relaxed).is_ok()
    }

    /// Lets it back, one call at a time; the next failure ejects it.
    pub(crate) fn put_on_trial(&self) {
        self.row.store(self.hub.consecutive().saturating_sub(1), Relaxed);
        self.tried.store(0, Relaxed);
        self.share.store(0, Relaxed);
    }

    pub(crate) fn is_on_trial(&self) -> bool {
        self.share.load(Relaxed) == 0
    }

    /// Whether this call is the one that is to try it: none is out, or it has been out for long.
    pub(crate) fn try_it(&self, now: Nanos) -> bool {
        let tried = self.tried.load(Relaxed);
        (tried == 0 || now.saturating_sub(tried) > TRIAL)
            && self.tried.compare_exchange(tried, now.max(1), Relaxed, Relaxed).is_ok()
    }

    fn pass(&self) {
        if self.is_on_trial() {
            self.share.store(FULL, Relaxed);
            self.hub.wake.notify_one();
        }
    }

    /// The verdicts since this was last called.
    pub(crate) fn take_tally(&self) -> Tally {
        Tally { succeeded: self.succeeded.swap(0, Relaxed), failed: self.failed.swap(0, Relaxed) }
    }

    /// Forgets failures and restrictions, as of one that is ejected.
    pub(crate) fn clear(&self) {
        self.row.store(0, Relaxed);
        self.silent.store(0, Relaxed);
        self.share.store(FULL, Relaxed);
    }

    /// Forgets all that was learned; calls in flight stay.
    pub(crate) fn reset(&self) {
        self.clear();
        self.latency.0.store(0, Relaxed);
        self.take_tally();
    }
}

/// A peak-sensitive moving average: the nanoseconds as `f32` and the millisecond of its last change, in one word, so that it
/// is read and written whole without a lock. Zero: nothing measured.
#[derive(Debug, Default)]
struct Latency(AtomicU64);

impl Latency {
    #[inline]
    fn average(&self) -> Option<f32> {
        let word = self.0.load(Relaxed);
        (word != 0).then(|| unpack(word).0)
    }

    /// Takes in one latency: a peak at once, less than the average the more the longer ago that is.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_wrap)] // 24 bits are enough for an average
    fn observe(&self, took: Nanos, now: Nanos, decay: Nanos) {
        let (took, now) = (took as f32, millis(now));
        // Fails where there is nothing to write.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let (average, measured) = unpack(word);
            if took >= average {
                return Some(pack(took, now));
            }
            // Wraps after 49 days; another thread may have written a moment from now.
            let passed = now.wrapping_sub(measured) as i32;
            if passed <= 0 {
                // Nothing is forgotten within a millisecond, and the exponential is a good part of a pick.
                return None;
            }
            let kept = (-(passed as f32) * 1e6 / decay as f32).exp();
            Some(pack(average * kept + took * (1.0 - kept), now))
        });
    }
}

#[allow(clippy::cast_possible_truncation)] // it wraps
fn millis(nanos: Nanos) -> u32 {
    (nanos / 1_000_000) as u32
}

fn pack(nanos: f32, at: u32) -> u64 {
    // At least 1 ns, so that no measurement reads as none.
    u64::from(nanos.max(1.0).to_bits()) << 32 | u64::from(at)
}

#[allow(clippy::cast_possible_truncation)] // the two halves of the word
fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_by_what_comes_after() {
        let latency = Latency::default();
        let observe = |took, now| {
            latency.observe(took, now, 10 * SECOND);
            latency.average().unwrap()
        };
        assert_eq!(latency.average(), None);
        assert!((observe(SECOND / 1_000, 0) - 1e6).abs() < 1.0);
        assert!((observe(SECOND, 0) - 1e9).abs() < 1.0);
        let kept = (-1.0_f32).exp();
        let expected = 1e9 * kept + 1e6 * (1.0 - kept);
        let mixed = observe(SECOND / 1_000, 10 * SECOND);
        assert!((mixed / expected - 1.0).abs() < 1e-3, "{mixed} for {expected}");
        // However long it was, and should the clocks of two threads differ.
        assert!((observe(5, 2_000_000 * SECOND) - 5.0).abs() < 1e3);
        assert!(observe(0, 0).is_finite());
    }
}
