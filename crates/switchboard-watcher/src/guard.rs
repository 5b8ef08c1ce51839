use std::time::Duration;

use switchboard_core::{Health, Instance, Snapshot};
use tokio::time::Instant;

use crate::HeldBack;
use switchboard_core::time::later;

/// When to hold back an update that takes most of a service away at once, and for how long.
///
/// Such an update is more often the registry's trouble than the service's. While it is held, calls to instances that
/// are really gone fail; that is the price, so it is off unless asked for. An update that no longer takes too much
/// ends the hold at once, and the deadline ends it whatever comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MassRemoval {
    fraction: f64,
    hold: Duration,
}

impl MassRemoval {
    /// Holds back, for at most `hold`, an update in which more than `fraction` (0 to 1) of the usable instances are
    /// gone or no longer usable. Eureka protects itself likewise, at 0.15.
    pub fn more_than(fraction: f64, hold: Duration) -> Self {
        Self { fraction: fraction.clamp(0.0, 1.0), hold }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Guard {
    rule: Option<MassRemoval>,
    held: Option<(Snapshot, HeldBack)>,
}

impl Guard {
    pub(crate) fn new(rule: Option<MassRemoval>) -> Self {
        Self { rule, held: None }
    }

    /// The snapshot to show, or `None` while `newer` is held back.
    pub(crate) fn admit(
        &mut self,
        current: Option<&Snapshot>,
        newer: Snapshot,
        now: Instant,
    ) -> Option<Snapshot> {
        let Some((rule, current)) = self.rule.zip(current) else { return Some(newer) };
        let removed = removed(current, &newer);
        #[allow(clippy::cast_precision_loss)] // counts of instances are far below 2^52
        let too_much = removed as f64 > rule.fraction * current.healthy().count() as f64;
        if !too_much {
            self.held = None;
            return Some(newer);
        }
        let until = self.held.as_ref().map_or_else(|| later(now, rule.hold), |(_, held)| held.until);
        if until <= now {
            self.held = None;
            return Some(newer);
        }
        self.held = Some((newer, HeldBack { removed, until }));
        None
    }

    pub(crate) fn held(&self) -> Option<HeldBack> {
        self.held.as_ref().map(|(_, held)| *held)
    }

    /// Forgets what is held back.
    pub(crate) fn forget(&mut self) {
        self.held = None;
    }

    /// The held snapshot, if its time has come.
    pub(crate) fn release(&mut self, now: Instant) -> Option<Snapshot> {
        self.held.take_if(|(_, held)| held.until <= now).map(|(snapshot, _)| snapshot)
    }
}

fn removed(current: &Snapshot, newer: &Snapshot) -> usize {
    let usable = |instance: &Instance| matches!(instance.health(), Health::Passing | Health::Warning);
    let gone =
        |instance: &&std::sync::Arc<Instance>| !newer.get(instance.id()).is_some_and(|kept| usable(kept));
    current.healthy().filter(gone).count()
}
