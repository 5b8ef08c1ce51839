use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use switchboard_core::metrics::ENABLED;
use switchboard_core::time::later;
use switchboard_core::{Instance, Snapshot};
use tokio::time::Instant;

use crate::Candidate;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::outlier::{OutlierDetection, Tally};
use crate::slow_start::FULL;
use crate::stats::Stats;

/// Instances that come within this time of the first are not new: the view was not yet complete.
const BEGINNING: Duration = Duration::from_secs(5);

/// For how long an instance is left alone that cannot be reached; doubled each time, up to the longest. As gRPC's connection
/// backoff, but that is 1.6 and 120 s, for it tries without a call.
const ALONE: Duration = Duration::from_secs(1);
const LONGEST_ALONE: Duration = Duration::from_secs(30);

/// One that does not answer is left alone for at least so many times as long as a call has waited for it: each that finds out how
/// it is costs a caller that time.
const WAITS: u32 = 5;

/// Up to such a part of that longer.
const JITTER: f64 = 0.2;

/// One instance of the current snapshot, with what is known of it besides.
pub(crate) struct Member {
    pub(crate) candidate: Candidate,
    pub(crate) stage: Stage,
    /// How often it was ejected, less one for each interval since in which it had its full share.
    pub(crate) ejections: u32,
    /// How often it could not be reached, since an answer or an ejection.
    absences: u32,
}

/// How much an instance is trusted: from ejection over a trial and a slow start to its full share.
#[derive(PartialEq)]
pub(crate) enum Stage {
    /// Out until then.
    Ejected(Instant),
    /// Not to be reached, and left alone until then.
    Away(Instant),
    /// Back, and no call to it has succeeded yet.
    OnTrial,
    /// Starting slowly since then.
    Starting(Instant),
    Full,
}

impl Member {
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
        matches!(self.stage, Stage::Ejected(_))
    }

    pub(crate) fn is_away(&self) -> bool {
        matches!(self.stage, Stage::Away(_))
    }

    /// Whether it gets all that is its due, if anything.
    pub(crate) fn is_unrestricted(&self) -> bool {
        !matches!(self.stage, Stage::OnTrial | Stage::Starting(_))
    }

    /// The part of its due that it is to get, of [`FULL`]; none while it is on trial.
    pub(crate) fn share(&self) -> u32 {
        if self.is_unrestricted() { FULL } else { self.stats().share.load(Relaxed) }
    }

    /// Whether it has failed too often in a row. The first failure of one on trial is enough, whatever the rules.
    fn is_failing(&self, detection: &OutlierDetection) -> bool {
        let counts = detection.consecutive > 0 || self.stage == Stage::OnTrial;
        counts && self.stats().row.load(Relaxed) > detection.consecutive.saturating_sub(1)
    }

    fn eject(&mut self, why: &'static str, detection: &OutlierDetection, hub: &Hub, now: Instant) {
        (self.ejections, self.absences) = (self.ejections.saturating_add(1), 0);
        let lasts = detection.lasts(self.ejections);
        self.stage = Stage::Ejected(later(now, lasts));
        self.stats().row.store(0, Relaxed);
        hub.metrics.ejections.count();
        tracing::warn!(service = %hub.service, instance = %self.instance().id(), why, ?lasts, "instance ejected");
    }

    /// Leaves it alone if it cannot be reached. Returns whether it was not before.
    fn leave_alone(&mut self, hub: &Hub, now: Instant) -> bool {
        let may = !self.is_ejected() && !self.is_away() && hub.settings.outlier.is_some();
        if !may || !self.stats().is_unreachable() {
            return false;
        }
        // Those that died together are not to be tried together: that would take all attempts of a call.
        let jitter = 1.0 + JITTER * fastrand::f64();
        let lasts =
            (ALONE * 2_u32.pow(self.absences.min(5))).max(self.stats().waited().saturating_mul(WAITS));
        let lasts = lasts.min(LONGEST_ALONE).mul_f64(jitter);
        self.absences = self.absences.saturating_add(1);
        self.stage = Stage::Away(later(now, lasts));
        tracing::info!(service = %hub.service, instance = %self.instance().id(), ?lasts, "instance cannot be reached, and is left alone");
        true
    }

    /// Takes it on to the next stage if it is time, or its share if it starts slowly. Returns whether the stage is another.
    fn advance(&mut self, hub: &Hub, now: Instant) -> bool {
        match self.stage {
            Stage::Ejected(until) | Stage::Away(until) if until <= now => {
                if self.is_ejected() {
                    hub.metrics.returns.count();
                    tracing::info!(service = %hub.service, instance = %self.instance().id(), "instance returns from ejection");
                }
                self.stage = Stage::OnTrial;
                self.stats().put_on_trial();
                true
            }
            Stage::Away(_) if !self.stats().is_unreachable() => {
                (self.stage, self.absences) = (Stage::Full, 0);
                true
            }
            // Who was away for a moment has not begun anew.
            Stage::OnTrial if !self.stats().is_on_trial() => {
                match std::mem::take(&mut self.absences) {
                    1 => self.stage = Stage::Full,
                    _ => drop(self.start(now, hub, now)),
                }
                true
            }
            Stage::Starting(since) => self.start(since, hub, now),
            _ => false,
        }
    }

    /// Gives it the share of one that has been starting slowly since then. Returns whether that is the full one.
    fn start(&mut self, since: Instant, hub: &Hub, now: Instant) -> bool {
        let share = hub.settings.slow_start.map_or(FULL, |slow| slow.share(now.duration_since(since)));
        self.stats().share.store(share, Relaxed);
        self.stage = if share == FULL { Stage::Full } else { Stage::Starting(since) };
        share == FULL
    }
}

