//! What a pick costs and how evenly it balances, what a change costs, and all of that for the peers: one run, one table.
//!
//! ```text
//! cargo bench --manifest-path bench/Cargo.toml --bench pick            # everything, about seven minutes
//! cargo bench --manifest-path bench/Cargo.toml --bench pick -- p2c     # times only of what has "p2c" in its name
//! ```
//!
//! Each peer runs with its own defaults, as its users would call it. What is timed is a pick and its end. Two threads: both
//! pick from one balancer, and the time is that of one pick on one thread, so twice the picks are made in it.

mod balance;
mod floor;
mod measure;
mod ours;
mod peers;
mod table;

use std::time::Duration;

use balance::Load;
use criterion::Criterion;
use measure::{Case, Measure};
use table::Table;

/// Three is a small service, eight and sixteen are those whose balance is measured, 10,000 what Maglev and the rings are made for.
const SIZES: [usize; 5] = [3, 8, 16, 100, 10_000];

/// A machine shared with others is fast and slow by turns, for seconds at a time: so each is measured several times, with
/// all the others in between, and of many short samples the fastest counts.
const ROUNDS: usize = 4;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(250))
        .sample_size(100)
        .nresamples(1_000)
        .without_plots()
        .configure_from_args();
    let mut table = Table::new();
    for load in balance::even() {
        let alone = Case::Balance(Load { threads: 1, ..load.clone() });
        let mut measure = Measure { criterion: &mut criterion, table: &mut table, case: alone };
        floor::two_choices(&mut measure, "exact counts, one thread");
    }
    for load in balance::even().into_iter().chain(balance::weighted()) {
        everyone(Measure { criterion: &mut criterion, table: &mut table, case: Case::Balance(load) });
    }
    for _ in 0..ROUNDS {
        for size in SIZES {
            everyone(Measure { criterion: &mut criterion, table: &mut table, case: Case::Time(size) });
        }
        ours::rebuilds(&mut criterion);
        peers::rebuilds(&mut criterion);
        table.take_times();
    }
    criterion.final_summary();
    table.print();
}

fn everyone(mut measure: Measure) {
    if !measure.is_weighted() {
        floor::run(&mut measure);
    }
    ours::run(&mut measure);
    peers::run(&mut measure);
}
