use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use switchboard_core::Instance;

use crate::FailureKind;
use crate::hub::Hub;
use crate::measured::{Measured, Nanos, mixed};
use crate::outlier::Tally;
use crate::slow_start::FULL;

/// The registry hears of the same instance at most this often.
const HINT_INTERVAL: Nanos = 1_000_000_000;

/// Calls given up say that an instance hangs when it has answered nothing for this long.
const SILENCE: Nanos = 1_000_000_000;

/// An instance that has answered nothing since the first of its calls began is passed over from then on, and not before twice
/// the slowest success of late. Longer than a busy thread waits for its turn; each call in this time may be lost.
const PATIENCE: Nanos = 100_000_000;

/// So many connections that failed, with no answer between them, make an instance unreachable. A single one may have been closed
/// while a request was on its way. A call that ended in silence is enough: it took long, and the next would take as long.
const UNREACHABLE: u32 = 2;

/// A call that tries an instance which returns from ejection, and does not end, keeps others from it no longer than this.
const TRIAL: Nanos = 10_000_000_000;

/// A slow instance that has not been called for the decay time is tried by one in so many of the picks that would have
/// left it out: at any rate of calls few of them are slow, and it is found out when the instance has recovered.
const PROBE_EVERY: u32 = 32;

/// What is known of one instance. It outlives changes of the registration, and all balancers of the service share it.
///
/// In cache lines of its own: threads that call other instances do not wait for this one.
#[repr(align(128))]
pub(crate) struct Stats {
    /// Exact over all threads.
    pub(crate) in_flight: AtomicU32,
    /// Failures since the last success, and calls given up that took longer than usual.
    pub(crate) row: AtomicU32,
    picked: AtomicU64,
    /// The moving average.
    pub(crate) latency: Measured,
    succeeded: AtomicU32,
    failed: AtomicU32,
    /// The part of its due that it gets, of [`FULL`]. 0: it returns from ejection and gets one call at a time, until one
    /// succeeds.
    pub(crate) share: AtomicU32,
    /// When the first of the calls was given up that nothing has answered since; 0: none was.
    silent: AtomicU64,
    /// When the first of the calls began that nothing has answered since; 0: none waits.
    asked: AtomicU64,
    /// Connections that failed since the last answer; a call that ended in silence counts as [`UNREACHABLE`] of them.
    unreached: AtomicU32,
    /// How long the last call took that ended in silence; 0: none did since the last answer.
    waited: AtomicU64,
    /// When the call began that tries it on its return; 0: none is out.
    tried: AtomicU64,
    hinted: AtomicU64,
    pub(crate) hub: Arc<Hub>,
}

