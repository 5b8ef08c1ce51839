use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use switchboard_core::Instance;

use crate::stats::Stats;

/// One instance a strategy may choose. Cheap to clone.
#[derive(Clone)]
pub struct Candidate(Arc<Seat>);

/// In a cache line of its own, as every pick counts a reference to it.
#[repr(align(64))]
struct Seat {
    instance: Arc<Instance>,
    weight: u32,
    stats: Arc<Stats>,
}

impl Candidate {
    pub(crate) fn new(instance: Arc<Instance>, stats: Arc<Stats>) -> Self {
        Self(Arc::new(Seat { weight: instance.effective_weight().into(), instance, stats }))
    }

    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.0.instance
    }

    /// Its weight at its present health; never 0.
    #[inline]
    pub fn weight(&self) -> u32 {
        self.0.weight
    }

    /// How many calls are in flight, of all threads and by all balancers of the service.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.0.stats.in_flight.load(Relaxed)
    }

    /// The moving average of its latency, in which a peak counts at once and is forgotten by what comes after; `None`
    /// before the first call that was timed.
    pub fn latency(&self) -> Option<Duration> {
        self.0.stats.latency.get().map(|nanos| Duration::from_secs_f32(nanos / 1e9))
    }

    #[inline]
    pub(crate) fn stats(&self) -> &Arc<Stats> {
        &self.0.stats
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
