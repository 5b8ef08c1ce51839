use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;
use switchboard_core::InstanceId;

use crate::candidate::Seat;
use crate::clock::Clock;
use crate::filter::Subject;
use crate::group::Group;
use crate::hub::millis;
use crate::member::{Member, Members};
use crate::pick::Start;
use crate::stats::{Decay, FULL, Millis};
use crate::{
    Candidate, Context, FailureKind, Filter, Pick, PickError, Picker, Request, Strategy, lane, strategy,
};

/// How often a pick that is not wanted (already tried, or starting slowly) is drawn again.
const DRAWS: u32 = 4;

/// An instance is timed all the same if the lane has not timed it for so many milliseconds, or nobody ever has.
const OVERDUE: u32 = 50;

/// How many derived variants are kept; beyond that the oldest goes.
const DERIVED: usize = 64;

/// One way to pick from a group: a strategy, filters, and the picker made of them.
pub(crate) struct Variant {
    pub(crate) group: Arc<Group>,
    pub(crate) strategy: Arc<dyn Strategy>,
    pub(crate) filters: Vec<Filter>,
    timed: bool,
    decay: Decay,
    lanes: Box<[CachePadded<Lane>]>,
    panicking: AtomicBool,
    /// Variants made of this one for single calls, oldest first.
    derived: Mutex<VecDeque<Arc<Variant>>>,
}

/// What picks on one lane write, besides the candidates.
struct Lane {
    current: ArcSwap<Current>,
    turn: AtomicU64,
    clock: Clock,
}

/// What a pick reads: made whole, swapped whole.
struct Current {
    /// `None` when there is nobody to pick.
    picker: Option<Arc<dyn Picker>>,
    /// As the lane sees them.
    candidates: Box<[Candidate]>,
    /// Whether some get less than their share, to the advantage of others.
    ramping: bool,
    /// Why there may be nobody to pick.
    heard: bool,
    known: usize,
    unhealthy: usize,
    filtered: usize,
}

/// Which members take part, and why the others do not.
pub(crate) struct Selection {
    /// Indices of the members to pick from.
    pub(crate) usable: Vec<usize>,
    /// For each filter, those it took out.
    pub(crate) filtered: Vec<Vec<usize>>,
    pub(crate) unhealthy: usize,
    /// So many are ejected that all are used.
    pub(crate) panic: bool,
}

impl Variant {
    pub(crate) fn new(group: Arc<Group>, strategy: Arc<dyn Strategy>, filters: Vec<Filter>) -> Arc<Self> {
        let lane = |_| CachePadded::new(Lane::new());
        let variant = Arc::new(Self {
            timed: strategy.needs_latency(),
            decay: group.hub.decay,
            lanes: (0..lane::count()).map(lane).collect(),
            panicking: AtomicBool::new(false),
            derived: Mutex::default(),
            group,
            strategy,
            filters,
        });
        variant.group.attach(&variant);
        variant
    }

    /// The variant with this strategy and these filters besides, made once for equal ones.
    pub(crate) fn derive(&self, strategy: Option<&Arc<dyn Strategy>>, more: &[Filter]) -> Arc<Self> {
        let strategy = strategy.unwrap_or(&self.strategy);
        let (own, all) = (self.filters.len(), self.filters.len() + more.len());
        let wanted = |variant: &Self| {
            variant.filters.len() == all
                && variant.filters[own..] == *more
                && strategy::same(&variant.strategy, strategy)
        };
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = derived.iter().find(|variant| wanted(variant)) {
            return found.clone();
        }
        let filters = self.filters.iter().chain(more).cloned().collect();
        let variant = Self::new(self.group.clone(), strategy.clone(), filters);
        if derived.len() == DERIVED {
            derived.pop_front();
        }
        derived.push_back(variant.clone());
        variant
    }

