use super::draw::Draw;
use super::{Context, Picker, Strategy};
use crate::Candidate;

/// At random, each as likely as its weight says. The default; go-micro's, which knows no weights, with all of them equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Random;

impl Strategy for Random {
    fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker> {
        Box::new(Draw::new(candidates))
    }
}

impl Picker for Draw {
    #[inline]
    fn pick(&self, _: &[Candidate], _: &Context<'_>) -> usize {
        self.one()
    }
}
