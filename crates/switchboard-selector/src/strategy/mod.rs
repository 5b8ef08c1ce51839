//! How one of several candidates is chosen.

mod draw;
mod least_request;
mod maglev;
mod peak_ewma;
mod random;
mod round_robin;
mod weights;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Candidate;
use crate::measured::Nanos;

pub use least_request::LeastRequest;
pub use maglev::ConsistentHash;
pub use peak_ewma::PeakEwma;
pub use random::Random;
pub use round_robin::RoundRobin;

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
    /// `candidates` are those the picker was made for, in the same order.
    fn pick(&self, candidates: &[Candidate], context: &Context<'_>) -> usize;
}

/// What a [`Picker`] may look at and use.
#[derive(Debug)]
pub struct Context<'a> {
    pub(crate) key: Option<u64>,
    pub(crate) turn: &'a AtomicU64,
    pub(crate) now: Nanos,
}

impl Context<'_> {
    /// The hash of the request's key, if it has one.
    pub fn key(&self) -> Option<u64> {
        self.key
    }

    /// A number that goes up by one with each call, for the life of the balancer and across snapshots. It starts at
    /// random.
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

#[cfg(test)]
mod tests {
    use switchboard_core::Instance;

    use super::*;
    use crate::hub::Hub;
    use crate::stats::Stats;

    static TURN: AtomicU64 = AtomicU64::new(0);

    pub(super) fn context() -> Context<'static> {
        Context { key: None, turn: &TURN, now: 1 }
    }

    /// With so many calls in flight, and an average latency in milliseconds.
    pub(super) fn candidate(weight: u16, in_flight: u32, latency: Option<f32>) -> Candidate {
        let instance = Instance::builder("a").address("127.0.0.1:1").weight(weight).build().unwrap();
        let stats = Stats::new(&Arc::new(Hub::with(None)));
        stats.in_flight.store(in_flight, Relaxed);
        if let Some(latency) = latency {
            stats.latency.update(1, |_, _| Some(latency * 1e6));
        }
        Candidate::new(Arc::new(instance), Arc::new(stats))
    }

    #[test]
    fn only_one_that_must_answer_the_same_lets_nobody_start_slowly() {
        assert!(!ConsistentHash.allows_slow_start());
        assert!(Random.allows_slow_start() && RoundRobin.allows_slow_start());
        assert!(LeastRequest.allows_slow_start() && PeakEwma.allows_slow_start());
    }
}
