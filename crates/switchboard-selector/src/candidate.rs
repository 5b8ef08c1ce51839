use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use switchboard_core::Instance;

use crate::hub::Hub;
use crate::outlier::Tally;
use crate::stats::{Millis, Stats};

/// How far a lane's count may run from what it has told the others.
const TELL: u32 = 2;

/// One instance a strategy may choose, as seen from one lane.
///
/// A lane is a group of threads that share what a pick writes; there are about as many as cores. Calls in flight are
/// counted in the lane and told to the others in steps, so a lane knows its own exactly and those of another
/// within one. What else is known of an instance is shared by all.
pub struct Candidate(Arc<Seat>);

/// What the candidates of one instance in one lane share, and each pick of it holds.
///
/// The references to a seat are the calls in flight and the candidates, and these are counted when a list is made or
/// dropped. So a pick changes one counter, not two; it is the dearest part of it.
#[repr(C)] // what a pick touches comes first, to be in one cache line with the reference count
pub(crate) struct Seat {
    /// How many of the references are candidates.
    candidates: AtomicU32,
    /// What of the calls in flight is counted in `stats.in_flight`.
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
        Self(Arc::new(Seat {
            candidates: AtomicU32::new(1),
            told: AtomicI32::new(0),
            picked: AtomicU32::new(stats.hub().millis().0),
            weight: instance.effective_weight().into(),
            succeeded: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            stats,
            instance,
        }))
    }

    /// The same, for another list.
    pub(crate) fn again(&self) -> Self {
        self.0.candidates.fetch_add(1, Relaxed);
        Self(self.0.clone())
    }

    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.0.instance
    }

    /// Its weight at its present health; never 0.
    pub fn weight(&self) -> u32 {
        self.0.weight
    }

    /// How many calls are in flight: exact for the calling thread's lane, within one for each other lane.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        let open = self.0.open();
        let told = self.0.tell(open);
        self.0.stats.in_flight.load(Relaxed).wrapping_add(open.wrapping_sub(told)).max(0).unsigned_abs()
    }

    /// The moving average of its latency at `context`'s time, decayed; `None` before the first verdict on a timed
    /// pick. Strategies that ask for it say so with [`Strategy::needs_latency`](crate::Strategy::needs_latency).
    #[inline]
    pub fn latency(&self, context: &crate::Context<'_>) -> Option<Duration> {
        let nanos = self.0.stats.latency().at(context.now, context.decay);
        nanos.map(|nanos| Duration::from_secs_f32(nanos / 1e9))
    }

    #[inline]
    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.0
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.0.candidates.fetch_sub(1, Relaxed);
    }
}

impl Seat {
    pub(crate) fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    pub(crate) fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    pub(crate) fn hub(&self) -> &Hub {
        self.stats.hub()
    }

    /// Milliseconds since this lane picked it by a timed pick, or came to know it.
    #[inline]
    pub(crate) fn unpicked_for(&self, now: Millis) -> u32 {
        now.since(Millis(self.picked.load(Relaxed)))
    }

    #[inline]
    pub(crate) fn note_picked(&self, now: Millis) {
        self.picked.store(now.0, Relaxed);
    }

    pub(crate) fn count(&self, succeeded: bool) {
        let tally = if succeeded { &self.succeeded } else { &self.failed };
        tally.fetch_add(1, Relaxed);
    }

    /// The verdicts since this was last called.
    pub(crate) fn take_tally(&self) -> Tally {
        Tally { succeeded: self.succeeded.swap(0, Relaxed), failed: self.failed.swap(0, Relaxed) }
    }

    /// Calls in flight that were picked on this lane; less than none for a moment while a list is made.
    #[inline]
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // both are far fewer than 2^31
    pub(crate) fn open(self: &Arc<Self>) -> i32 {
        (Arc::strong_count(self) as i32).wrapping_sub(self.candidates.load(Relaxed) as i32)
    }

    /// Counts a call, by the reference it is to hold.
    #[inline]
    pub(crate) fn begin(self: &Arc<Self>) -> Arc<Self> {
        // Told beforehand: nothing can be read ahead of the change to the counter, and this would wait for it.
        self.tell(self.open() + 1);
        self.clone()
    }

    /// To be called just before that reference is dropped.
    #[inline]
    pub(crate) fn end(self: &Arc<Self>) {
        self.tell(self.open() - 1);
    }

