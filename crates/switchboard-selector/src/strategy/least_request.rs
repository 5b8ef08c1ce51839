use super::draw::Draw;
use super::{Context, Picker, Strategy};
use crate::Candidate;

/// Of two drawn at random by weight, the one with fewer calls in flight for its weight.
///
/// M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 1996: nearly as even as looking at all,
/// at a fixed price, and many clients do not fall upon the same least loaded instance. While there are fewer calls than the
/// loads can tell apart, shares follow the weights, as they do in Envoy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeastRequest;

impl Strategy for LeastRequest {
    fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker> {
        Box::new(Fewer(Draw::new(candidates)))
    }
}

struct Fewer(Draw);

impl Picker for Fewer {
    #[inline]
    fn pick(&self, candidates: &[Candidate], _: &Context<'_>) -> usize {
        let (first, other) = self.0.two();
        let load = |at: usize| (u64::from(candidates[at].in_flight()), u64::from(candidates[at].weight()));
        let ((calls, weight), (other_calls, other_weight)) = (load(first), load(other));
        // Per weight, multiplied out: the other, with this call, would have no more than the first has without it. Else
        // there is nothing to choose between them by, and the draw decides.
        if (other_calls + 1) * weight <= calls * other_weight { other } else { first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::tests::{candidate, context};

    #[test]
    fn the_load_after_the_call_per_weight_decides() {
        // (1 + 1) / 1 > (2 + 1) / 3
        let candidates = [candidate(1, 1, None), candidate(3, 2, None)];
        let picker = LeastRequest.picker(&candidates);
        // In one case of 256 the light one is drawn twice.
        let heavy = (0..1_000).filter(|_| picker.pick(&candidates, &context()) == 1).count();
        assert!(heavy > 950, "{heavy}");
    }
}
