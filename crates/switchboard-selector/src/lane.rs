//! Lanes keep threads out of each other's cache lines.
//!
//! Two cores that write to one cache line hand it to and fro, at several times the price of a whole pick. So whatever a
//! pick writes exists once per lane, and a thread stays on the lane it was given first. There are as many lanes as
//! cores, up to 16; with more threads than lanes, some share one.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

const MOST: usize = 16;
const UNSET: usize = usize::MAX;

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(UNSET) };
}

/// How many lanes there are: a power of two, the same for the life of the process.
pub(crate) fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| available_parallelism().map_or(1, usize::from).next_power_of_two().min(MOST))
}

/// The lane of this thread, below [`count`].
#[inline]
pub(crate) fn current() -> usize {
    let lane = LANE.with(Cell::get);
    if lane == UNSET { assign() } else { lane }
}

#[cold]
fn assign() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let lane = NEXT.fetch_add(1, Ordering::Relaxed) % count();
    LANE.with(|cell| cell.set(lane));
    lane
}
