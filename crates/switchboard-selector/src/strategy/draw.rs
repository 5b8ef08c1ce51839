use crate::Candidate;

/// Draws candidates at random, each as likely as its weight says.
pub(super) enum Draw {
    /// Of so many, all of one weight.
    Even(usize),
    /// For each column, the part of 2³² that stays in it, and the column the rest goes to.
    Weighted(Box<[(u32, u32)]>),
}

impl Draw {
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        let weights: Vec<u32> = candidates.iter().map(Candidate::weight).collect();
        let even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        if even { Self::Even(weights.len()) } else { Self::Weighted(columns(&weights)) }
    }

    #[inline]
    pub(super) fn one(&self) -> usize {
        match self {
            Self::Even(count) => scale(fastrand::u32(..), *count),
            Self::Weighted(columns) => draw(columns),
        }
    }

    /// One, and another to compare it with; the same twice if there is no other, or if it hardly ever comes up.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the two halves of a word
    pub(super) fn two(&self) -> (usize, usize) {
        match self {
            Self::Even(count) => {
                let bits = fastrand::u64(..);
                let first = scale((bits >> 32) as u32, *count);
                let other = first + 1 + scale(bits as u32, count.saturating_sub(1));
                (first, if other >= *count { other - count } else { other })
            }
            Self::Weighted(columns) => {
                let first = draw(columns);
                let another = (0..3).map(|_| draw(columns)).find(|&other| other != first);
                (first, another.unwrap_or(first))
            }
        }
    }
}

/// The table of Vose's alias method: two reads to draw one, however many there are.
///
/// M. D. Vose, "A Linear Algorithm for Generating Random Numbers with a Given Distribution", IEEE Transactions on
/// Software Engineering 17 (9), 1991.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // far fewer than 2^32
fn columns(weights: &[u32]) -> Box<[(u32, u32)]> {
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    let share = |&weight: &u32| f64::from(weight) * weights.len() as f64 / total;
    let mut shares: Vec<f64> = weights.iter().map(share).collect();
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
    columns.into()
}

#[inline]
#[allow(clippy::cast_possible_truncation)] // the two halves of a word
fn draw(columns: &[(u32, u32)]) -> usize {
    let bits = fastrand::u64(..);
    let column = scale((bits >> 32) as u32, columns.len());
    let (stays, alias) = columns[column];
    if (bits as u32) < stays { column } else { alias as usize }
}

/// Scales 32 random bits to `0..count`. Off by count / 2³² at most.
#[inline]
#[allow(clippy::cast_possible_truncation)]
fn scale(bits: u32, count: usize) -> usize {
    ((u64::from(bits) * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_different_and_every_pair_is_as_likely() {
        assert_eq!(Draw::Even(1).two(), (0, 0));
        fastrand::seed(1);
        let mut seen = [[0_u32; 4]; 4];
        for _ in 0..120_000 {
            let (a, b) = Draw::Even(4).two();
            seen[a][b] += 1;
        }
        for (a, row) in seen.iter().enumerate() {
            for (b, &count) in row.iter().enumerate() {
                let expected = if a == b { 0..1 } else { 9_600..10_400 };
                assert!(expected.contains(&count), "{a} {b}: {count}");
            }
        }
    }

    #[test]
    #[allow(clippy::cast_precision_loss)] // few
    fn the_table_has_everyones_share() {
        for weights in [&[7][..], &[2, 2, 2], &[3, 1], &[5, 1, 1, 3], &[1, 100, 7, 60, 1, 1, 0]] {
            let mut shares = vec![0.0; weights.len()];
            for (own, &(stays, alias)) in columns(weights).iter().enumerate() {
                let stays = f64::from(stays) / 4_294_967_296.0;
                shares[own] += stays;
                shares[alias as usize] += 1.0 - stays;
            }
            let total: u32 = weights.iter().sum();
            for (share, &weight) in shares.iter().zip(weights) {
                let due = f64::from(weight) * weights.len() as f64 / f64::from(total);
                assert!((share - due).abs() < 1e-6, "{weights:?}: {shares:?}");
            }
        }
    }

    #[test]
    fn the_other_of_two_is_another_as_far_as_three_tries_give_one() {
        fastrand::seed(1);
        let draw = Draw::Weighted(columns(&[3, 1]));
        let same = (0..40_000).map(|_| draw.two()).filter(|(first, other)| first == other).count();
        assert!((12_500..14_000).contains(&same), "{same}");
    }
}
