//! The figures of `docs/scale.md`: what [`Filter::subset_as`] does with 100,000 clients on 10,000 instances.
//!
//! `cargo test --release -p switchboard-selector --lib at_scale -- --ignored --nocapture`; it takes some minutes.

use std::thread;

use switchboard_core::{Instance, InstanceId};

use super::Filter;

const CLIENTS: usize = 100_000;
const INSTANCES: usize = 10_000;

/// The instances that this client has when those before `first` are gone.
fn subset(client: usize, instances: &[Instance], size: usize, first: usize) -> Vec<usize> {
    let id = InstanceId::new(format!("client-{client}")).expect("a valid id");
    let mut chosen: Vec<usize> = (first..INSTANCES).collect();
    Filter::subset_as(&id, size).apply(&mut chosen, |at| &instances[at]);
    chosen
}

/// The subsets of all clients.
fn subsets(instances: &[Instance], size: usize) -> Vec<Vec<usize>> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let part = CLIENTS.div_ceil(workers);
    thread::scope(|scope| {
        let parts = (0..workers).map(|worker| {
            let clients = worker * part..CLIENTS.min((worker + 1) * part);
            scope.spawn(move || clients.map(|client| subset(client, instances, size, 0)).collect::<Vec<_>>())
        });
        let parts: Vec<_> = parts.collect();
        parts.into_iter().flat_map(|part| part.join().expect("no panic")).collect()
    })
}

#[test]
#[ignore = "needs minutes; prints figures"]
#[expect(clippy::print_stdout, reason = "the figures are what it is for")]
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn a_hundred_thousand_clients_on_ten_thousand_instances() {
    let instance = |number: usize| {
        let builder = Instance::builder("large").id(format!("instance-{number}"));
        builder.address(format!("10.0.{}.{}:80", number / 250, 1 + number % 250)).build().expect("valid")
    };
    let instances: Vec<Instance> = (0..INSTANCES).map(instance).collect();
    println!(
        "| subset | clients of an instance: least, mean, most | 99 % of them within | most / mean | clients that one leaving moves |"
    );
    println!("|---|---|---|---|---|");
    for size in [5, 20, 100] {
        let all = subsets(&instances, size);
        let mut clients = vec![0_usize; INSTANCES];
        all.iter().flatten().for_each(|&at| clients[at] += 1);
        let moved = clients[0];
        clients.sort_unstable();
        let mean = CLIENTS * size / INSTANCES;
        let (least, most) = (clients[0], clients[INSTANCES - 1]);
        let (low, high) = (clients[INSTANCES / 200], clients[INSTANCES - 1 - INSTANCES / 200]);
        println!(
            "| {size} | {least}, {mean}, {most} | {low} to {high} | {:.2} | {moved} ({:.3} %), one place each |",
            most as f64 / mean as f64,
            100.0 * moved as f64 / CLIENTS as f64,
        );
        assert!(least > 0, "no instance is without clients");
        // The first instance leaves: who had it has one other instead, and nobody else sees a difference.
        for (client, before) in all.iter().enumerate() {
            if before.contains(&0) || client % 200 == 0 {
                let after = subset(client, &instances, size, 1);
                let lost: Vec<usize> = before.iter().copied().filter(|at| !after.contains(at)).collect();
                assert_eq!(lost, if before.contains(&0) { vec![0] } else { vec![] });
            }
        }
    }
}
