//! What is measured of calls beyond their attempts; `docs/observability.md` tells of it.

use switchboard_core::ServiceName;
use switchboard_core::metrics::{Counter, Metric};

const RETRIES: Metric = Metric::new("switchboard.client.retries", "Calls tried again on another instance.");
const REFUSED: Metric = Metric::new(
    "switchboard.client.retries_refused",
    "Calls not tried again because the service's budget of retries was spent.",
);

/// Made once for a service.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) retries: Counter,
    pub(crate) refused: Counter,
}

impl Metrics {
    pub(crate) fn new(service: &ServiceName) -> Self {
        let service = ("service", service.as_str());
        Self { retries: RETRIES.counter(&[service]), refused: REFUSED.counter(&[service]) }
    }
}
