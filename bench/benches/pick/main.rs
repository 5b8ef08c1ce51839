//! What a pick costs, what a change costs, and what the peers take for the same: one run, one table.
//!
//! ```text
//! cargo bench --manifest-path bench/Cargo.toml              # everything, about six minutes
//! cargo bench --manifest-path bench/Cargo.toml -- p2c       # only what has "p2c" in its name
//! ```
//!
//! Each peer runs with its own defaults, as its users would call it. Two threads: both pick from one balancer, and the
//! time is that of one pick on one thread, so twice the picks are made in it.

mod floor;
mod measure;
mod ours;
mod peers;
mod table;

use criterion::Criterion;
use std::time::Duration;

/// Three is a small service, 10,000 what Maglev and the rings are made for.
pub const SIZES: [usize; 3] = [3, 100, 10_000];

/// A machine shared with others is fast and slow by turns, for seconds at a time: so each is measured several times, with
/// all the others in between, and of many short samples the fastest counts.
const ROUNDS: usize = 5;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(250))
        .sample_size(100)
        .nresamples(1_000)
        .without_plots()
        .configure_from_args();
    let (start, mut times) = (table::now(), table::Times::new());
    for _ in 0..ROUNDS {
        for size in SIZES {
            floor::run(&mut criterion, size);
            ours::run(&mut criterion, size);
            peers::run(&mut criterion, size);
        }
        ours::rebuilds(&mut criterion);
        peers::rebuilds(&mut criterion);
        table::take(&mut times, start);
    }
    criterion.final_summary();
    table::print(&times);
}
