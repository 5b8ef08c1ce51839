//! What is measured of a service's view; `docs/observability.md` tells of it.

use switchboard_core::ServiceName;
use switchboard_core::metrics::{Counter, ENABLED, Level, Metric};

use crate::Freshness;
use crate::cell::State;

const VIEWS: Metric =
    Metric::new("switchboard.watcher.views", "Services watched, by whether the registry is heard.");
const STALE_SINCE: Metric = Metric::new(
    "switchboard.watcher.stale_since",
    "When the registry ceased to be heard; 0 while it is heard.",
);
const UPDATES: Metric =
    Metric::new("switchboard.watcher.updates", "Changes of what is known of the service.");
const OUTAGES: Metric = Metric::new("switchboard.watcher.outages", "Times the registry was heard no more.");
const RECONNECTS: Metric =
    Metric::new("switchboard.watcher.reconnects", "Times the registry was heard again after an outage.");

#[derive(Debug)]
pub(crate) struct Metrics {
    pending: Level,
    fresh: Level,
    stale: Level,
    stale_since: Level,
    updates: Counter,
    outages: Counter,
    reconnects: Counter,
}

impl Metrics {
    pub(crate) fn new(service: &ServiceName) -> Self {
        let service = ("service", service.as_str());
        let views = |state| VIEWS.level(&[service, ("state", state)]);
        let metrics = Self {
            pending: views("pending"),
            fresh: views("fresh"),
            stale: views("stale"),
            stale_since: STALE_SINCE.moment(&[service]),
            updates: UPDATES.counter(&[service]),
            outages: OUTAGES.counter(&[service]),
            reconnects: RECONNECTS.counter(&[service]),
        };
        metrics.pending.set(1);
        metrics
    }

    /// Tells how one state differs from that before.
    pub(crate) fn changed(&self, before: &State, after: &State) {
        use Freshness::{Fresh, Pending, Stale};
        if !ENABLED {
            return;
        }
        let (was, is) = (&before.status.freshness, &after.status.freshness);
        self.pending.set(matches!(is, Pending).into());
        self.fresh.set(matches!(is, Fresh).into());
        self.stale.set(matches!(is, Stale { .. }).into());
        match (was, is) {
            (Stale { .. }, Stale { .. }) => {}
            (_, Stale { since, .. }) => {
                self.stale_since.since(Some(*since));
                self.outages.count();
            }
            (Stale { .. }, Fresh) => {
                self.stale_since.since(None);
                self.reconnects.count();
            }
            _ => self.stale_since.since(None),
        }
        if after.snapshot.is_some() && after.snapshot != before.snapshot {
            self.updates.count();
        }
    }
}