/// The instances of the current snapshot, sorted by id.
#[derive(Default)]
pub(crate) struct Members {
    pub(crate) list: Vec<Member>,
    /// `None` before the registry has been heard.
    pub(crate) snapshot: Option<Snapshot>,
    /// When the first instance came, unless there is none.
    began: Option<Instant>,
    /// When the interval of outlier detection ends, if there is any.
    next_sweep: Option<Instant>,
}

impl Members {
    /// Brings all up to this moment. Returns whether anything changed that picks depend on.
    pub(crate) fn refresh(&mut self, snapshot: Option<Snapshot>, hub: &Arc<Hub>, now: Instant) -> bool {
        let mut changed = self.sync(snapshot, hub, now);
        if let Some(detection) = &hub.settings.outlier {
            changed |= self.eject_failing(detection, hub, now);
        }
        for member in &mut self.list {
            changed |= member.leave_alone(hub, now) | member.advance(hub, now);
        }
        changed
    }

    /// When [`refresh`](Self::refresh) is next due by the clock.
    pub(crate) fn due(&self, hub: &Hub, now: Instant) -> Option<Instant> {
        let step = hub.settings.slow_start.map(|slow| later(now, slow.step()));
        let stages = self.list.iter().filter_map(|member| match member.stage {
            Stage::Ejected(until) | Stage::Away(until) => Some(until),
            Stage::Starting(_) => step,
            Stage::OnTrial | Stage::Full => None,
        });
        stages.chain(self.next_sweep).min()
    }

