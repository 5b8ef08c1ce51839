//! Everyone is measured alike: how long a pick and its end take, and how evenly picks are spread.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use criterion::Criterion;

use crate::balance::{self, Load};
use crate::table::Table;

/// A call to the instance that was picked for it.
pub trait Call: Sized {
    /// Which instance it is, of those there are.
    fn index(&self) -> usize;

    /// Ends the call: with success, where the balancer wants to know.
    fn end(self) {}
}

pub enum Case {
    /// The time of a pick and its end, with so many instances.
    Time(usize),
    Balance(Load),
}

pub struct Measure<'a> {
    pub criterion: &'a mut Criterion,
    pub table: &'a mut Table,
    pub case: Case,
}

impl Measure<'_> {
    /// The weights of the instances to pick from.
    pub fn weights(&self) -> Vec<u16> {
        match &self.case {
            Case::Time(size) => vec![1; *size],
            Case::Balance(load) => load.weights.clone(),
        }
    }

    /// Whether they are for those only that know weights.
    pub fn is_weighted(&self) -> bool {
        matches!(&self.case, Case::Balance(load) if load.is_weighted())
    }

    /// Measures a balancer that all threads share; the time on one thread and on two, as `NAME/SIZE/THREADS`.
    pub fn shared<C: Call>(&mut self, name: &'static str, pick: impl Fn(u64) -> C + Sync) {
        self.own(name, || &pick);
        if let Case::Time(size) = self.case {
            self.criterion.bench_function(&format!("{name}/{size}/2"), |bencher| {
                bencher.iter_custom(|times| on_two(times, &pick));
            });
        }
    }

    /// Measures a balancer of which each thread has its own; the time on one thread only.
    pub fn own<C: Call, P: FnMut(u64) -> C>(&mut self, name: &'static str, picker: impl Fn() -> P + Sync) {
        match &self.case {
            Case::Time(size) => {
                let (mut pick, mut key) = (picker(), 0);
                self.criterion.bench_function(&format!("{name}/{size}/1"), |bencher| {
                    bencher.iter(|| {
                        key += 1;
                        black_box(pick(key)).end();
                    });
                });
            }
            Case::Balance(load) => self.table.note(name, load, balance::measure(load, picker)),
        }
    }
}

/// The time in which two threads pick so many times each, from the first that begins to the last that ends: should one wait
/// for a processor while the other has it, that is no gain.
fn on_two<C: Call>(times: u64, pick: &(impl Fn(u64) -> C + Sync)) -> Duration {
    let ready = AtomicUsize::new(0);
    let run = |first: u64| {
        ready.fetch_add(1, SeqCst);
        // Asleep one would begin late.
        while ready.load(SeqCst) < 2 {
            spin_loop();
        }
        let begin = Instant::now();
        for key in first..first + times {
            black_box(pick(key)).end();
        }
        (begin, Instant::now())
    };
    std::thread::scope(|scope| {
        // Other keys each time, lest those few be in the cache.
        let threads = [(); 2].map(|()| scope.spawn(|| run(fastrand::u64(..u64::MAX / 2))));
        let [one, other] = threads.map(|thread| thread.join().expect("picks do not panic"));
        one.1.max(other.1) - one.0.min(other.0)
    })
}
