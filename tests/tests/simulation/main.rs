//! A simulation of what production does to a client: fleets whose instances are slow, fail, hang and restart; callers at
//! any rate who lose their patience; registries that are not heard, late, and tell things twice.
//!
//! On a paused clock and from a seed, so a failure can be had again. The seeds are 0 to 7, or as many as
//! `SWITCHBOARD_SEEDS` says (`cargo xtask simulate 500`); `SWITCHBOARD_SEED` chooses one.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests; what a failing seed did
#![allow(clippy::cast_precision_loss)] // counts of calls

mod balance;
mod fleet;
mod life;

use std::future::Future;

use tokio::runtime::{Builder, Handle};
use tokio::task::LocalSet;

/// Runs a scenario with each seed, each in a runtime of its own of which nothing may be left running.
fn each_seed<F: Future<Output = ()>>(scenario: impl Fn(fastrand::Rng) -> F) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SWITCHBOARD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SWITCHBOARD_SEEDS").unwrap_or(8),
    };
    for seed in seeds {
        println!("SWITCHBOARD_SEED={seed}");
        // For the library, and for the scenario itself.
        fastrand::seed(seed);
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            scenario(fastrand::Rng::with_seed(seed)).await;
            // What was dropped ends when it is next polled.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "something was left running");
        });
    }
}
