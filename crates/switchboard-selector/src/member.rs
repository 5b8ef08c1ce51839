use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use switchboard_core::{Instance, Snapshot};
use tokio::time::Instant;

use crate::hub::Hub;
use crate::outlier::{OutlierDetection, Tally};
use crate::slow_start::SlowStart;
use crate::stats::{FULL, Stats};
use crate::{Candidate, lane};

/// One instance of the current snapshot, with what is known of it besides.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) instance: Arc<Instance>,
    pub(crate) stats: Arc<Stats>,
    /// What the strategies see, one for each lane; none until [`Members::sync`] ends.
    pub(crate) lanes: Vec<Candidate>,
    pub(crate) ejected_until: Option<Instant>,
    /// How often it was ejected, less one for each good interval since.
    pub(crate) ejections: u32,
    /// Since when it has been starting slowly.
    starting: Option<Instant>,
}

impl Member {
    fn new(instance: &Arc<Instance>, stats: Arc<Stats>) -> Self {
        Self {
            instance: instance.clone(),
            lanes: Vec::with_capacity(lane::count()),
            stats,
            ejected_until: None,
            ejections: 0,
            starting: None,
        }
    }

    /// The same instance after its registration changed. At other addresses it is another server: all is forgotten.
    fn succeed(self, instance: &Arc<Instance>, hub: &Arc<Hub>) -> Self {
        if self.instance.addresses() != instance.addresses() {
            return Self::new(instance, Arc::new(Stats::new(hub)));
        }
        let Self { stats, ejected_until, ejections, starting, .. } = self;
        Self { ejected_until, ejections, starting, ..Self::new(instance, stats) }
    }

    /// Whether the registry lets it be used.
    pub(crate) fn is_healthy(&self) -> bool {
        self.instance.effective_weight() > 0
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected_until.is_some()
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.lanes.iter().map(|candidate| candidate.seat().open().max(0).unsigned_abs()).sum()
    }

    /// The verdicts since this was last called.
    fn take_tally(&self) -> Tally {
        self.lanes.iter().map(|candidate| candidate.seat().take_tally()).fold(Tally::default(), Tally::plus)
    }

    fn start_slowly(&mut self, slow: Option<SlowStart>, now: Instant) {
        if let Some(slow) = slow {
            self.starting = Some(now);
            self.stats.ramp.store(slow.share(Duration::ZERO), Relaxed);
        }
    }
}

/// The instances of the current snapshot, sorted by id.
#[derive(Debug, Default)]
pub(crate) struct Members {
    list: Vec<Member>,
    snapshot: Option<Snapshot>,
}

impl Members {
    pub(crate) fn list(&self) -> &[Member] {
        &self.list
    }

