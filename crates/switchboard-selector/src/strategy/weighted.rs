use super::{Context, Picker, Strategy, scale};
use crate::Candidate;

/// Each as likely as its weight says, by Vose's alias method: two table reads however many there are.
///
/// M. D. Vose, "A Linear Algorithm for Generating Random Numbers with a Given Distribution", IEEE Transactions on
/// Software Engineering 17 (9), 1991.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightedRandom;

impl Strategy for WeightedRandom {
    fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker> {
        let weights: Vec<u32> = candidates.iter().map(Candidate::weight).collect();
        Box::new(Alias::new(&weights))
    }
}

/// For each column, the part of 2³² that stays in it, and the column the rest goes to.
#[derive(Debug)]
struct Alias(Box<[(u32, u32)]>);

impl Alias {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // columns are far fewer than 2^32
    fn new(weights: &[u32]) -> Self {
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        #[allow(clippy::cast_precision_loss)]
        let mut shares: Vec<f64> =
            weights.iter().map(|&weight| f64::from(weight) * weights.len() as f64 / total).collect();
        // A column that is left over by rounding keeps everything: its alias is itself.
        let mut columns: Vec<(u32, u32)> = (0..weights.len() as u32).map(|own| (u32::MAX, own)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|&column| shares[column] < 1.0);
        while let (Some(&less), Some(&more)) = (small.last(), large.last()) {
            small.pop();
            columns[less] = ((shares[less] * 4_294_967_296.0) as u32, more as u32);
            shares[more] -= 1.0 - shares[less];
            if shares[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        Self(columns.into())
    }
}

impl Picker for Alias {
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the two halves of a word
    fn pick(&self, _: &[Candidate], context: &Context<'_>) -> usize {
        let bits = context.random();
        let column = scale((bits >> 32) as u32, self.0.len());
        let (stays, alias) = self.0[column];
        if (bits as u32) < stays { column } else { alias as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_add_up_to_the_weights() {
        for weights in [vec![1], vec![1, 1, 1], vec![5, 1, 1], vec![65_535, 1, 1], (1..=100).collect()] {
            let alias = Alias::new(&weights);
            let mut shares = vec![0.0; weights.len()];
            for (column, &(stays, other)) in alias.0.iter().enumerate() {
                let stays = f64::from(stays) / 4_294_967_296.0;
                shares[column] += stays;
                shares[other as usize] += 1.0 - stays;
            }
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            for (share, &weight) in shares.iter().zip(&weights) {
                #[allow(clippy::cast_precision_loss)]
                let expected = f64::from(weight) / total * weights.len() as f64;
                assert!((share - expected).abs() < 1e-6, "{weights:?}: {share} for {expected}");
            }
        }
    }
}
