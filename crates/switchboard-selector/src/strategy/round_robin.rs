use std::collections::BTreeMap;

use super::{Context, Picker, Strategy};
use crate::Candidate;

/// In turn, by instance id, as often as the weight says and evenly spread: weights 5, 1, 1 give `a a b a c a a`, not
/// `a a a a a b c`.
///
/// With equal weights each comes once a round. With others the order is that of nginx, worked out once for a whole round
/// when the candidates change, so that a pick is one step along a list. If the round would be longer than 131,072 (or eight
/// times the number of candidates), weights are scaled down to fit, none below 1.
///
/// The place is kept for the life of the balancer, across snapshots, and starts at random so that clients started together
/// do not all begin with one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundRobin;

impl Strategy for RoundRobin {
    fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker> {
        let weights: Vec<u32> = candidates.iter().map(Candidate::weight).collect();
        Box::new(Round(round(&weights).into()))
    }
}

#[derive(Debug)]
struct Round(Box<[u32]>);

impl Picker for Round {
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // less than the length
    fn pick(&self, _: &[Candidate], context: &Context<'_>) -> usize {
        self.0[(context.turn() % self.0.len() as u64) as usize] as usize
    }
}

/// Candidates of one weight. They come up in order, so how often each has been chosen follows from `chosen`.
struct Class {
    weight: i64,
    members: Vec<u32>,
    chosen: usize,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)] // far below 2^31
fn round(weights: &[u32]) -> Vec<u32> {
    let weights = fit(weights);
    let total: i64 = weights.iter().sum();
    let mut classes = BTreeMap::<i64, Vec<u32>>::new();
    for (index, &weight) in weights.iter().enumerate() {
        classes.entry(weight).or_default().push(index as u32);
    }
    let mut classes: Vec<Class> =
        classes.into_iter().map(|(weight, members)| Class { weight, members, chosen: 0 }).collect();
    let mut round = Vec::with_capacity(total as usize);
    for step in 1..=total {
        // nginx adds each weight to its candidate's lead at every step, and takes the total from the chosen one's.
        let lead = |class: &Class| class.weight * step - total * (class.chosen / class.members.len()) as i64;
        let head = |class: &Class| class.members[class.chosen % class.members.len()];
        let best = classes.iter_mut().max_by_key(|class| (lead(class), std::cmp::Reverse(head(class))));
        let Some(best) = best else { break };
        round.push(head(best));
        best.chosen += 1;
    }
    round
}

/// The weights in lowest terms, scaled down if their sum is more than a round may have.
#[allow(clippy::cast_possible_wrap)]
fn fit(weights: &[u32]) -> Vec<i64> {
    let divisor = weights.iter().fold(0, |a, &b| gcd(a, b)).max(1);
    let weights = weights.iter().map(|&weight| i64::from(weight / divisor));
    let total: i64 = weights.clone().sum();
    let longest = 131_072.max(weights.len() as i64 * 8);
    if total <= longest {
        return weights.collect();
    }
    weights.map(|weight| (weight * longest / total).max(1)).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// nginx's algorithm as it is written, for comparison.
    fn nginx(weights: &[u32]) -> Vec<u32> {
        let total: i64 = weights.iter().copied().map(i64::from).sum();
        let mut current = vec![0_i64; weights.len()];
        let choose = |_| {
            for (current, &weight) in current.iter_mut().zip(weights) {
                *current += i64::from(weight);
            }
            let best = (0..weights.len()).rev().max_by_key(|&index| current[index]).unwrap();
            current[best] -= total;
            u32::try_from(best).unwrap()
        };
        (0..total).map(choose).collect()
    }

    #[test]
    fn five_one_one_is_spread_out() {
        assert_eq!(round(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(round(&[50, 10, 10]), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn the_order_is_nginxs() {
        for weights in [&[1][..], &[1, 1, 1], &[3, 2], &[1, 2, 3, 4, 3, 2, 1], &[7, 1, 7, 1, 2], &[100, 1, 1]]
        {
            assert_eq!(round(weights), nginx(weights), "{weights:?}");
        }
    }

    #[test]
    fn extreme_weights_keep_the_round_short_and_everyone_in() {
        let mut weights: Vec<u32> = (0..10_000).map(|index| index % 977 + 1).collect();
        weights[0] = 65_535;
        let round = round(&weights);
        assert!(round.len() <= 131_072 + weights.len(), "{}", round.len());
        let mut counts = vec![0_u32; weights.len()];
        for index in round {
            counts[index as usize] += 1;
        }
        assert!(counts.iter().all(|&count| count > 0));
        assert_eq!(counts.iter().max(), Some(&counts[0]));
    }
}