    #[inline]
    pub(crate) fn pick(&self, request: &Request<'_>) -> Result<Pick, PickError> {
        let lane = &self.lanes[lane::current()];
        let current = lane.current.load();
        let Some(picker) = &current.picker else {
            return Err(self.nothing(&current));
        };
        let candidates = &*current.candidates;
        let (started, now) =
            if self.timed { lane.clock.read(&self.group.hub) } else { (Start::Untimed, Millis(0)) };
        let context = Context { key: request.key, turn: &lane.turn, now, decay: self.decay };
        let mut index = wrap(picker.pick(candidates, &context), candidates.len());
        if current.ramping || !request.avoid.is_empty() {
            index = settle(&current, &**picker, candidates, index, request, context);
        }
        let seat = candidates[index].seat();
        let started = if self.timed { self.time(seat, started, now) } else { started };
        Ok(Pick::new(seat, started))
    }

    /// Times the pick of `seat`, which may do without only if enough is known of it.
    #[inline]
    fn time(&self, seat: &Seat, started: Start, now: Millis) -> Start {
        let skipped = matches!(started, Start::Skipped);
        if skipped && seat.unpicked_for(now) < OVERDUE && !seat.stats().latency().is_unknown() {
            return started;
        }
        let nanos = match started {
            Start::At(nanos) => nanos,
            _ => self.group.hub.nanos(),
        };
        seat.note_picked(millis(nanos));
        Start::At(nanos)
    }

    #[cold]
    fn nothing(&self, current: &Current) -> PickError {
        let service = self.group.hub.service.clone();
        match *current {
            Current { heard: false, .. } => PickError::NotHeard { service },
            Current { known: 0, .. } => PickError::NotFound { service },
            Current { known, unhealthy, filtered, .. } => {
                PickError::NoneUsable { service, known, unhealthy, filtered }
            }
        }
    }

    /// Takes in what came of a call to the instance with this id, if it is among those to pick from.
    pub(crate) fn mark(&self, id: &InstanceId, outcome: Result<(), FailureKind>) -> bool {
        let current = self.lanes[lane::current()].current.load();
        let candidates = &current.candidates;
        let found = candidates.binary_search_by(|candidate| candidate.instance().id().cmp(id));
        if let Ok(index) = found {
            self.group.hub.judge(candidates[index].seat(), Start::Untimed, outcome);
        }
        found.is_ok()
    }

    pub(crate) fn select(&self, members: &[Member]) -> Selection {
        let mut usable: Vec<usize> = (0..members.len()).filter(|&at| members[at].is_healthy()).collect();
        let unhealthy = members.len() - usable.len();
        let look = |at: usize| Subject { instance: &members[at].instance, ejected: members[at].is_ejected() };
        let mut filtered = Vec::with_capacity(self.filters.len());
        for filter in &self.filters {
            let before = usable.clone();
            filter.apply(&mut usable, look);
            filtered.push(before.into_iter().filter(|at| usable.binary_search(at).is_err()).collect());
        }
        let ejected = usable.iter().filter(|&&at| members[at].is_ejected()).count();
        #[allow(clippy::cast_precision_loss)] // counts of instances
        let too_many = ejected as f64 > self.group.settings.panic_threshold * usable.len() as f64;
        let panic = ejected > 0 && (too_many || ejected == usable.len());
        if !panic {
            usable.retain(|&at| !members[at].is_ejected());
        }
        Selection { usable, filtered, unhealthy, panic }
    }

