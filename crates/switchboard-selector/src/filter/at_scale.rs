//! The figures of `docs/scale.md`: what [`Filter::subset_as`] does with 100,000 clients on 10,000 instances.
//!
//! `cargo test --release -p switchboard-selector --lib at_scale -- --ignored --nocapture`; it takes a minute.

use std::sync::Arc;
use std::thread;

use switchboard_core::{Instance, InstanceId};

use super::Filter;

const CLIENTS: usize = 100_000;
const INSTANCES: usize = 10_000;

/// Which instances each client has, of all but those `left` for which it says so.
fn subsets(instances: &[Instance], size: usize, left: impl Fn(usize) -> bool + Sync) -> Vec<Vec<u16>> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut all = vec![Vec::new(); CLIENTS];
    thread::scope(|scope| {
        for (part, chunk) in all.chunks_mut(CLIENTS.div_ceil(workers)).enumerate() {
            let left = &left;
            scope.spawn(move || {
                for (offset, subset) in chunk.iter_mut().enumerate() {
                    let client = part * CLIENTS.div_ceil(workers) + offset;
                    let id = InstanceId::new(format!("client-{client}")).expect("a valid id");
                    let mut chosen: Vec<usize> = (0..INSTANCES).filter(|&at| !left(at)).collect();
                    Filter::subset_as(&id, size).apply(&mut chosen, |at| &instances[at]);
                    *subset = chosen.iter().map(|&at| u16::try_from(at).expect("below 10,000")).collect();
                }
            });
        }
    });
    all
}

#[test]
#[ignore = "needs a minute; prints figures"]
#[expect(clippy::print_stdout, reason = "the figures are what it is for")]
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn a_hundred_thousand_clients_on_ten_thousand_instances() {
    let instance = |number: usize| {
        let builder = Instance::builder("large").id(format!("instance-{number}"));
        builder.address(format!("10.0.{}.{}:80", number / 250, 1 + number % 250)).build().expect("valid")
    };
    let instances: Arc<[Instance]> = (0..INSTANCES).map(instance).collect();
    println!(
        "| subset | connections of an instance: least | mean | most | most / mean | 99 % within | clients that one leaving moves | places that change at each |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for size in [5, 10, 20, 50, 100] {
        let before = subsets(&instances, size, |_| false);
        let mut connections = vec![0_usize; INSTANCES];
        before.iter().flatten().for_each(|&at| connections[usize::from(at)] += 1);
        connections.sort_unstable();
        let mean = (CLIENTS * size) as f64 / INSTANCES as f64;
        let (least, most) = (connections[0], connections[INSTANCES - 1]);
        let (low, high) = (connections[INSTANCES / 200], connections[INSTANCES - 1 - INSTANCES / 200]);

        let after = subsets(&instances, size, |at| at == 0);
        let moved: Vec<usize> = before
            .iter()
            .zip(&after)
            .map(|(before, after)| before.iter().filter(|at| !after.contains(at)).count())
            .filter(|&moved| moved > 0)
            .collect();
        println!(
            "| {size} | {least} | {mean:.0} | {most} | {:.2} | {low} to {high} | {} ({:.3} %) | {} |",
            most as f64 / mean,
            moved.len(),
            100.0 * moved.len() as f64 / CLIENTS as f64,
            moved.iter().max().unwrap_or(&0),
        );
        assert!(moved.iter().all(|&moved| moved == 1), "nobody moves more than the place that is free");
        assert!(least > 0, "no instance is without clients");
    }
}