    /// Takes over `snapshot`, keeping what is known of those that are still there. Returns whether anything changed.
    fn sync(&mut self, snapshot: Option<Snapshot>, hub: &Arc<Hub>, now: Instant) -> bool {
        if self.snapshot == snapshot {
            return false;
        }
        let instances = snapshot.as_ref().map_or(&[][..], Snapshot::all);
        if self.list.is_empty() {
            self.began = Some(now);
        }
        let is_complete = self.began.is_some_and(|began| now.duration_since(began) > BEGINNING);
        let mut old = std::mem::take(&mut self.list).into_iter().peekable();
        self.list.reserve_exact(instances.len());
        for instance in instances {
            while old.next_if(|member| member.instance().id() < instance.id()).is_some() {}
            let same = |member: &Member| member.instance().id() == instance.id();
            let known = old.next_if(same).filter(|member| is_same_server(member.instance(), instance));
            let was_healthy = known.as_ref().is_some_and(Member::is_healthy);
            let mut member = match known {
                Some(member) if Arc::ptr_eq(member.instance(), instance) => member,
                Some(member) => {
                    let candidate = Candidate::new(instance.clone(), member.stats().clone());
                    Member { candidate, ..member }
                }
                None => {
                    let candidate = Candidate::new(instance.clone(), Arc::new(Stats::new(hub)));
                    Member { candidate, stage: Stage::Full, ejections: 0, absences: 0 }
                }
            };
            let is_back = !was_healthy && member.is_healthy();
            if is_complete && is_back && matches!(member.stage, Stage::Starting(_) | Stage::Full) {
                member.start(now, hub, now);
            }
            self.list.push(member);
        }
        self.snapshot = snapshot;
        true
    }

    /// Ejects who has failed too often in a row, and at the end of an interval by rate; then forgives those that had their full
    /// share. Returns whether anyone was ejected.
    fn eject_failing(&mut self, detection: &OutlierDetection, hub: &Hub, now: Instant) -> bool {
        let all = self.list.len();
        let mut ejected = self.list.iter().filter(|member| member.is_ejected()).count();
        let before = ejected;
        let in_a_row = (0..all).filter(|&at| self.list[at].is_failing(detection));
        let mut found: Vec<_> = in_a_row.map(|at| (at, "consecutive failures")).collect();
        let is_interval_over = *self.next_sweep.get_or_insert_with(|| later(now, detection.interval)) <= now;
        if is_interval_over {
            self.next_sweep = Some(later(now, detection.interval));
            let tallies: Vec<Tally> = self.list.iter().map(|member| member.stats().take_tally()).collect();
            found.extend(detection.outliers(&tallies).into_iter().map(|at| (at, "success rate")));
        }
        for (at, why) in found {
            let member = &mut self.list[at];
            if !member.is_ejected() && detection.allows(ejected, all) {
                member.eject(why, detection, hub, now);
                ejected += 1;
            }
        }
        for member in self.list.iter_mut().filter(|member| is_interval_over && member.stage == Stage::Full) {
            member.ejections = member.ejections.saturating_sub(1);
        }
        ejected > before
    }

    /// Lifts what restricts those that are out. Only when the pools know that they are: until then it keeps calls from them.
    pub(crate) fn clear_ejected(&self) {
        let out = self.list.iter().filter(|member| member.is_ejected() || member.is_away());
        out.for_each(|member| member.stats().clear());
    }

    /// Tells how many there are of each kind.
    pub(crate) fn tell(&self, metrics: &Metrics) {
        if !ENABLED {
            return;
        }
        let count = |is_one: &dyn Fn(&Member) -> bool| {
            i64::try_from(self.list.iter().filter(|member| is_one(member)).count()).unwrap_or(i64::MAX)
        };
        for (health, level) in &metrics.instances {
            level.set(count(&|member| member.instance().health() == *health));
        }
        metrics.ejected.set(count(&Member::is_ejected));
        metrics.unreachable.set(count(&Member::is_away));
    }

    /// Forgets all that was learned.
    pub(crate) fn reset(&mut self) {
        for member in &mut self.list {
            member.stats().reset();
            (member.stage, member.ejections, member.absences) = (Stage::Full, 0, 0);
        }
    }
}

/// At other addresses it is another server.
fn is_same_server(one: &Instance, other: &Instance) -> bool {
    one.addresses().iter().any(|address| other.addresses().contains(address))
}