    /// Sees to it that the other lanes know of about so many calls; returns of how many they do. Two calls that begin or
    /// end on one lane at the same moment may not see each other: its next look makes up for it.
    #[inline]
    fn tell(&self, open: i32) -> i32 {
        let told = self.told.load(Relaxed);
        let apart = open.wrapping_sub(told).unsigned_abs();
        if apart >= TELL || (open == 0 && apart != 0) { self.correct(told, open) } else { told }
    }

    #[cold]
    fn correct(&self, told: i32, open: i32) -> i32 {
        let open = open.max(0);
        if self.told.compare_exchange(told, open, Relaxed, Relaxed).is_err() {
            return told; // who won the race has told
        }
        self.stats.in_flight.fetch_add(open.wrapping_sub(told), Relaxed);
        open
    }
}

/// What an old seat told is taken back.
impl Drop for Seat {
    fn drop(&mut self) {
        let told = *self.told.get_mut();
        if told != 0 {
            self.stats.in_flight.fetch_sub(told, Relaxed);
        }
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("instance", &self.instance().id())
            .field("weight", &self.weight())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use switchboard_core::{MemoryRegistry, ServiceName};
    use switchboard_watcher::Directory;

    use super::*;

    /// One instance as seen from two lanes.
    fn lanes() -> [Candidate; 2] {
        let directory = Directory::new(MemoryRegistry::new());
        let hub = Hub::new(ServiceName::new("a").unwrap(), directory, Duration::from_secs(10), 5);
        let stats = Arc::new(Stats::new(&Arc::new(hub)));
        let instance = Arc::new(Instance::builder("a").id("1").address("127.0.0.1:80").build().unwrap());
        [0, 1].map(|_| Candidate::new(instance.clone(), stats.clone()))
    }

    fn begin(candidate: &Candidate, calls: usize) -> Vec<Arc<Seat>> {
        (0..calls).map(|_| candidate.seat().begin()).collect()
    }

    fn end(calls: Vec<Arc<Seat>>) {
        for call in calls {
            call.end();
        }
    }

    #[test]
    fn a_lane_knows_its_own_calls_and_those_of_another_within_one() {
        let [own, other] = lanes();
        let mut calls = Vec::new();
        // The other is asked first: a look of its own would make up for what the lane has not told.
        for count in 1..=9 {
            calls.extend(begin(&own, 1));
            assert!(other.in_flight().abs_diff(count) <= 1, "{count}: {}", other.in_flight());
            assert_eq!(own.in_flight(), count);
        }
        for count in (0..9).rev() {
            end(calls.pop().into_iter().collect());
            assert!(other.in_flight().abs_diff(count) <= 1, "{count}: {}", other.in_flight());
            assert_eq!(own.in_flight(), count);
        }
        assert_eq!(other.in_flight(), 0);
    }

    #[test]
    fn lists_are_not_calls() {
        let [candidate, _] = lanes();
        let calls = begin(&candidate, 3);
        let lists: Vec<Candidate> = (0..5).map(|_| candidate.again()).collect();
        assert_eq!((candidate.in_flight(), lists[4].in_flight()), (3, 3));
        drop(candidate);
        assert_eq!(lists[0].in_flight(), 3);
        end(calls);
        assert_eq!(lists[0].in_flight(), 0);
    }

    #[test]
    fn what_was_not_told_is_made_up_for_at_the_next_look() {
        let [own, other] = lanes();
        let calls = begin(&own, 4);
        assert_eq!(other.in_flight(), 4);
        drop(calls); // as if each had counted on the others
        assert_eq!(own.in_flight(), 0);
        assert_eq!(other.in_flight(), 0);
    }

    #[test]
    fn a_seat_that_goes_takes_its_calls_along() {
        let [own, other] = lanes();
        let calls = begin(&own, 4);
        drop(own);
        assert_eq!(other.in_flight(), 4);
        drop(calls);
        assert_eq!(other.in_flight(), 0);
    }

    #[test]
    fn threads_that_share_a_lane_lose_no_call() {
        let [own, other] = lanes();
        let held: Vec<Arc<Seat>> = std::thread::scope(|scope| {
            let run = || {
                for turn in 0..20_000 {
                    end(begin(&own, turn % 5));
                    drop(own.again());
                }
                begin(&own, 2)
            };
            let threads = [scope.spawn(run), scope.spawn(run), scope.spawn(run)];
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(own.in_flight(), 6);
        assert!(other.in_flight().abs_diff(6) <= 1, "{}", other.in_flight());
        end(held);
        assert_eq!((own.in_flight(), other.in_flight()), (0, 0));
    }
}
