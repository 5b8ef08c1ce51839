use super::{Context, Picker, Strategy, two};
use crate::Candidate;
use crate::stats::Millis;

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
    fn picker(&self, _: &[Candidate]) -> Box<dyn Picker> {
        Box::new(Self)
    }

    fn needs_latency(&self) -> bool {
        true
    }
}

impl Picker for PeakEwma {
    #[inline]
    fn pick(&self, candidates: &[Candidate], context: &Context<'_>) -> usize {
        let (a, b) = two(context.random(), candidates.len());
        let (first, second) = (&candidates[a], &candidates[b]);
        let ((cost, from), (other, other_from)) = (cost(first, context), cost(second, context));
        // Costs are per weight, multiplied out. Both have faded since they were measured; it is enough to know by how much
        // more the earlier one has, or the later one less.
        let cost = cost * weight(second) * context.decay.faded(from.after(other_from));
        let other = other * weight(first);
        // Nobody can guess which it is, so nothing branches on it.
        let swap = (a ^ b) * usize::from(cost > other);
        let (better, worse) = (a ^ swap, b ^ swap);
        if candidates[worse].seat().unpicked_for(context.now) > FORGOTTEN { worse } else { better }
    }
}

/// What a call to it cost at the moment of the last measurement.
#[inline]
#[allow(clippy::cast_precision_loss)] // needs no 24 bits of precision
fn cost(candidate: &Candidate, context: &Context<'_>) -> (f32, Millis) {
    let in_flight = candidate.in_flight();
    let (nanos, measured) = match candidate.seat().stats().latency().measured() {
        Some(measured) => measured,
        None if in_flight == 0 => (0.0, context.now),
        None => (UNMEASURED, context.now),
    };
    (nanos * (in_flight + 1) as f32, measured)
}

#[inline]
#[allow(clippy::cast_precision_loss)]
fn weight(candidate: &Candidate) -> f32 {
    candidate.weight() as f32
}
