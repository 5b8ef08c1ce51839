//! What is measured of a service's calls and instances; `docs/observability.md` tells of it.

use switchboard_core::metrics::{Counter, Durations, Level, Metric};
use switchboard_core::{Health, ServiceName};

use crate::{FailureKind, PickError};

const INSTANCES: Metric =
    Metric::new("switchboard.selector.instances", "Instances by what the registry says of their health.");
const EXCLUDED: Metric =
    Metric::new("switchboard.selector.excluded", "Instances that are left out for failing, by why.");
const PICKS: Metric = Metric::new("switchboard.selector.picks", "Picks, by what came of them.");
const ACTIVE: Metric = Metric::new("switchboard.selector.active_calls", "Calls in flight.");
const CALLS: Metric = Metric::new(
    "switchboard.selector.calls",
    "Calls by what came of them; abandoned: given up after longer than usual.",
);
const DURATION: Metric = Metric::new(
    "switchboard.selector.call.duration",
    "Time from the pick to the head of the answer, or to the failure.",
);
const EJECTIONS: Metric = Metric::new("switchboard.selector.ejections", "Instances ejected.");
const RETURNS: Metric = Metric::new("switchboard.selector.returns", "Instances back from ejection.");
const PANICS: Metric =
    Metric::new("switchboard.selector.panics", "Times so many instances were ejected that all are used.");

/// Made once for a service, so that a pick only adds.
pub(crate) struct Metrics {
    picked: Counter,
    not_heard: Counter,
    not_found: Counter,
    none_usable: Counter,
    active: Level,
    success: Calls,
    connection: Calls,
    timeout: Calls,
    response: Calls,
    abandoned: Calls,
    pub(crate) ejections: Counter,
    pub(crate) returns: Counter,
    pub(crate) panics: Counter,
    pub(crate) instances: [(Health, Level); 4],
    pub(crate) ejected: Level,
    pub(crate) unreachable: Level,
}

struct Calls {
    count: Counter,
    duration: Durations,
}

impl Metrics {
    pub(crate) fn new(service: &ServiceName) -> Self {
        let service = ("service", service.as_str());
        let picks = |outcome| PICKS.counter(&[service, ("outcome", outcome)]);
        let calls = |outcome| {
            let labels = [service, ("outcome", outcome)];
            Calls { count: CALLS.counter(&labels), duration: DURATION.durations(&labels) }
        };
        let excluded = |reason| EXCLUDED.level(&[service, ("reason", reason)]);
        let health = [Health::Passing, Health::Warning, Health::Critical, Health::Maintenance];
        Self {
            picked: picks("picked"),
            not_heard: picks("not_heard"),
            not_found: picks("not_found"),
            none_usable: picks("none_usable"),
            active: ACTIVE.level(&[service]),
            success: calls("success"),
            connection: calls("connection"),
            timeout: calls("timeout"),
            response: calls("response"),
            abandoned: calls("abandoned"),
            ejections: EJECTIONS.counter(&[service]),
            returns: RETURNS.counter(&[service]),
            panics: PANICS.counter(&[service]),
            instances: health
                .map(|health| (health, INSTANCES.level(&[service, ("health", &health.to_string())]))),
            ejected: excluded("ejected"),
            unreachable: excluded("unreachable"),
        }
    }

    #[inline]
    pub(crate) fn begin(&self) {
        self.picked.count();
        self.active.add(1);
    }

    #[inline]
    pub(crate) fn end(&self) {
        self.active.add(-1);
    }

    #[cold]
    pub(crate) fn no_pick(&self, error: &PickError) {
        match error {
            PickError::NotHeard { .. } => self.not_heard.count(),
            PickError::NotFound { .. } => self.not_found.count(),
            PickError::NoneUsable { .. } => self.none_usable.count(),
            // Not of a pick, but of what comes before.
            PickError::Registry(_) => {}
        }
    }

    /// Takes in a verdict, and how long the call took unless that was noted before.
    pub(crate) fn verdict(&self, outcome: Result<(), FailureKind>, took: Option<f32>) {
        let calls = match outcome {
            Ok(()) => &self.success,
            Err(FailureKind::Connection) => &self.connection,
            Err(FailureKind::Timeout) => &self.timeout,
            Err(FailureKind::Response) => &self.response,
        };
        calls.count.count();
        calls.took(took);
    }

    /// The head of an answer is there, after so long.
    pub(crate) fn answered(&self, took: f32) {
        self.success.took(Some(took));
    }

    pub(crate) fn abandoned(&self, took: f32) {
        self.abandoned.count.count();
        self.abandoned.took(Some(took));
    }
}

impl Calls {
    fn took(&self, nanos: Option<f32>) {
        if let Some(nanos) = nanos {
            self.duration.took(f64::from(nanos) / 1e9);
        }
    }
}
