//! Counters through the `metrics` facade, with the feature of that name; without it these are nothing.
//!
//! | counter | labels | counts |
//! |---|---|---|
//! | `switchboard_calls_total` | `service`, `outcome` (`success`, `connection`, `timeout`, `response`, `abandoned`) | verdicts, and calls given up after longer than usual |
//! | `switchboard_ejections_total` | `service` | instances ejected |
//! | `switchboard_returns_total` | `service` | instances back from ejection |
//! | `switchboard_panics_total` | `service` | times the panic threshold was passed |

use switchboard_core::ServiceName;

use crate::FailureKind;

#[cfg(feature = "metrics")]
#[derive(Clone)]
pub(crate) struct Telemetry {
    success: metrics::Counter,
    connection: metrics::Counter,
    timeout: metrics::Counter,
    response: metrics::Counter,
    abandoned: metrics::Counter,
    ejections: metrics::Counter,
    returns: metrics::Counter,
    panics: metrics::Counter,
}

#[cfg(feature = "metrics")]
impl Telemetry {
    /// Registers with the recorder installed at this moment, so that counting is one addition.
    pub(crate) fn new(service: &ServiceName) -> Self {
        let service = service.to_string();
        let calls = |outcome: &'static str| metrics::counter!("switchboard_calls_total", "service" => service.clone(), "outcome" => outcome);
        Self {
            success: calls("success"),
            connection: calls("connection"),
            timeout: calls("timeout"),
            response: calls("response"),
            abandoned: calls("abandoned"),
            ejections: metrics::counter!("switchboard_ejections_total", "service" => service.clone()),
            returns: metrics::counter!("switchboard_returns_total", "service" => service.clone()),
            panics: metrics::counter!("switchboard_panics_total", "service" => service.clone()),
        }
    }

    pub(crate) fn verdict(&self, outcome: Result<(), FailureKind>) {
        match outcome {
            Ok(()) => &self.success,
            Err(FailureKind::Connection) => &self.connection,
            Err(FailureKind::Timeout) => &self.timeout,
            Err(FailureKind::Response) => &self.response,
        }
        .increment(1);
    }

    pub(crate) fn abandoned(&self) {
        self.abandoned.increment(1);
    }

    pub(crate) fn ejected(&self) {
        self.ejections.increment(1);
    }

    pub(crate) fn returned(&self) {
        self.returns.increment(1);
    }

    pub(crate) fn panicked(&self) {
        self.panics.increment(1);
    }
}

#[cfg(feature = "metrics")]
impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

#[cfg(not(feature = "metrics"))]
#[derive(Clone, Debug)]
pub(crate) struct Telemetry;

#[cfg(not(feature = "metrics"))]
#[allow(clippy::unused_self)] // the same shape as with the feature
impl Telemetry {
    pub(crate) fn new(_: &ServiceName) -> Self {
        Self
    }

    pub(crate) fn verdict(&self, _: Result<(), FailureKind>) {}

    pub(crate) fn abandoned(&self) {}

    pub(crate) fn ejected(&self) {}

    pub(crate) fn returned(&self) {}

    pub(crate) fn panicked(&self) {}
}
