use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Each index as often as its weight says and evenly spread, without end: the k-th time of n in the middle of the k-th of n
/// equal parts. However many are taken, they are shared out by Webster's method. `from` leaves out the first times of each.
pub(super) fn in_turn(weights: &[u32], from: u64) -> impl Iterator<Item = u32> {
    // 32 bits of fraction.
    let middle = |weight: u32, times: u64| ((2 * times + 1) << 31) / u64::from(weight);
    let first = (0..).zip(weights).filter(|&(_, &weight)| weight > 0);
    let mut next: BinaryHeap<Reverse<(u64, u32, u32, u64)>> =
        first.map(|(index, &weight)| Reverse((middle(weight, from), index, weight, from))).collect();
    std::iter::from_fn(move || {
        let Reverse((_, index, weight, times)) = next.pop()?;
        next.push(Reverse((middle(weight, times + 1), index, weight, times + 1)));
        Some(index)
    })
}
