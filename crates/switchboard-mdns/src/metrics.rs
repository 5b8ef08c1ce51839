//! What is measured of mDNS; `docs/observability.md` tells of it.

use switchboard_core::metrics::{Counter, Metric};

const RESTARTS: Metric = Metric::new(
    "switchboard.mdns.restarts",
    "Times the thread that speaks mDNS ended by itself and another took its place.",
);
const RENAMES: Metric =
    Metric::new("switchboard.mdns.renames", "Instances announced under another label, as theirs was taken.");

pub(crate) struct Metrics {
    pub(crate) restarts: Counter,
    pub(crate) renames: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self { restarts: RESTARTS.counter(&[]), renames: RENAMES.counter(&[]) }
    }
}
