use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::Criterion;

/// Measures `pick` on one thread and on two, as `NAME/SIZE/THREADS`.
pub fn pick<T>(criterion: &mut Criterion, name: &str, size: usize, pick: impl Fn(u64) -> T + Sync) {
    one(criterion, name, size, &pick);
    criterion.bench_function(&format!("{name}/{size}/2"), |bencher| {
        bencher.iter_custom(|times| on_two(times, &pick));
    });
}

/// Measures `pick` on one thread only.
pub fn one<T>(criterion: &mut Criterion, name: &str, size: usize, mut pick: impl FnMut(u64) -> T) {
    let mut key = 0;
    criterion.bench_function(&format!("{name}/{size}/1"), |bencher| {
        bencher.iter(|| {
            key += 1;
            pick(key)
        });
    });
}

/// The time in which each of two threads picks so many times. Both are new: of threads that start one after the other
/// each has a lane to itself, as a runtime's have; the benchmark's own would share one with every other started here.
fn on_two<T>(times: u64, pick: &(impl Fn(u64) -> T + Sync)) -> Duration {
    let start = Barrier::new(2);
    let run = &|first: u64| {
        start.wait();
        let begin = Instant::now();
        for key in first..first + times {
            black_box(pick(key));
        }
        begin.elapsed()
    };
    std::thread::scope(|scope| {
        let threads = [0, u64::MAX / 2].map(|first| scope.spawn(move || run(first)));
        let [one, other] = threads.map(|thread| thread.join().expect("picks do not panic"));
        one.max(other)
    })
}
