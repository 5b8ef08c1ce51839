use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use switchboard_core::Instance;

use crate::candidate::Seat;

/// When a pick was made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// At this moment, in the hub's nanoseconds.
    At(u64),
    /// Latencies are learned, but not from this pick.
    Skipped,
    /// Latencies are not learned.
    Untimed,
}

/// A chosen instance, and the call made to it.
///
/// The call counts as in flight until this is dropped. Say what came of it with [`success`](Self::success) or
/// [`failure`](Self::failure); a pick dropped without a verdict (a cancelled call) counts as neither.
#[must_use = "the call counts as in flight only while the pick lives"]
pub struct Pick {
    seat: Arc<Seat>,
    started: Start,
    told: bool,
}

/// Why a call failed. A reply that says "no" for reasons of the application's own is a success: the instance works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection came about, or it broke. The registry is told too.
    Connection,
    /// No reply in time.
    Timeout,
    /// A reply that says the instance is in trouble, such as HTTP 500 or gRPC `UNAVAILABLE`.
    Response,
}

impl Pick {
    #[inline]
    pub(crate) fn new(seat: &Arc<Seat>, started: Start) -> Self {
        let (seat, told) = seat.begin();
        Self { seat, started, told }
    }

    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        self.seat.instance()
    }

    /// The call went well: feeds latency (on a timed pick) and success rate.
    pub fn success(self) {
        self.judge(Ok(()));
    }

    /// The call failed: feeds latency (a failure counts as at least 1 s, so that failing fast attracts nothing),
    /// success rate and the run of failures. [`FailureKind::Connection`] is told to the registry as a
    /// [`suspect`](switchboard_core::Registry::suspect), at most once a second for each instance.
    pub fn failure(self, kind: FailureKind) {
        self.judge(Err(kind));
    }

    /// [`success`](Self::success) or [`failure`](Self::failure).
    pub fn finish(self, outcome: Result<(), FailureKind>) {
        self.judge(outcome);
    }

    fn judge(&self, outcome: Result<(), FailureKind>) {
        self.seat.hub().judge(&self.seat, self.started, outcome);
    }
}

impl Deref for Pick {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        self.seat.instance()
    }
}

impl Drop for Pick {
    #[inline]
    fn drop(&mut self) {
        self.seat.end(self.told);
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pick").field("instance", self.instance()).finish_non_exhaustive()
    }
}
