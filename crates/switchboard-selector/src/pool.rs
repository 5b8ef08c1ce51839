use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;

use crate::hub::Hub;
use crate::measured::Nanos;
use crate::member::{Member, Members, Stage};
use crate::selection::Selection;
use crate::slow_start::FULL;
use crate::{Candidate, Context, Filter, Pick, PickError, Picker, Request, Strategy};

/// So often it is drawn while nobody is found who was not tried before and is to get the pick.
const DRAWS: u32 = 4;

/// One way to pick from the members of a group: a strategy, filters, and the pickers made of them.
pub(crate) struct Pool {
    pub(crate) strategy: Arc<dyn Strategy>,
    pub(crate) filters: Vec<Filter>,
    hub: Arc<Hub>,
    /// What a pick reads: made whole, swapped whole.
    current: ArcSwap<Result<Current, PickError>>,
    /// Turns of those near and far.
    turns: [CachePadded<AtomicU64>; 2],
    panicking: AtomicBool,
}

/// Whom to pick from.
struct Current {
    near: Part,
    /// Who gets the picks that a zone with too few instances cannot take.
    far: Option<Part>,
    near_share: u32,
}

struct Part {
    picker: Box<dyn Picker>,
    candidates: Box<[Candidate]>,
    /// Whether some get less than their due, to the advantage of others here or in the other part.
    restricted: bool,
    /// Whether those that start get less than others here.
    slow_start: bool,
}

impl Pool {
    pub(crate) fn new(hub: Arc<Hub>, strategy: Arc<dyn Strategy>, filters: Vec<Filter>) -> Self {
        // At random, so that clients that start together do not all begin with one instance.
        let turns = [(); 2].map(|()| CachePadded::new(AtomicU64::new(fastrand::u32(..).into())));
        let current = ArcSwap::from_pointee(Err(PickError::NotHeard { service: hub.service.clone() }));
        Self { strategy, filters, hub, current, turns, panicking: AtomicBool::new(false) }
    }

    #[inline]
    pub(crate) fn pick(&self, request: &Request<'_>) -> Result<Pick, PickError> {
        let current = self.current.load();
        let Current { near, far, near_share } = match current.as_ref() {
            Ok(current) => current,
            Err(error) => {
                self.hub.metrics.no_pick(error);
                return Err(error.clone());
            }
        };
        let now = self.hub.now();
        let context = |turn| Context { key: request.key, turn, now };
        let is_near_passed_over = far.is_some() && near.is_passed_over(request, *near_share);
        let nearby = || near.choose(request, context(&self.turns[0]), true);
        let chosen = if is_near_passed_over { None } else { nearby() };
        let chosen = chosen
            .or_else(|| far.as_ref()?.choose(request, context(&self.turns[1]), true))
            .unwrap_or_else(|| far.as_ref().unwrap_or(near).any(request, context(&self.turns[0])));
        Ok(Pick::new(chosen.clone(), now))
    }

    /// Whether there is somebody that `request` does not avoid.
    pub(crate) fn has_other(&self, request: &Request<'_>) -> bool {
        let current = self.current.load();
        let Ok(Current { near, far, .. }) = current.as_ref() else { return false };
        let mut parts = std::iter::once(near).chain(far);
        parts.any(|part| part.candidates.iter().any(|candidate| !request.avoids(candidate)))
    }

    /// Makes the pickers anew. Called with the members locked, so the latest to come is the latest to be stored.
    pub(crate) fn rebuild(&self, members: &Members) {
        let list = &members.list;
        let selection = Selection::of(list, &self.filters, self.hub.settings.panic_threshold);
        self.tell_panic(selection.panic);
        let usable = || selection.near.iter().chain(&selection.far).map(|&at| &list[at]);
        // If all of them get less than their due, none does; but nobody is on trial for want of others that merely start.
        let is_tried = |member: &Member| member.stage == Stage::OnTrial;
        let restricted = usable().any(|member| !member.is_unrestricted())
            && usable().any(Member::is_unrestricted)
            || usable().any(is_tried) && !usable().all(is_tried);
        let part = |chosen: &[usize]| (!chosen.is_empty()).then(|| self.part(list, chosen, restricted));
        let service = self.hub.service.clone();
        let current = match part(&selection.near) {
            Some(near) => Ok(Current { near, far: part(&selection.far), near_share: selection.near_share }),
            None if members.snapshot.is_none() => Err(PickError::NotHeard { service }),
            None if list.is_empty() => Err(PickError::NotFound { service }),
            None => {
                let (known, filtered) = (list.len(), selection.filtered.len());
                // If all others were ejected, they would be used.
                Err(PickError::NoneUsable { service, known, unhealthy: known - filtered, filtered })
            }
        };
        self.current.store(Arc::new(current));
    }

