//! What is measured of a registration; `docs/observability.md` tells of it.

use switchboard_core::metrics::{Counter, Level, Metric};
use switchboard_core::{Result, ServiceName};

use crate::Status;
use crate::calls::Taken;

const REGISTRATIONS: Metric =
    Metric::new("switchboard.registrar.registrations", "Instances kept registered, by how that stands.");
const RENEWALS: Metric =
    Metric::new("switchboard.registrar.renewals", "Registrations and renewals tried, by what came of them.");

pub(crate) struct Metrics {
    registrations: [(&'static str, Level); 6],
    success: Counter,
    failure: Counter,
}

impl Metrics {
    pub(crate) fn new(service: &ServiceName) -> Self {
        let service = ("service", service.as_str());
        let renewals = |outcome| RENEWALS.counter(&[service, ("outcome", outcome)]);
        let registrations = ["registering", "registered", "read_only", "failing", "withdrawn", "closed"]
            .map(|status| (status, REGISTRATIONS.level(&[service, ("status", status)])));
        Self { registrations, success: renewals("success"), failure: renewals("failure") }
    }

    /// Tells how the registration stands; stopped, it is none any more.
    pub(crate) fn stands(&self, status: &Status) {
        for (name, level) in &self.registrations {
            level.set((*name == status.name()).into());
        }
    }

    pub(crate) fn tried(&self, tried: &Result<Taken>) {
        match tried {
            Ok(Taken::Here) => self.success.count(),
            Ok(Taken::Elsewhere(_)) => {}
            Err(_) => self.failure.count(),
        }
    }
}
