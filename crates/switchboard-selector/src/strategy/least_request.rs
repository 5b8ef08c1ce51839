use super::{Context, Picker, Strategy, two};
use crate::Candidate;

/// Of two drawn at random, the one with fewer calls in flight for its weight.
///
/// M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 1996: nearly as even as looking at all,
/// at a fixed price, and many clients do not fall upon the same least loaded instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeastRequest;

impl Strategy for LeastRequest {
    fn picker(&self, _: &[Candidate]) -> Box<dyn Picker> {
        Box::new(Self)
    }
}

impl Picker for LeastRequest {
    #[inline]
    fn pick(&self, candidates: &[Candidate], context: &Context<'_>) -> usize {
        let (a, b) = two(context.random(), candidates.len());
        let (first, second) = (&candidates[a], &candidates[b]);
        // Load per weight, multiplied out: a/wa <= b/wb.
        let load =
            |one: &Candidate, other: &Candidate| (u64::from(one.in_flight()) + 1) * u64::from(other.weight());
        if load(first, second) <= load(second, first) { a } else { b }
    }
}
