use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use switchboard_core::time::later;
use switchboard_core::{Instance, Snapshot};
use tokio::time::Instant;

use crate::Candidate;
use crate::hub::Hub;
use crate::outlier::{OutlierDetection, Tally};
use crate::slow_start::SlowStart;
use crate::stats::{FULL, Stats};

/// Instances that come within this time of the first are not new: the view was not yet complete.
const BEGINNING: Duration = Duration::from_secs(5);

/// One instance of the current snapshot, with what is known of it besides.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) candidate: Candidate,
    pub(crate) ejected_until: Option<Instant>,
    /// How often it was ejected, less one for each interval since in which it had its full share.
    pub(crate) ejections: u32,
    /// Whether it has returned from ejection and no call to it has succeeded yet.
    pub(crate) on_trial: bool,
    /// Since when it has been starting slowly.
    starting: Option<Instant>,
}

impl Member {
    /// One of which nothing but this is known.
    fn of(candidate: Candidate) -> Self {
        Self { candidate, ejected_until: None, ejections: 0, on_trial: false, starting: None }
    }

    pub(crate) fn instance(&self) -> &Arc<Instance> {
        self.candidate.instance()
    }

    pub(crate) fn stats(&self) -> &Arc<Stats> {
        self.candidate.stats()
    }

    /// Whether the registry lets it be used.
    pub(crate) fn is_healthy(&self) -> bool {
        self.candidate.weight() > 0
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected_until.is_some()
    }

    /// Whether it is to get all that is its due.
    pub(crate) fn is_unrestricted(&self) -> bool {
        !self.on_trial && self.starting.is_none()
    }

    /// The part of its due that it is to get, of [`FULL`]; none while it is on trial.
    pub(crate) fn share(&self) -> u32 {
        if self.on_trial { 0 } else { self.stats().share.load(Relaxed) }
    }

    fn start_slowly(&mut self, slow: Option<SlowStart>, now: Instant) {
        if let Some(slow) = slow {
            self.starting = Some(now);
            self.stats().share.store(slow.share(Duration::ZERO), Relaxed);
        }
    }
}

/// The instances of the current snapshot, sorted by id.
#[derive(Debug, Default)]
pub(crate) struct Members {
    list: Vec<Member>,
    snapshot: Option<Snapshot>,
    /// When the first instance came.
    began: Option<Instant>,
}

impl Members {
    pub(crate) fn list(&self) -> &[Member] {
        &self.list
    }

    /// Whether the registry has been heard.
    pub(crate) fn is_heard(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Takes over `snapshot`, keeping what is known of those that are still there. Returns whether anything changed.
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
        let instances = snapshot.as_ref().map_or(&[][..], Snapshot::all);
        let began = *self.began.get_or_insert(now);
        if instances.is_empty() && self.list.is_empty() {
            self.began = None;
        }
        let slow = slow.filter(|_| !self.list.is_empty() && now.duration_since(began) > BEGINNING);
        let mut old = std::mem::take(&mut self.list).into_iter().peekable();
        self.list.reserve_exact(instances.len());
        for instance in instances {
            while old.next_if(|member| member.instance().id() < instance.id()).is_some() {}
            let known = old.next_if(|member| member.instance().id() == instance.id());
            self.list.push(match known {
                Some(member) if Arc::ptr_eq(member.instance(), instance) => member,
                Some(member) if is_same_server(member.instance(), instance) => {
                    let was_healthy = member.is_healthy();
                    let candidate = Candidate::new(instance.clone(), member.stats().clone());
                    let mut member = Member { candidate, ..member };
                    if !was_healthy && member.is_healthy() {
                        member.start_slowly(slow, now);
                    }
                    member
                }
                _ => {
                    let stats = Arc::new(Stats::new(hub));
                    let mut member = Member::of(Candidate::new(instance.clone(), stats));
                    member.start_slowly(slow, now);
                    member
                }
            });
        }
        self.snapshot = snapshot;
        true
    }

