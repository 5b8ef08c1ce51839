//! How evenly calls are spread: the load that `tests/imbalance.rs` of the selector holds least request to, for everyone.

use std::collections::VecDeque;
use std::iter::repeat_with;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::measure::Call;

const THREADS: usize = 16;

/// In all threads together.
const ROUNDS: usize = 64_000;

/// Each of the threads holds its part of the calls, and again and again ends its oldest and makes another.
#[derive(Clone)]
pub struct Load {
    pub weights: Vec<u16>,
    pub calls: usize,
    pub threads: usize,
}

pub struct Balance {
    /// How many calls the instance has that has the most, after each call: the mean of it and the 99th percentile.
    pub mean: f64,
    pub p99: u32,
    /// The part of all calls that the first instance got.
    pub first: f64,
}

impl Load {
    fn even(instances: usize, calls: usize) -> Self {
        Self { weights: vec![1; instances], calls, threads: THREADS }
    }

    pub fn is_weighted(&self) -> bool {
        self.weights.windows(2).any(|pair| pair[0] != pair[1])
    }
}

/// Few calls for each instance, more, and many.
pub fn even() -> [Load; 3] {
    [Load::even(8, 16), Load::even(16, 64), Load::even(16, 256)]
}

/// Nine to one, with one call at a time and with many.
pub fn weighted() -> [Load; 2] {
    [(1, 1), (THREADS, 64)].map(|(threads, calls)| Load { weights: vec![9, 1], calls, threads })
}

/// What comes of `load` when each thread picks by what it gets of `picker`.
pub fn measure<C: Call, P: FnMut(u64) -> C>(load: &Load, picker: impl Fn() -> P + Sync) -> Balance {
    let zero = || AtomicU32::new(0);
    let loads: Vec<AtomicU32> = repeat_with(zero).take(load.weights.len()).collect();
    let (first, begin) = (zero(), Barrier::new(load.threads));
    let run = || {
        let mut pick = picker();
        let mut call = || {
            let call = pick(fastrand::u64(..));
            let at = call.index();
            loads[at].fetch_add(1, SeqCst);
            (call, at)
        };
        let mut held: VecDeque<(C, usize)> = repeat_with(&mut call).take(load.calls / load.threads).collect();
        begin.wait();
        let round = |_| {
            let (oldest, at) = held.pop_front().expect("at least one call a thread");
            loads[at].fetch_sub(1, SeqCst);
            oldest.end();
            let next = call();
            first.fetch_add(u32::from(next.1 == 0), SeqCst);
            held.push_back(next);
            // Not after a fixed number, or a round robin stops at the same instance in every thread.
            if fastrand::u32(..16) == 0 {
                std::thread::yield_now();
            }
            loads.iter().map(|load| load.load(SeqCst)).max().expect("an instance")
        };
        let highest: Vec<u32> = (0..ROUNDS / load.threads).map(round).collect();
        // Only together, lest the loads of the last ones be those of fewer.
        begin.wait();
        highest
    };
    let mut highest: Vec<u32> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..load.threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("picks do not panic")).collect()
    });
    highest.sort_unstable();
    let count = highest.len();
    Balance {
        mean: highest.iter().copied().map(f64::from).sum::<f64>() / count as f64,
        p99: highest[count * 99 / 100],
        first: f64::from(first.into_inner()) / count as f64,
    }
}
