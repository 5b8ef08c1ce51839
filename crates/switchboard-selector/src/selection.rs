use crate::Filter;
use crate::member::{Member, Stage};
use crate::slow_start::FULL;

/// A zone keeps this many times the part of its instances that is usable: Envoy's default overprovisioning factor.
const OVERPROVISIONING: f64 = 1.4;

/// Which members take part, and why the others do not. All are indices of members, in order.
pub(crate) struct Selection<'a> {
    /// Those to pick from: of the preferred zone as long as there is one usable in it, else all.
    pub(crate) near: Vec<usize>,
    /// The usable ones of other zones, if the preferred one has too few.
    pub(crate) far: Vec<usize>,
    /// The part of the picks that goes to those near, of [`FULL`].
    pub(crate) near_share: u32,
    /// Those that the filters took out.
    pub(crate) filtered: Vec<(usize, &'a Filter)>,
    /// So many are ejected that all are used.
    pub(crate) panic: bool,
}

impl<'a> Selection<'a> {
    /// Panic, when more than `panic_threshold` of those that pass the filters and can be reached are ejected, is judged over all
    /// zones. Those that cannot be reached take part if nobody else could.
    pub(crate) fn of(members: &[Member], filters: &'a [Filter], panic_threshold: f64) -> Self {
        let (mut near, mut filtered) = pass(members, Member::is_healthy, filters);
        if near.iter().any(|&at| !members[at].is_away()) {
            near.retain(|&at| !members[at].is_away());
        }
        let ejected = near.iter().filter(|&&at| members[at].is_ejected()).count();
        #[allow(clippy::cast_precision_loss)] // counts of instances
        let too_many = ejected as f64 > panic_threshold * near.len() as f64;
        let panic = ejected > 0 && (too_many || ejected == near.len());
        near.retain(|&at| panic || !members[at].is_ejected());

        let preferred = filters.iter().rev().find_map(|filter| Some((filter, filter.zone()?)));
        let (mut far, mut near_share) = (Vec::new(), FULL);
        if let Some((filter, is_in_zone)) = preferred {
            let is_near = |at: &usize| is_in_zone(members[*at].instance());
            (near, far) = near.into_iter().partition(is_near);
            let known = pass(members, |_| true, filters).0.iter().filter(|at| is_near(at)).count();
            near_share = share(members, &near, known);
            if near.is_empty() {
                (near, far, near_share) = (far, near, FULL);
            } else if near_share == FULL && near.iter().all(|&at| members[at].is_unrestricted()) {
                // Nobody gets less than is due, so nobody else needs to take the rest.
                filtered.extend(far.drain(..).map(|at| (at, filter)));
            }
        }
        Self { near, far, near_share, filtered, panic }
    }
}

/// Those that pass the filters, of those that `is_one` says, and those that the filters took out.
fn pass<'a>(
    members: &[Member],
    is_one: impl Fn(&Member) -> bool,
    filters: &'a [Filter],
) -> (Vec<usize>, Vec<(usize, &'a Filter)>) {
    let mut left: Vec<usize> = (0..members.len()).filter(|&at| is_one(&members[at])).collect();
    let mut out = Vec::new();
    for filter in filters {
        let before = left.clone();
        filter.apply(&mut left, |at| members[at].instance());
        let is_out = |at: &usize| left.binary_search(at).is_err();
        out.extend(before.into_iter().filter(is_out).map(|at| (at, filter)));
    }
    (left, out)
}

/// What those near can take. Some of the calls of one on trial are tries; what it does not get goes on to the others.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts of instances
fn share(members: &[Member], near: &[usize], known: usize) -> u32 {
    let usable: f64 = near.iter().map(|&at| f64::from(members[at].share())).sum();
    let part = (OVERPROVISIONING * usable / known.max(1) as f64).min(f64::from(FULL)) as u32;
    let on_trial = near.iter().any(|&at| members[at].stage == Stage::OnTrial);
    if on_trial { part.max(FULL / 10) } else { part }
}
