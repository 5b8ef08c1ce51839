use std::sync::Arc;

use super::{Context, Picker, Strategy, two};
use crate::Candidate;

/// One that has not been picked for so long is picked when drawn, however slow it was: kratos's 3 s.
const FORGOTTEN: u32 = 3_000;

/// What a candidate without a measurement costs while its first calls are out: Finagle's penalty, here as 1 s a call.
const UNMEASURED: f32 = 1e9;

/// Of two drawn at random, the one where a call is likely to be over sooner: the latency's moving average times the
/// calls in flight, for its weight.
///
/// The average takes a peak at once and forgets it over 10 s ([`SelectorBuilder::latency_decay`]), so a slow instance
/// is left within one call; it is tried again as its average fades, and at the latest when drawn after 3 s. An
/// instance without a measurement gets one call to begin with. The algorithm is Finagle's.
///
/// Needs a verdict on each pick ([`Pick::success`](crate::Pick::success)); without any it is [`LeastRequest`].
///
/// [`SelectorBuilder::latency_decay`]: crate::SelectorBuilder::latency_decay
/// [`LeastRequest`]: crate::LeastRequest
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeakEwma;

impl Strategy for PeakEwma {
    fn picker(&self, _: &[Arc<Candidate>]) -> Box<dyn Picker> {
        Box::new(Self)
    }

    fn needs_latency(&self) -> bool {
        true
    }
}

impl Picker for PeakEwma {
    #[inline]
    fn pick(&self, candidates: &[Arc<Candidate>], context: &Context<'_>) -> usize {
        let (a, b) = two(context.random(), candidates.len());
        let (first, second) = (&candidates[a], &candidates[b]);
        // Costs are fractions, multiplied out: a division takes as long as all the rest.
        let ((cost, per), (other_cost, other_per)) = (cost(first, context), cost(second, context));
        // Nobody can guess which it is, so nothing branches on it.
        let swap = (a ^ b) * usize::from(cost * other_per > other_cost * per);
        let (better, worse) = (a ^ swap, b ^ swap);
        if candidates[worse].unpicked_for(context.now) > FORGOTTEN { worse } else { better }
    }
}

/// What a call to it costs, as a fraction.
#[inline]
fn cost(candidate: &Candidate, context: &Context<'_>) -> (f64, f64) {
    let in_flight = candidate.in_flight();
    let (nanos, faded) = match candidate.latency_parts(context) {
        Some(parts) => parts,
        None if in_flight == 0 => (0.0, 1.0),
        None => (UNMEASURED, 1.0),
    };
    (f64::from(nanos) * f64::from(in_flight + 1), f64::from(faded) * f64::from(candidate.weight()))
}
