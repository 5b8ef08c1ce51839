use super::{Context, Picker, Strategy, scale};
use crate::Candidate;

/// Each candidate as likely as the other, whatever its weight. The default, as in go-micro.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Random;

impl Strategy for Random {
    fn picker(&self, _: &[Candidate]) -> Box<dyn Picker> {
        Box::new(Self)
    }
}

impl Picker for Random {
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the upper half of the word
    fn pick(&self, candidates: &[Candidate], context: &Context<'_>) -> usize {
        scale((context.random() >> 32) as u32, candidates.len())
    }
}