    /// Ejects who has failed too often in a row. Returns whether anyone was.
    pub(crate) fn eject_failing(&mut self, detection: &OutlierDetection, hub: &Hub, now: Instant) -> bool {
        let behind = detection.consecutive.saturating_sub(1);
        let failing = |&at: &usize| {
            let row = self.list[at].stats().row.load(Relaxed);
            // The first failure of one on trial is enough, whatever the rules.
            row > behind && (detection.consecutive > 0 || self.list[at].on_trial)
        };
        let failing: Vec<usize> = (0..self.list.len()).filter(failing).collect();
        self.eject(failing, "consecutive failures", detection, hub, now)
    }

    /// Ends an interval: ejects by rate, then forgives those that had their full share. Returns whether anyone was ejected.
    pub(crate) fn sweep(&mut self, detection: &OutlierDetection, hub: &Hub, now: Instant) -> bool {
        let tallies: Vec<Tally> = self.list.iter().map(|member| member.stats().take_tally()).collect();
        let any = self.eject(detection.outliers(&tallies), "success rate", detection, hub, now);
        for member in self.list.iter_mut().filter(|member| !member.is_ejected() && member.is_unrestricted()) {
            member.ejections = member.ejections.saturating_sub(1);
        }
        any
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
            let candidate = member.candidate.clone();
            *member = Member {
                ejected_until: Some(later(now, lasts)),
                ejections: member.ejections,
                ..Member::of(candidate)
            };
            member.stats().row.store(0, Relaxed);
            hub.telemetry.ejections.count();
            tracing::warn!(service = %hub.service, instance = %member.instance().id(), why, ?lasts, "instance ejected");
        }
        ejected > before
    }

    /// Lifts what restricts those that are out. Only when the pools know that they are: until then it keeps calls from them.
    pub(crate) fn clear_ejected(&self) {
        self.list.iter().filter(|member| member.is_ejected()).for_each(|member| member.stats().clear());
    }

    /// Lets those back whose time is over, one call at a time until one succeeds; the first failure ejects again. Returns
    /// whether anyone came.
    pub(crate) fn readmit(&mut self, detection: &OutlierDetection, hub: &Hub, now: Instant) -> bool {
        let due = |member: &&mut Member| member.ejected_until.is_some_and(|until| until <= now);
        let mut any = false;
        for member in self.list.iter_mut().filter(due) {
            any = true;
            member.ejected_until = None;
            member.on_trial = true;
            member.stats().put_on_trial(detection.consecutive.saturating_sub(1));
            hub.telemetry.returns.count();
            tracing::info!(service = %hub.service, instance = %member.instance().id(), "instance returns from ejection");
        }
        any
    }

    /// Lets those start slowly that have passed their trial. Returns whether there was one.
    pub(crate) fn pass(&mut self, slow: Option<SlowStart>, now: Instant) -> bool {
        let passed = |member: &&mut Member| member.on_trial && !member.stats().is_on_trial();
        let mut any = false;
        for member in self.list.iter_mut().filter(passed) {
            any = true;
            member.on_trial = false;
            member.start_slowly(slow, now);
        }
        any
    }

    /// Brings the shares of those that start slowly up to date. Returns whether one has arrived.
    pub(crate) fn ramp(&mut self, slow: SlowStart, now: Instant) -> bool {
        let mut arrived = false;
        for member in &mut self.list {
            let Some(since) = member.starting else { continue };
            let share = slow.share(now.duration_since(since));
            member.stats().share.store(share, Relaxed);
            if share == FULL {
                member.starting = None;
                arrived = true;
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
            member.stats().reset();
            *member = Member::of(member.candidate.clone());
        }
    }
}

/// At other addresses it is another server.
fn is_same_server(one: &Instance, other: &Instance) -> bool {
    one.addresses().iter().any(|address| other.addresses().contains(address))
}