    fn part(&self, members: &[Member], chosen: &[usize], restricted: bool) -> Part {
        let candidates: Box<[Candidate]> = chosen.iter().map(|&at| members[at].candidate.clone()).collect();
        let picker = self.strategy.picker(&candidates);
        let full = chosen.iter().filter(|&&at| members[at].is_unrestricted()).count();
        // Where all are starting, what the part gets in all has been cut already.
        let slow_start = self.strategy.allows_slow_start() && full > 0;
        Part { picker, candidates, restricted, slow_start }
    }

    fn tell_panic(&self, panic: bool) {
        let service = &self.hub.service;
        match (self.panicking.swap(panic, Relaxed), panic) {
            (false, true) => {
                self.hub.metrics.panics.count();
                tracing::warn!(%service, "too many instances are ejected; all are used");
            }
            (true, false) => {
                tracing::info!(%service, "few enough instances are ejected; they are left out again");
            }
            _ => {}
        }
    }
}

impl Part {
    /// Whether this pick is one of those that a zone cannot take, or a retry that has tried all that it has. Requests of one
    /// key agree.
    fn is_passed_over(&self, request: &Request<'_>, share: u32) -> bool {
        let bits = request.key.map_or_else(|| fastrand::u64(..), mixed);
        (bits >> 48) >= u64::from(share) || self.candidates.iter().all(|candidate| request.avoids(candidate))
    }

    /// The chosen one. `None` if those that were drawn were tried before, are to get less, or are silent, if that counts.
    #[inline]
    fn choose(
        &self,
        request: &Request<'_>,
        mut context: Context<'_>,
        silence_counts: bool,
    ) -> Option<&Candidate> {
        for _ in 0..DRAWS {
            let index = self.picker.pick(&self.candidates, &context);
            // A picker of someone else's may say anything.
            let index = if index < self.candidates.len() { index } else { index % self.candidates.len() };
            let candidate = &self.candidates[index];
            let is_admitted = || !self.restricted || self.is_admitted(candidate, request, context.now);
            let is_silent = || silence_counts && candidate.stats().is_silent(context.now);
            if !request.avoids(candidate) && !is_silent() && is_admitted() {
                return Some(candidate);
            }
            // The same key would find the same instance.
            context.key = context.key.map(mixed);
        }
        None
    }

    /// Somebody at all: not tried before, not on trial and not silent, if there is such a one.
    #[cold]
    fn any(&self, request: &Request<'_>, context: Context<'_>) -> &Candidate {
        let from = fastrand::usize(..self.candidates.len());
        let all = || self.candidates[from..].iter().chain(&self.candidates[..from]);
        let untried = || all().filter(|candidate| !request.avoids(candidate));
        let is_full = |candidate: &&Candidate| !candidate.stats().is_on_trial();
        let found =
            untried().find(|candidate| is_full(candidate) && !candidate.stats().is_silent(context.now));
        // Where all are silent, it is as it always is.
        let found = found.or_else(|| self.choose(request, context, false));
        let found = found.or_else(|| untried().find(is_full)).or_else(|| untried().next());
        found.unwrap_or(&self.candidates[from])
    }

    /// By the share that it has of its due; on trial, if this call may be the one that tries it, which one that was tried elsewhere
    /// is not.
    #[cold]
    fn is_admitted(&self, candidate: &Candidate, request: &Request<'_>, now: Nanos) -> bool {
        match candidate.stats().share.load(Relaxed) {
            0 => request.avoid.is_empty() && candidate.stats().try_it(now),
            share => !self.slow_start || fastrand::u32(..FULL) < share,
        }
    }
}

/// Another key, the same for the same one.
fn mixed(key: u64) -> u64 {
    key.rotate_left(29).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
