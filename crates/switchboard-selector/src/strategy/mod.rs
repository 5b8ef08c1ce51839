//! How one of several candidates is chosen.

mod least_request;
mod maglev;
mod peak_ewma;
mod random;
mod round_robin;
mod smooth;
mod weighted;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Candidate;
use crate::stats::{Decay, Millis};

pub use least_request::LeastRequest;
pub use maglev::ConsistentHash;
pub use peak_ewma::PeakEwma;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use smooth::SmoothWeightedRoundRobin;
pub use weighted::WeightedRandom;

/// How one of several candidates is chosen. Anyone can write one.
///
/// A strategy is asked for a [`Picker`] each time the set of candidates changes, and may take its time. The picker
/// is what runs on every pick.
///
/// ```
/// use std::sync::Arc;
/// use switchboard_selector::{Candidate, Context, Picker, Strategy};
///
/// /// Always the first by id; the others stand by.
/// #[derive(Debug)]
/// struct First;
///
/// impl Strategy for First {
///     fn picker(&self, _: &[Candidate]) -> Box<dyn Picker> {
///         Box::new(First)
///     }
/// }
///
/// impl Picker for First {
///     fn pick(&self, _: &[Candidate], _: &Context<'_>) -> usize {
///         0
///     }
/// }
/// ```
pub trait Strategy: Any + fmt::Debug + Send + Sync {
    /// Prepares to choose among `candidates`: sorted by instance id, never empty.
    fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker>;

    /// Whether picks are to be timed, which costs reading the clock twice a call. Without it
    /// [`Candidate::latency`] stays unknown. While picks on a lane come in quick succession (1.5 µs apart or less), one
    /// in sixteen is timed, and any of an instance that was not timed in the last 50 ms. Default: no.
    fn needs_latency(&self) -> bool {
        false
    }

    /// Whether slow start may turn down what this strategy picks and ask it again. Not if one request must always
    /// get the same answer. Default: yes.
    fn allows_slow_start(&self) -> bool {
        true
    }
}

/// Chooses one of the candidates it was made for, on the hot path: it should take no lock and allocate nothing.
pub trait Picker: Send + Sync {
    /// The index of the chosen one. One out of range is taken modulo the number of candidates.
    ///
    /// `candidates` are those the picker was made for, in the same order, as the calling thread sees them.
    fn pick(&self, candidates: &[Candidate], context: &Context<'_>) -> usize;
}

/// What a [`Picker`] may look at and use.
#[derive(Debug)]
pub struct Context<'a> {
    pub(crate) key: Option<u64>,
    pub(crate) turn: &'a AtomicU64,
    pub(crate) now: Millis,
    pub(crate) decay: Decay,
}

impl Context<'_> {
    /// The hash of the request's key, if it has one.
    pub fn key(&self) -> Option<u64> {
        self.key
    }

    /// A number that goes up by one with each call, for the life of the balancer and across snapshots. It starts at
    /// random, and each lane (see [`Candidate`]) has its own.
    #[inline]
    pub fn turn(&self) -> u64 {
        self.turn.fetch_add(1, Relaxed)
    }

    /// 64 random bits.
    #[inline]
    pub fn random(&self) -> u64 {
        fastrand::u64(..)
    }
}

/// Two strategies are the same if they are one, or of one type that holds nothing.
pub(crate) fn same(a: &Arc<dyn Strategy>, b: &Arc<dyn Strategy>) -> bool {
    let stateless = size_of_val(&**a) == 0;
    Arc::ptr_eq(a, b) || (stateless && Any::type_id(&**a) == Any::type_id(&**b))
}

/// Remainders by a fixed divisor without a division (D. Lemire et al., "Faster Remainder by Direct Computation", 2019).
/// Of a turn the lower 32 bits count, so the circle skips once in four billion turns.
#[derive(Clone, Copy, Debug)]
struct Circle {
    length: u32,
    reciprocal: u64,
}

impl Circle {
    /// A circle of so many places, at least 1.
    #[allow(clippy::cast_possible_truncation)] // candidates and rounds are far fewer than 2^32
    fn new(length: usize) -> Self {
        let length = (length as u32).max(1);
        Self { length, reciprocal: (u64::MAX / u64::from(length)).wrapping_add(1) }
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn place(self, turn: u64) -> usize {
        let fraction = self.reciprocal.wrapping_mul(u64::from(turn as u32));
        ((u128::from(fraction) * u128::from(self.length)) >> 64) as usize
    }
}

/// Scales 32 random bits to `0..count`, without the division a remainder takes. Off by count / 2³² at most.
#[inline]
#[allow(clippy::cast_possible_truncation)]
fn scale(bits: u32, count: usize) -> usize {
    ((u64::from(bits) * count as u64) >> 32) as usize
}

/// Two different candidates at random, or the only one twice.
#[inline]
#[allow(clippy::cast_possible_truncation)] // the two halves of a word
fn two(bits: u64, count: usize) -> (usize, usize) {
    let first = scale((bits >> 32) as u32, count);
    let other = first + 1 + scale(bits as u32, count.saturating_sub(1));
    (first, if other >= count { other - count } else { other })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_different_and_every_pair_is_as_likely() {
        assert_eq!(two(u64::MAX, 1), (0, 0));
        fastrand::seed(1);
        let mut seen = [[0_u32; 4]; 4];
        for _ in 0..120_000 {
            let (a, b) = two(fastrand::u64(..), 4);
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
    fn a_circle_gives_remainders() {
        for length in [1_u32, 2, 3, 7, 100, 10_000, 65_537, 131_072] {
            let circle = Circle::new(length as usize);
            for turn in (0..1_000).chain(u64::from(u32::MAX) - 1_000..u64::from(u32::MAX)) {
                assert_eq!(circle.place(turn) as u64, turn % u64::from(length), "{turn} % {length}");
            }
        }
    }

    #[test]
    fn sameness_is_by_type_only_without_state() {
        #[derive(Debug)]
        struct Holds(#[allow(dead_code)] u8);
        impl Strategy for Holds {
            fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker> {
                Random.picker(candidates)
            }
        }
        let new = |strategy: fn() -> Arc<dyn Strategy>| strategy();
        let (random, again) = (new(|| Arc::new(Random)), new(|| Arc::new(Random)));
        let (holds, other) = (new(|| Arc::new(Holds(1))), new(|| Arc::new(Holds(1))));
        assert!(same(&random, &again));
        assert!(!same(&random, &holds));
        assert!(!same(&holds, &other));
        assert!(same(&holds, &holds.clone()));
    }
}
