use super::draw::Draw;
use super::{Context, Picker, Strategy};
use crate::Candidate;

/// What a candidate without a measurement costs while its first calls are out, in nanoseconds: more than any other.
const UNMEASURED: f32 = 1e15;

/// Of two drawn at random by weight, the one where a call is likely to be over sooner: the moving average of its latency
/// times the calls in flight for its weight.
///
/// The average takes a peak at once, so a slow instance is left within one call. It is forgotten by what comes after, over
/// 10 s ([`SelectorBuilder::latency_decay`]), not by time alone: when calls are rare, what was slow stays slow. An instance
/// that has not been called for that time is tried by one in 32 of the picks that would leave it out, and so found again
/// when it has recovered. One without a measurement gets one call to begin with. The algorithm is Finagle's, but for the
/// forgetting.
///
/// Needs a verdict on each pick ([`Pick::success`](crate::Pick::success)); without any it is [`LeastRequest`].
///
/// [`SelectorBuilder::latency_decay`]: crate::SelectorBuilder::latency_decay
/// [`LeastRequest`]: crate::LeastRequest
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeakEwma;

impl Strategy for PeakEwma {
    #[allow(clippy::cast_precision_loss)] // sums of weights
    fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker> {
        let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight())).sum();
        let mean = total as f32 / candidates.len().max(1) as f32;
        Box::new(Sooner { draw: Draw::new(candidates), mean_weight: mean })
    }
}

struct Sooner {
    draw: Draw,
    mean_weight: f32,
}

impl Picker for Sooner {
    #[inline]
    fn pick(&self, candidates: &[Candidate], context: &Context<'_>) -> usize {
        let (mut better, mut worse) = self.draw.two();
        if self.cost(&candidates[better]) > self.cost(&candidates[worse]) {
            std::mem::swap(&mut better, &mut worse);
        }
        if candidates[worse].stats().is_probe_due(context.now) { worse } else { better }
    }
}

impl Sooner {
    #[inline]
    #[allow(clippy::cast_precision_loss)] // needs no 24 bits of precision
    fn cost(&self, candidate: &Candidate) -> f32 {
        let in_flight = candidate.in_flight();
        let latency = match candidate.stats().latency.get() {
            Some(nanos) => nanos,
            None if in_flight == 0 => 0.0,
            None => UNMEASURED,
        };
        latency * (1.0 + in_flight as f32 * self.mean_weight / candidate.weight() as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::tests::{candidate, context};

    #[test]
    fn the_latency_counts_once_for_each_call_in_flight_of_one_of_usual_weight() {
        for (latency, chosen) in [(29.0, 1), (31.0, 0)] {
            let candidates = [candidate(4, 2, Some(10.0)), candidate(4, 0, Some(latency))];
            let picker = PeakEwma.picker(&candidates);
            assert!((0..100).all(|_| picker.pick(&candidates, &context()) == chosen), "{latency}");
        }
    }
}
