use crate::Filter;
use crate::member::{Member, Stage};
use crate::slow_start::FULL;

/// A zone keeps this many times the part of its instances that is usable: Envoy's default overprovisioning factor.
const OVERPROVISIONING: f64 = 1.4;

/// Which members take part, and why the others do not. All are indices of members, in order.
#[derive(Default)]
pub(crate) struct Selection {
    /// Those to pick from: of the preferred zone as long as there is one usable in it, else all.
    pub(crate) near: Vec<usize>,
    /// The usable ones of other zones, if the preferred one has too few.
    pub(crate) far: Vec<usize>,
    /// The part of the picks that goes to those near, of [`FULL`].
    pub(crate) near_share: u32,
    /// For each filter, those it took out.
    pub(crate) filtered: Vec<Vec<usize>>,
    pub(crate) unhealthy: usize,
    /// So many are ejected that all are used.
    pub(crate) panic: bool,
}

impl Selection {
    /// Panic, when more than `panic_threshold` of those that pass the filters are ejected, is judged over all zones.
    pub(crate) fn of(members: &[Member], filters: &[Filter], panic_threshold: f64) -> Self {
        let healthy: Vec<usize> = (0..members.len()).filter(|&at| members[at].is_healthy()).collect();
        let unhealthy = members.len() - healthy.len();
        let (mut usable, mut filtered) = pass(members, healthy, filters);

        let ejected = usable.iter().filter(|&&at| members[at].is_ejected()).count();
        #[allow(clippy::cast_precision_loss)] // counts of instances
        let too_many = ejected as f64 > panic_threshold * usable.len() as f64;
        let panic = ejected > 0 && (too_many || ejected == usable.len());
        if !panic {
            usable.retain(|&at| !members[at].is_ejected());
        }

        let all = Self { near_share: FULL, unhealthy, panic, ..Self::default() };
        let preferred = filters.iter().enumerate().rev().find_map(|(at, filter)| Some((at, filter.zone()?)));
        let Some((filter, is_in_zone)) = preferred else { return Self { near: usable, filtered, ..all } };
        let is_near = |at: &usize| is_in_zone(members[*at].instance());
        let (near, far): (Vec<usize>, Vec<usize>) = usable.into_iter().partition(is_near);
        if near.is_empty() {
            return Self { near: far, filtered, ..all };
        }
        let known =
            pass(members, (0..members.len()).collect(), filters).0.iter().filter(|at| is_near(at)).count();
        let near_share = near_share(members, &near, known);
        // Those that get less than their due need somebody to take the rest.
        if near_share == FULL && near.iter().all(|&at| members[at].is_unrestricted()) {
            filtered[filter] = far;
            return Self { near, filtered, ..all };
        }
        Self { near, far, near_share, filtered, ..all }
    }
}

/// Those that pass the filters, and for each filter those it took out.
fn pass(members: &[Member], mut left: Vec<usize>, filters: &[Filter]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let out = filters.iter().map(|filter| {
        let before = left.clone();
        filter.apply(&mut left, |at| members[at].instance());
        before.into_iter().filter(|at| left.binary_search(at).is_err()).collect()
    });
    let out = out.collect();
    (left, out)
}

/// What those near can take. Some of the calls of one on trial are tries; what it does not get goes on to the others.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts of instances
fn near_share(members: &[Member], near: &[usize], known: usize) -> u32 {
    let usable: f64 = near.iter().map(|&at| f64::from(members[at].share())).sum();
    let part = (OVERPROVISIONING * usable / known.max(1) as f64).min(f64::from(FULL)) as u32;
    let on_trial = near.iter().any(|&at| members[at].stage == Stage::OnTrial);
    if on_trial { part.max(FULL / 10) } else { part }
}