impl Stats {
    pub(crate) fn new(hub: &Arc<Hub>) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            row: AtomicU32::new(0),
            picked: AtomicU64::new(hub.now()),
            latency: Measured::default(),
            succeeded: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            share: AtomicU32::new(FULL),
            silent: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            unreached: AtomicU32::new(0),
            waited: AtomicU64::new(0),
            tried: AtomicU64::new(0),
            hinted: AtomicU64::new(0),
            hub: hub.clone(),
        }
    }

    #[inline]
    pub(crate) fn begin(&self, now: Nanos) {
        self.in_flight.fetch_add(1, Relaxed);
        self.hub.metrics.begin();
        self.picked.store(now, Relaxed);
        if self.asked.load(Relaxed) == 0 {
            self.asked.store(now.max(1), Relaxed);
        }
    }

    /// The call that began then is over, perhaps the one that tries it.
    #[inline]
    pub(crate) fn end(&self, began: Nanos) {
        self.hub.metrics.end();
        // Of one that cannot be reached silence goes on to count until the pools know it.
        if self.in_flight.fetch_sub(1, Relaxed) == 1 && !self.is_unreachable() {
            self.asked.store(0, Relaxed);
        }
        if self.tried.load(Relaxed) == began.max(1) {
            let _ = self.tried.compare_exchange(began.max(1), 0, Relaxed, Relaxed);
        }
    }

    /// Takes in one latency: a peak at once, less than the average the more the longer ago that is.
    fn observe(&self, took: f32, now: Nanos) {
        self.latency.update(now, |average, passed| {
            if took >= average {
                return Some(took);
            }
            // Nothing is forgotten within a millisecond, and the exponential is a good part of a pick.
            (passed > 0.0).then(|| mixed(average, took, passed, self.hub.decay))
        });
    }

    /// Takes in that it has answered well, and how long it took unless that is not known or was noted before.
    pub(crate) fn note_answer(&self, took: Option<f32>, now: Nanos) {
        self.speak();
        self.hear();
        if self.is_on_trial() {
            self.share.store(FULL, Relaxed);
            self.hub.wake.notify_one();
        }
        if let Some(took) = took {
            self.hub.note_success(took, now);
            self.observe(took, now);
        }
    }

    /// Takes in what came of a call, and how long it took unless that is not known or was noted before. Tells the registry of
    /// a connection that failed.
    pub(crate) fn judge(
        &self,
        instance: &Instance,
        outcome: Result<(), FailureKind>,
        took: Option<f32>,
        now: Nanos,
    ) {
        self.hub.metrics.verdict(outcome, took);
        let Err(kind) = outcome else {
            self.succeeded.fetch_add(1, Relaxed);
            if self.row.load(Relaxed) != 0 {
                self.row.store(0, Relaxed);
            }
            return self.note_answer(took, now);
        };
        self.failed.fetch_add(1, Relaxed);
        self.speak();
        self.one_more_in_the_row();
        // It must not look fast: it costs more than any success does.
        let cost = took.unwrap_or(0.0).max(self.hub.slowest.get().unwrap_or(0.0) * 2.0);
        if cost > 0.0 {
            self.observe(cost, now);
        }
        let is_broken = kind == FailureKind::Connection;
        if kind == FailureKind::Response {
            self.hear();
        } else if is_broken || self.is_silent(now) {
            let by = if is_broken { 1 } else { UNREACHABLE };
            if !is_broken {
                self.waited.store(now.saturating_sub(self.asked.load(Relaxed)), Relaxed);
            }
            let before = self.unreached.fetch_add(by, Relaxed);
            if before < UNREACHABLE && before + by >= UNREACHABLE {
                self.hub.wake.notify_one();
            }
        }
        if is_broken && claim(&self.hinted, now, HINT_INTERVAL) {
            self.hub.directory.suspect(&instance.key());
        }
    }

    /// It has answered, well or not: it is there.
    fn hear(&self) {
        if self.asked.load(Relaxed) != 0 {
            self.asked.store(0, Relaxed);
        }
        if self.waited.load(Relaxed) != 0 {
            self.waited.store(0, Relaxed);
        }
        if self.unreached.load(Relaxed) != 0 && self.unreached.swap(0, Relaxed) >= UNREACHABLE {
            self.hub.wake.notify_one();
        }
    }

    /// How long a call waited in vain for it, if its connections are well and it does not answer.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Relaxed))
    }

    pub(crate) fn is_unreachable(&self) -> bool {
        self.unreached.load(Relaxed) >= UNREACHABLE
    }

    /// Whether its calls wait for so long that another should get the next.
    #[inline]
    pub(crate) fn is_silent(&self, now: Nanos) -> bool {
        let asked = self.asked.load(Relaxed);
        asked != 0 && now.saturating_sub(asked) > PATIENCE && self.hub.is_too_long(now - asked)
    }

    /// Takes in that a call was given up after this time. Longer than usual, which is twice the average success, it says that
    /// the instance is at least that slow; and many such, over a second and more in which it has answered nothing, that it
    /// hangs. (Losers of hedged requests, or all calls of a process that stood still, are given up together or between
    /// answers.)
    pub(crate) fn give_up(&self, took: f32, now: Nanos) {
        if self.hub.average.get().is_none_or(|average| took <= average * 2.0) {
            return;
        }
        self.hub.metrics.abandoned(took);
        self.observe(took, now);
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

    /// Whether to call it although another is faster, to learn how it is now: one caller of all, now and then.
    #[inline]
    pub(crate) fn is_probe_due(&self, now: Nanos) -> bool {
        let is_long_ago = now.saturating_sub(self.picked.load(Relaxed)) > self.hub.decay;
        is_long_ago && fastrand::u32(..PROBE_EVERY) == 0 && claim(&self.picked, now, self.hub.decay)
    }

    /// Lets it back, one call at a time; the next failure ejects it.
    pub(crate) fn put_on_trial(&self) {
        self.row.store(self.hub.consecutive().saturating_sub(1), Relaxed);
        self.unreached.store(UNREACHABLE - 1, Relaxed);
        self.asked.store(0, Relaxed);
        self.tried.store(0, Relaxed);
        self.share.store(0, Relaxed);
    }

    pub(crate) fn is_on_trial(&self) -> bool {
        self.share.load(Relaxed) == 0
    }

    /// Whether this call is the one that is to try it: none is out, or it has been out for long.
    pub(crate) fn try_it(&self, now: Nanos) -> bool {
        claim(&self.tried, now, TRIAL)
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
        self.unreached.store(0, Relaxed);
        self.asked.store(0, Relaxed);
        self.waited.store(0, Relaxed);
        self.latency.clear();
        self.take_tally();
    }
}

/// Whether it is so long ago, or never was (0), and this is the one of all threads that sets it to now.
fn claim(last: &AtomicU64, now: Nanos, ago: Nanos) -> bool {
    let was = last.load(Relaxed);
    let due = was == 0 || now.saturating_sub(was) >= ago;
    due && last.compare_exchange(was, now.max(1), Relaxed, Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OutlierDetection;

    const MS: Nanos = 1_000_000;

    /// Of a service whose slowest success of late took 100 ms.
    fn stats() -> Stats {
        let hub = Hub::with(Some(OutlierDetection::new()));
        hub.note_success(1e8, 1);
        Stats::new(&Arc::new(hub))
    }

    fn instance() -> Instance {
        Instance::builder("a").address("127.0.0.1:1").build().unwrap()
    }

    #[test]
    fn silence_begins_with_the_first_call_since_an_answer() {
        let stats = stats();
        let is_silent = |at: Nanos| stats.is_silent((10_000 + at) * MS);
        let begin = |at: Nanos| stats.begin((10_000 + at) * MS);
        begin(0);
        assert!(!is_silent(0) && !is_silent(200));
        assert!(is_silent(201), "longer than twice the slowest");
        stats.note_answer(None, 10_150 * MS);
        assert!(!is_silent(500), "the first waits on, and nothing that began since");
        begin(160);
        begin(200);
        assert!(!is_silent(360) && is_silent(361));
        stats.judge(&instance(), Err(FailureKind::Timeout), None, 10_560 * MS);
        assert_eq!((stats.waited(), stats.is_unreachable()), (Duration::from_millis(400), true));
        stats.note_answer(None, 10_600 * MS);
        assert_eq!((stats.waited(), stats.is_unreachable()), (Duration::ZERO, false));
    }

    #[test]
    fn a_failure_of_unknown_length_does_not_look_fast() {
        let unknown = Stats::new(&Arc::new(Hub::with(None)));
        for (stats, latency) in [(unknown, None), (stats(), Some(2e8))] {
            stats.judge(&instance(), Err(FailureKind::Response), None, MS);
            assert_eq!(stats.latency.get(), latency);
        }
    }
}