    /// Whether the registry has been heard.
    pub(crate) fn is_heard(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Takes over `snapshot`, keeping what is known of unchanged instances. Returns whether anything changed.
    pub(crate) fn sync(
        &mut self,
        snapshot: Option<Snapshot>,
        hub: &Arc<Hub>,
        slow: Option<SlowStart>,
        now: Instant,
    ) -> bool {
        if self.snapshot == snapshot {
            return false;
        }
        let slow = if self.list.is_empty() { None } else { slow };
        let mut old = std::mem::take(&mut self.list).into_iter().peekable();
        let instances = snapshot.as_ref().map_or(&[][..], Snapshot::all);
        self.list.reserve_exact(instances.len());
        for instance in instances {
            while old.next_if(|member| member.instance.id() < instance.id()).is_some() {}
            let member = match old.next_if(|member| member.instance.id() == instance.id()) {
                Some(same) if Arc::ptr_eq(&same.instance, instance) || same.instance == *instance => same,
                Some(changed) => {
                    let (was_healthy, moved) =
                        (changed.is_healthy(), changed.instance.addresses() != instance.addresses());
                    let mut member = changed.succeed(instance, hub);
                    if moved || !was_healthy && member.is_healthy() {
                        member.start_slowly(slow, now);
                    }
                    member
                }
                None => {
                    let mut member = Member::new(instance, Arc::new(Stats::new(hub)));
                    member.start_slowly(slow, now);
                    member
                }
            };
            self.list.push(member);
        }
        // Lane by lane: side by side in memory are those that one thread picks from.
        let mut new: Vec<&mut Member> =
            self.list.iter_mut().filter(|member| member.lanes.is_empty()).collect();
        for _ in 0..lane::count() {
            for member in &mut new {
                member.lanes.push(Candidate::new(member.instance.clone(), member.stats.clone()));
            }
        }
        self.snapshot = snapshot;
        true
    }

    /// Ejects who has failed too often in a row. Returns whether anyone was.
    pub(crate) fn eject_failing(&mut self, detection: &OutlierDetection, hub: &Hub, now: Instant) -> bool {
        if detection.consecutive == 0 {
            return false;
        }
        let failing = |member: &Member| member.stats.consecutive.load(Relaxed) >= detection.consecutive;
        let failing: Vec<usize> = (0..self.list.len()).filter(|&at| failing(&self.list[at])).collect();
        self.eject(failing, "consecutive failures", detection, hub, now)
    }

    /// Ends an interval: ejects by rate, and forgives. Returns whether anyone was ejected.
    pub(crate) fn sweep(&mut self, detection: &OutlierDetection, hub: &Hub, now: Instant) -> bool {
        let tallies: Vec<Tally> = self.list.iter().map(Member::take_tally).collect();
        for member in self.list.iter_mut().filter(|member| !member.is_ejected()) {
            member.ejections = member.ejections.saturating_sub(1);
        }
        self.eject(detection.outliers(&tallies), "success rate", detection, hub, now)
    }

    fn eject(
        &mut self,
        which: Vec<usize>,
        why: &'static str,
        detection: &OutlierDetection,
        hub: &Hub,
        now: Instant,
    ) -> bool {
        let mut ejected = self.list.iter().filter(|member| member.is_ejected()).count();
        let before = ejected;
        for at in which {
            let all = self.list.len();
            let member = &mut self.list[at];
            if member.is_ejected() || !detection.allows(ejected, all) {
                continue;
            }
            ejected += 1;
            member.ejections = member.ejections.saturating_add(1);
            let lasts = detection.lasts(member.ejections);
            member.ejected_until = Some(now + lasts);
            member.starting = None;
            member.stats.ramp.store(FULL, Relaxed);
            member.stats.consecutive.store(0, Relaxed);
            hub.telemetry.ejected();
            tracing::warn!(service = %hub.service, instance = %member.instance.id(), why, ?lasts, "instance ejected");
        }
        ejected > before
    }

    /// Lets those back whose time is over, on trial and slowly. Returns whether anyone came.
    pub(crate) fn readmit(
        &mut self,
        detection: &OutlierDetection,
        slow: Option<SlowStart>,
        hub: &Hub,
        now: Instant,
    ) -> bool {
        let mut any = false;
        for member in &mut self.list {
            if member.ejected_until.is_some_and(|until| until <= now) {
                any = true;
                member.ejected_until = None;
                member.stats.consecutive.store(detection.consecutive.saturating_sub(1), Relaxed);
                member.start_slowly(slow, now);
                hub.telemetry.returned();
                tracing::info!(service = %hub.service, instance = %member.instance.id(), "instance returns from ejection");
            }
        }
        any
    }

    /// Brings the shares of those that start slowly up to date. Returns whether one has arrived.
    pub(crate) fn ramp(&mut self, slow: SlowStart, now: Instant) -> bool {
        let mut arrived = false;
        for member in &mut self.list {
            if let Some(since) = member.starting {
                let share = slow.share(now.duration_since(since));
                member.stats.ramp.store(share, Relaxed);
                if share == FULL {
                    member.starting = None;
                    arrived = true;
                }
            }
        }
        arrived
    }

    pub(crate) fn is_anyone_starting(&self) -> bool {
        self.list.iter().any(|member| member.starting.is_some())
    }

    pub(crate) fn next_return(&self) -> Option<Instant> {
        self.list.iter().filter_map(|member| member.ejected_until).min()
    }

    /// Forgets all that was learned.
    pub(crate) fn reset(&mut self) {
        for member in &mut self.list {
            member.stats.reset();
            member.take_tally();
            member.ejected_until = None;
            member.ejections = 0;
            member.starting = None;
        }
    }
}