    /// Makes the picker anew. Called with the group's state locked, so the latest to come is the latest to be stored.
    pub(crate) fn rebuild(&self, members: &Members) {
        let list = members.list();
        let Selection { usable, filtered, unhealthy, panic } = self.select(list);
        let hub = &self.group.hub;
        if self.panicking.swap(panic, Relaxed) != panic {
            if panic {
                hub.telemetry.panicked();
                tracing::warn!(service = %hub.service, "too many instances are ejected; all are used");
            } else {
                tracing::info!(service = %hub.service, "few enough instances are ejected; they are left out again");
            }
        }
        let share = |&at: &usize| list[at].stats.ramp.load(Relaxed);
        let ramping = self.strategy.allows_slow_start()
            && usable.iter().any(|at| share(at) < FULL)
            && usable.iter().any(|at| share(at) == FULL);
        let filtered = filtered.iter().map(Vec::len).sum();
        let on = |lane: usize| usable.iter().map(|&at| list[at].lanes[lane].clone()).collect();
        let lists: Vec<Box<[Candidate]>> = (0..lane::count()).map(on).collect();
        let picker: Option<Arc<dyn Picker>> =
            (!usable.is_empty()).then(|| self.strategy.picker(&lists[0]).into());
        let current = |candidates| {
            let (heard, known) = (members.is_heard(), list.len());
            Arc::new(Current {
                picker: picker.clone(),
                candidates,
                ramping,
                heard,
                known,
                unhealthy,
                filtered,
            })
        };
        let lanes = self.lanes.iter().zip(lists);
        // The old ones are dropped when all lanes have the new: that takes longer than swapping.
        let old: Vec<Arc<Current>> = lanes.map(|(lane, list)| lane.current.swap(current(list))).collect();
        drop(old);
    }
}

impl Lane {
    fn new() -> Self {
        Self {
            current: ArcSwap::from_pointee(Current::nothing()),
            turn: AtomicU64::new(fastrand::u32(..).into()),
            clock: Clock::new(),
        }
    }
}

impl Current {
    fn nothing() -> Self {
        Self {
            picker: None,
            candidates: Box::new([]),
            ramping: false,
            heard: false,
            known: 0,
            unhealthy: 0,
            filtered: 0,
        }
    }
}

/// A picker of someone else's may say anything.
#[inline]
fn wrap(index: usize, count: usize) -> usize {
    if index < count { index } else { index % count }
}

/// Draws again while the one drawn was tried before or is to get less than its share; takes any untried one in the end.
#[cold]
fn settle(
    current: &Current,
    picker: &dyn Picker,
    candidates: &[Candidate],
    mut index: usize,
    request: &Request<'_>,
    mut context: Context<'_>,
) -> usize {
    let tried = |index: usize| request.avoid.contains(candidates[index].instance().id());
    let turned_down = |index: usize| {
        let share = candidates[index].seat().stats().ramp.load(Relaxed);
        share < FULL && fastrand::u32(..FULL) >= share
    };
    for _ in 0..DRAWS {
        if !(tried(index) || current.ramping && turned_down(index)) {
            return index;
        }
        // The same key would find the same instance.
        context.key = context.key.map(|key| key.rotate_left(29).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        index = wrap(picker.pick(candidates, &context), candidates.len());
    }
    let others = (index..candidates.len()).chain(0..index);
    others.into_iter().find(|&index| !tried(index)).unwrap_or(index)
}

impl fmt::Debug for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variant")
            .field("service", &self.group.hub.service)
            .field("strategy", &self.strategy)
            .field("filters", &self.filters)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
    use switchboard_watcher::Directory;

    use super::*;
    use crate::{LeastRequest, Selector};

    #[tokio::test]
    async fn other_lanes_are_told_of_picks_and_of_their_end() {
        let registry = MemoryRegistry::new();
        for id in ["1", "2"] {
            let instance = Instance::builder("a").id(id).address("127.0.0.1:80").build().unwrap();
            registry.register(&instance, &RegisterOptions::new()).await.unwrap();
        }
        let selector = Selector::builder(Directory::new(registry)).strategy(LeastRequest).build();
        let balancer = selector.service("a").unwrap();
        balancer.ready().await.unwrap();
        let told = || {
            let state = balancer.variant.group.state();
            let list = state.members.list();
            list.iter().map(|member| member.stats.in_flight.load(Relaxed)).collect::<Vec<_>>()
        };
        let picks: Vec<Pick> = (0..10).map(|_| balancer.pick().unwrap()).collect();
        assert_eq!(told(), [4, 4]);
        // Wherever they end.
        std::thread::spawn(|| drop(picks)).join().unwrap();
        assert_eq!(told(), [0, 0]);
    }
}
