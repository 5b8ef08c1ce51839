use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use switchboard_core::Instance;

use crate::hub::Hub;
use crate::outlier::Tally;
use crate::stats::{Millis, Stats};

/// One instance a strategy may choose, as seen from one lane.
///
/// A lane is a group of threads that share what a pick writes; there are about as many as cores. Calls in flight are
/// counted in the lane, and the others are told of a call if it was not the only one there: so a lane knows its own exactly,
/// and of those of another it may miss one. What else is known of an instance is shared by all.
pub struct Candidate(Arc<Seat>);

/// What the candidates of one instance in one lane share, and each pick of it holds.
///
/// The references to a seat are the calls in flight and the candidates, and these are counted when a list is made or
/// dropped. So a pick changes one counter and not two, which is the dearest part of it.
#[repr(C)] // what a pick touches comes first, to be in one cache line with the reference count
pub(crate) struct Seat {
    /// How many of the references are candidates.
    candidates: AtomicU32,
    /// Of the calls in flight, those that are counted in `stats.in_flight` too.
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

    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.0.instance
    }

    /// Its weight at its present health; never 0.
    pub fn weight(&self) -> u32 {
        self.0.weight
    }

    /// How many calls are in flight: exact for the calling thread's lane, and for each other lane at most one too few (one
    /// more for each that began there at the very same instant).
    #[inline]
    pub fn in_flight(&self) -> u32 {
        let untold = self.0.open().wrapping_sub(self.0.told.load(Relaxed));
        self.0.stats.in_flight.load(Relaxed).wrapping_add(untold).max(0).unsigned_abs()
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

/// As cheap as an `Arc`'s: for lists, and for strategies that hand some of the candidates to another.
impl Clone for Candidate {
    fn clone(&self) -> Self {
        self.0.candidates.fetch_add(1, Relaxed);
        Self(self.0.clone())
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

    /// Calls in flight that were picked on this lane; too few or too many for a moment while a list is made or dropped.
    #[inline]
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // both are far fewer than 2^31
    pub(crate) fn open(self: &Arc<Self>) -> i32 {
        (Arc::strong_count(self) as i32).wrapping_sub(self.candidates.load(Relaxed) as i32)
    }

    /// Counts a call, by the reference it is to hold. Returns also whether the other lanes were told of it, which is what
    /// [`end`](Self::end) must know to take it back.
    #[inline]
    pub(crate) fn begin(self: &Arc<Self>) -> (Arc<Self>, bool) {
        // Beforehand: nothing can be read ahead of the change to the counter, and this would wait for it.
        let told = self.open() > 0;
        if told {
            self.tell(1);
        }
        (self.clone(), told)
    }

    #[inline]
    pub(crate) fn end(&self, told: bool) {
        if told {
            self.tell(-1);
        }
    }

    fn tell(&self, change: i32) {
        self.told.fetch_add(change, Relaxed);
        self.stats.in_flight.fetch_add(change, Relaxed);
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
pub(crate) mod tests {
    use switchboard_core::{MemoryRegistry, ServiceName};
    use switchboard_watcher::Directory;

    use super::*;

    pub(crate) fn hub() -> Arc<Hub> {
        let directory = Directory::new(MemoryRegistry::new());
        Arc::new(Hub::new(ServiceName::new("a").unwrap(), directory, Duration::from_secs(10), 5))
    }

    /// One instance as seen from two lanes.
    pub(crate) fn lanes(weight: u16) -> [Candidate; 2] {
        let stats = Arc::new(Stats::new(&hub()));
        let instance = Instance::builder("a").id("1").address("127.0.0.1:80").weight(weight).build().unwrap();
        let instance = Arc::new(instance);
        [0, 1].map(|_| Candidate::new(instance.clone(), stats.clone()))
    }

    type Calls = Vec<(Arc<Seat>, bool)>;

    fn begin(candidate: &Candidate, calls: usize) -> Calls {
        (0..calls).map(|_| candidate.seat().begin()).collect()
    }

    fn end(calls: impl IntoIterator<Item = (Arc<Seat>, bool)>) {
        for (seat, told) in calls {
            seat.end(told);
        }
    }

    #[test]
    fn a_lane_knows_its_own_calls_and_those_of_another_within_one() {
        for newest_first in [false, true] {
            let [own, other] = lanes(1);
            let mut calls = Calls::new();
            let check = |count: u32| {
                assert_eq!(own.in_flight(), count);
                assert!(other.in_flight().abs_diff(count) <= 1, "{count}: {}", other.in_flight());
            };
            for count in 1..=9 {
                calls.extend(begin(&own, 1));
                check(count);
            }
            for count in (0..9).rev() {
                end([calls.remove(if newest_first { calls.len() - 1 } else { 0 })]);
                check(count);
            }
            assert_eq!(other.in_flight(), 0);
        }
    }

    #[test]
    fn the_calls_of_all_lanes_add_up() {
        let [own, other] = lanes(1);
        let (first, second) = (begin(&own, 5), begin(&other, 4));
        assert!(own.in_flight().abs_diff(9) <= 1 && other.in_flight().abs_diff(9) <= 1);
        end(first);
        assert_eq!((own.in_flight(), other.in_flight()), (3, 4));
        end(second);
        assert_eq!((own.in_flight(), other.in_flight()), (0, 0));
    }

    #[test]
    fn lists_are_not_calls() {
        let [candidate, _] = lanes(1);
        let calls = begin(&candidate, 3);
        let lists: Vec<Candidate> = (0..5).map(|_| candidate.clone()).collect();
        assert_eq!((candidate.in_flight(), lists[4].in_flight()), (3, 3));
        drop(candidate);
        assert_eq!(lists[0].in_flight(), 3);
        end(calls);
        assert_eq!(lists[0].in_flight(), 0);
    }

    #[test]
    fn calls_may_outlive_all_lists_of_their_lane() {
        let [own, other] = lanes(1);
        let calls = begin(&own, 4);
        drop(own);
        assert_eq!(other.in_flight(), 3);
        end(calls);
        assert_eq!(other.in_flight(), 0);
    }

    #[test]
    fn threads_that_share_a_lane_lose_no_call() {
        let [own, other] = lanes(1);
        let held: Calls = std::thread::scope(|scope| {
            let run = || {
                for turn in 0..20_000 {
                    end(begin(&own, turn % 5));
                    drop(own.clone());
                }
                begin(&own, 2)
            };
            let threads = [scope.spawn(run), scope.spawn(run), scope.spawn(run)];
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!((3..=6).contains(&other.in_flight()), "{}", other.in_flight());
        assert_eq!(own.in_flight(), 6);
        end(held);
        assert_eq!((other.in_flight(), own.in_flight()), (0, 0));
    }
}
