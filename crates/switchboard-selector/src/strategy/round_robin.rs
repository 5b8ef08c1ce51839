use super::weights::in_turn;
use super::{Context, Picker, Strategy};
use crate::Candidate;

/// A round is scaled down to about this, or eight times the number of candidates.
const LONGEST: u64 = 131_072;

/// In turn, by instance id, as often as the weight says and evenly spread: weights 5, 1, 1 give `a a a b c a a`, not
/// `a a a a a b c`.
///
/// The order is worked out once for a whole round when the candidates change, so that a pick is one step along a list. If
/// the round would be longer than 131,072 (or eight times the number of candidates), weights are scaled down to about that,
/// none below 1.
///
/// The place is kept for the life of the balancer, across snapshots, and starts at random so that clients started together
/// do not all begin with one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundRobin;

impl Strategy for RoundRobin {
    fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker> {
        let weights: Vec<u32> = candidates.iter().map(Candidate::weight).collect();
        Box::new(Round(round(&weights)))
    }
}

struct Round(Box<[u32]>);

impl Picker for Round {
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // less than the length
    fn pick(&self, _: &[Candidate], context: &Context<'_>) -> usize {
        self.0[(context.turn() % self.0.len() as u64) as usize] as usize
    }
}

/// A whole round of the weights in lowest terms, scaled down if their sum is more than it may have.
#[allow(clippy::cast_possible_truncation)] // no more than the weights
fn round(weights: &[u32]) -> Box<[u32]> {
    let sum = |weights: &[u32]| weights.iter().copied().map(u64::from).sum::<u64>();
    let longest = LONGEST.max(weights.len() as u64 * 8);
    let divisor = weights.iter().fold(0, |a, &b| gcd(a, b)).max(1);
    let lowest: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
    let total = sum(&lowest);
    let nearest = |&weight: &u32| ((u64::from(weight) * longest + total / 2) / total).max(1) as u32;
    let fit = if total > longest { lowest.iter().map(nearest).collect() } else { lowest };
    in_turn(&fit, 0).take(sum(&fit) as usize).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_one_one_is_spread_out() {
        assert_eq!(*round(&[50, 10, 10]), [0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(*round(&[3, 3, 3]), [0, 1, 2]);
    }

    fn counts(round: &[u32], candidates: usize) -> Vec<u32> {
        let mut counts = vec![0; candidates];
        for &index in round {
            counts[index as usize] += 1;
        }
        counts
    }

    #[test]
    #[allow(clippy::cast_precision_loss)] // few
    fn weights_too_large_for_a_round_keep_their_shares() {
        let many: Vec<u32> = (0..20_000).map(|index| 60_013 + index % 7 * 509).collect();
        for (weights, longest) in [(&[65_521, 60_013, 50_021][..], 131_072.0), (&many, 160_000.0)] {
            let total = weights.iter().map(|&weight| f64::from(weight)).sum::<f64>();
            for (times, &weight) in counts(&round(weights), weights.len()).into_iter().zip(weights) {
                let due = f64::from(weight) / total * longest;
                assert!((f64::from(times) - due).abs() <= 0.5, "{times} instead of {due}");
            }
        }
    }

    #[test]
    fn extreme_weights_keep_the_round_short_and_everyone_in() {
        let mut weights: Vec<u32> = (0..10_000).map(|index| index % 977 + 1).collect();
        weights[0] = 65_535;
        let round = round(&weights);
        assert!(round.len() <= 131_072 + weights.len(), "{}", round.len());
        let counts = counts(&round, weights.len());
        assert!(counts.iter().all(|&count| count > 0));
        assert_eq!(counts.iter().max(), Some(&counts[0]));
    }
}
