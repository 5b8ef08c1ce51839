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

/// Registered with the recorder installed when it is made, so that counting is one addition.
pub(crate) struct Telemetry {
    success: Counter,
    connection: Counter,
    timeout: Counter,
    response: Counter,
    pub(crate) abandoned: Counter,
    pub(crate) ejections: Counter,
    pub(crate) returns: Counter,
    pub(crate) panics: Counter,
}

impl Telemetry {
    pub(crate) fn new(service: &ServiceName) -> Self {
        let counter = |name, outcome| Counter::new(name, service, outcome);
        let calls = |outcome| counter("switchboard_calls_total", Some(outcome));
        Self {
            success: calls("success"),
            connection: calls("connection"),
            timeout: calls("timeout"),
            response: calls("response"),
            abandoned: calls("abandoned"),
            ejections: counter("switchboard_ejections_total", None),
            returns: counter("switchboard_returns_total", None),
            panics: counter("switchboard_panics_total", None),
        }
    }

    pub(crate) fn verdict(&self, outcome: Result<(), FailureKind>) {
        match outcome {
            Ok(()) => self.success.count(),
            Err(FailureKind::Connection) => self.connection.count(),
            Err(FailureKind::Timeout) => self.timeout.count(),
            Err(FailureKind::Response) => self.response.count(),
        }
    }
}

pub(crate) struct Counter(#[cfg(feature = "metrics")] metrics::Counter);

#[cfg_attr(not(feature = "metrics"), allow(clippy::unused_self))] // the same shape as with the feature
impl Counter {
    #[cfg(feature = "metrics")]
    fn new(name: &'static str, service: &ServiceName, outcome: Option<&'static str>) -> Self {
        let mut labels = vec![metrics::Label::new("service", service.to_string())];
        labels.extend(outcome.map(|outcome| metrics::Label::new("outcome", outcome)));
        Self(metrics::counter!(name, labels))
    }

    #[cfg(not(feature = "metrics"))]
    fn new(_: &'static str, _: &ServiceName, _: Option<&'static str>) -> Self {
        Self()
    }

    pub(crate) fn count(&self) {
        #[cfg(feature = "metrics")]
        self.0.increment(1);
    }
}
