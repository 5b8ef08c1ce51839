use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use switchboard_core::Instance;

use crate::hub::Hub;
use crate::outlier::Tally;
use crate::stats::{Millis, Stats};

/// How far a lane's count may run from what it has told the others.
const TELL: i32 = 2;

/// One instance a strategy may choose, as seen from one lane.
///
/// A lane is a group of threads that share what a pick writes; there are about as many as cores. Calls in flight are
/// counted in the lane and told to the others in steps, so a lane knows its own exactly and those of another
/// within one. What else is known of an instance is shared by all.
#[repr(C)] // what a pick touches comes first, to be in one cache line with the reference count
pub struct Candidate {
    /// Calls in flight that were picked on this lane.
    open: AtomicI32,
    /// What of `open` is counted in `stats.in_flight`.
    told: AtomicI32,
    picked: AtomicU32,
    weight: u32,
    stats: Arc<Stats>,
    instance: Arc<Instance>,
    /// Verdicts since the last sweep.
    succeeded: AtomicU32,
    failed: AtomicU32,
}

impl Candidate {
    pub(crate) fn new(instance: Arc<Instance>, stats: Arc<Stats>) -> Self {
        Self {
            open: AtomicI32::new(0),
            told: AtomicI32::new(0),
            picked: AtomicU32::new(stats.hub().millis().0),
            weight: instance.effective_weight().into(),
            succeeded: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            stats,
            instance,
        }
    }

    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// Its weight at its present health; never 0.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// How many calls are in flight: exact for the calling thread's lane, within one for each other lane.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        let untold = self.open.load(Relaxed).wrapping_sub(self.told.load(Relaxed));
        self.stats.in_flight.load(Relaxed).wrapping_add(untold).max(0).unsigned_abs()
    }

    /// The moving average of its latency at `context`'s time, decayed; `None` before the first verdict on a timed
    /// pick. Strategies that ask for it say so with [`Strategy::needs_latency`](crate::Strategy::needs_latency).
    #[inline]
    pub fn latency(&self, context: &crate::Context<'_>) -> Option<Duration> {
        let nanos = self.stats.latency().at(context.now, context.decay);
        nanos.map(|nanos| Duration::from_secs_f32(nanos / 1e9))
    }

    /// The average when it was last changed, and what to divide it by for the time since.
    #[inline]
    pub(crate) fn latency_parts(&self, context: &crate::Context<'_>) -> Option<(f32, f32)> {
        self.stats.latency().parts(context.now, context.decay)
    }

    /// Milliseconds since this lane picked it by a timed pick, or came to know it.
    pub(crate) fn unpicked_for(&self, now: Millis) -> u32 {
        now.since(Millis(self.picked.load(Relaxed)))
    }

    pub(crate) fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    pub(crate) fn hub(&self) -> &Hub {
        self.stats.hub()
    }

    pub(crate) fn open(&self) -> u32 {
        self.open.load(Relaxed).max(0).unsigned_abs()
    }

    pub(crate) fn count(&self, succeeded: bool) {
        let tally = if succeeded { &self.succeeded } else { &self.failed };
        tally.fetch_add(1, Relaxed);
    }

    /// The verdicts since this was last called.
    pub(crate) fn take_tally(&self) -> Tally {
        Tally { succeeded: self.succeeded.swap(0, Relaxed), failed: self.failed.swap(0, Relaxed) }
    }

    #[inline]
    pub(crate) fn note_picked(&self, now: Millis) {
        self.picked.store(now.0, Relaxed);
    }

    #[inline]
    pub(crate) fn begin(&self) {
        let open = self.open.fetch_add(1, Relaxed).wrapping_add(1);
        if open.wrapping_sub(self.told.load(Relaxed)) >= TELL {
            self.tell();
        }
    }

    #[inline]
    pub(crate) fn end(&self) {
        let open = self.open.fetch_sub(1, Relaxed).wrapping_sub(1);
        let told = self.told.load(Relaxed);
        if told != 0 && (open == 0 || told.wrapping_sub(open) >= TELL) {
            self.tell();
        }
    }

    #[cold]
    fn tell(&self) {
        let (told, open) = (self.told.load(Relaxed), self.open.load(Relaxed));
        // Who loses the race leaves the telling to the winner or to the next call.
        if self.told.compare_exchange(told, open, Relaxed, Relaxed).is_ok() {
            self.stats.in_flight.fetch_add(open.wrapping_sub(told), Relaxed);
        }
    }
}

/// What an old candidate told is taken back, should it go with a call uncounted.
impl Drop for Candidate {
    fn drop(&mut self) {
        let told = self.told.load(Relaxed);
        if told != 0 {
            self.stats.in_flight.fetch_sub(told, Relaxed);
        }
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("instance", &self.instance.id())
            .field("weight", &self.weight)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
