use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// So many places shared out by weight, by largest remainder; at least one each while there are enough.
#[allow(clippy::cast_possible_truncation)] // shares are at most the size
pub(super) fn apportion(weights: &[u32], size: u32) -> Vec<u32> {
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    let exact = |index: usize| u64::from(weights[index]) * u64::from(size);
    let mut shares: Vec<u32> =
        (0..weights.len()).map(|index| ((exact(index) / total) as u32).max(1)).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&index| (Reverse(exact(index) % total), index));
    let given: u64 = shares.iter().copied().map(u64::from).sum();
    for &index in order.iter().take(u64::from(size).saturating_sub(given) as usize) {
        shares[index] += 1;
    }
    // Raising the smallest to one may have given out too much: the largest pay.
    let mut excess = given.saturating_sub(u64::from(size)) as u32;
    order.sort_by_key(|&index| (Reverse(shares[index]), index));
    for &index in order.iter().cycle() {
        if excess == 0 {
            break;
        }
        let pays = excess.min((shares[index] / 2).max(1)).min(shares[index]);
        shares[index] -= pays;
        excess -= pays;
    }
    shares
}

/// Each index as often as its share says, evenly spread over the whole: the k-th of n times in the middle of the k-th of n
/// equal parts.
pub(super) fn in_turn(shares: &[u32]) -> impl Iterator<Item = u32> {
    // 32 bits of fraction.
    let middle = |share: u32, times: u32| ((2 * u64::from(times) + 1) << 31) / u64::from(share);
    let first = (0..).zip(shares).filter(|&(_, &share)| share > 0);
    let mut next: BinaryHeap<Reverse<(u64, u32, u32, u32)>> =
        first.map(|(index, &share)| Reverse((middle(share, 0), index, share, 0))).collect();
    std::iter::from_fn(move || {
        let Reverse((_, index, share, times)) = next.pop()?;
        if times + 1 < share {
            next.push(Reverse((middle(share, times + 1), index, share, times + 1)));
        }
        Some(index)
    })
}
