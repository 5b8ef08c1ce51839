use std::ops::Deref;
use std::sync::Arc;

use switchboard_core::Instance;

use crate::measured::Nanos;
use crate::{Candidate, FailureKind};

/// A chosen instance, and the call made to it.
///
/// The call counts as in flight until this is dropped. Say what came of it with [`success`](Self::success) or
/// [`failure`](Self::failure). A call whose answer goes on after its head, such as a stream, says when that is there with
/// [`responded`](Self::responded).
///
/// Dropped without a word, as when the caller's time-out or a lost `select!` drops the call, it is no verdict while it has
/// taken no more than twice the service's average. Beyond that the instance is taken to be at least that slow; and such
/// calls count among the failures in a row that eject it once it has answered nothing for a second.
#[derive(Debug)]
#[must_use = "the call counts as in flight only while the pick lives"]
pub struct Pick {
    candidate: Candidate,
    started: Nanos,
    /// Whether neither an answer nor a failure has been told yet.
    waiting: bool,
}

impl Pick {
    #[inline]
    pub(crate) fn new(candidate: Candidate, started: Nanos) -> Self {
        candidate.stats().begin(started);
        Self { candidate, started, waiting: true }
    }

    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        self.candidate.instance()
    }

    /// Whether the instance was ejected or could not be reached, and this call is to find out how it is now
    /// ([`OutlierDetection`](crate::OutlierDetection)): one that can go elsewhere should not wait for long.
    pub fn is_trial(&self) -> bool {
        self.candidate.stats().is_on_trial()
    }

    /// The head of the answer is here: that is how long the instance takes, whatever comes after. Dropping the pick from now
    /// on says nothing. Only the first time counts.
    pub fn responded(&mut self) {
        if std::mem::take(&mut self.waiting) {
            let (took, now) = self.took();
            let stats = self.candidate.stats();
            stats.hub.metrics.answered(took);
            stats.note_answer(Some(took), now);
        }
    }

    /// The call went well: feeds latency, unless [`responded`](Self::responded) has, and success rate.
    pub fn success(self) {
        self.finish(Ok(()));
    }

    /// The call failed: feeds latency (a failure counts as twice the slowest success of late, so that failing fast attracts
    /// nothing), success rate and the run of failures. [`FailureKind::Connection`] is told to the registry as a
    /// [`suspect`](switchboard_core::Registry::suspect), at most once a second for each instance.
    pub fn failure(self, kind: FailureKind) {
        self.finish(Err(kind));
    }

    /// The call ended for a reason that is not the instance's, such as an upload of the caller's own that broke off: it says
    /// nothing, however long it took.
    pub fn forget(mut self) {
        self.waiting = false;
    }

    /// [`success`](Self::success) or [`failure`](Self::failure).
    pub fn finish(mut self, outcome: Result<(), FailureKind>) {
        let waited = std::mem::take(&mut self.waiting);
        let (took, now) = self.took();
        self.candidate.stats().judge(self.instance(), outcome, waited.then_some(took), now);
    }

    /// How long it has taken so far, and the time.
    #[allow(clippy::cast_precision_loss)] // 24 bits are enough for a latency
    fn took(&self) -> (f32, Nanos) {
        let now = self.candidate.stats().hub.now();
        (now.saturating_sub(self.started) as f32, now)
    }
}

impl Deref for Pick {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        self.instance()
    }
}

impl Drop for Pick {
    #[inline]
    fn drop(&mut self) {
        let stats = self.candidate.stats();
        stats.end(self.started);
        if self.waiting {
            let (took, now) = self.took();
            stats.give_up(took, now);
        }
    }
}
