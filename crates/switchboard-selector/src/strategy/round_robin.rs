use super::{Circle, Context, Picker, Strategy};
use crate::Candidate;

/// Each in turn, by instance id, whatever its weight.
///
/// The place in the circle is kept for the life of the balancer, across snapshots, and starts at random so that
/// clients started together do not all begin with one instance. Each lane of threads (see [`Candidate`]) goes round by
/// itself: on one thread the turns are strict, and over all threads no instance is ahead of another by more than the
/// number of lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundRobin;

impl Strategy for RoundRobin {
    fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker> {
        Box::new(Circle::new(candidates.len()))
    }
}

impl Picker for Circle {
    #[inline]
    fn pick(&self, _: &[Candidate], context: &Context<'_>) -> usize {
        self.place(context.turn())
    }
}
