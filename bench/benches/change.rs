//! What one change costs among many watched services, and what a watched instance, a view and a balancer take.
//!
//! `cargo bench --manifest-path bench/Cargo.toml --no-default-features --bench change`
//!
//! A memory registry with ten instances a service, a balancer and so a view of each service, and changes to one instance
//! after another, each followed until the view of its service shows it. All of it runs on one thread, whose CPU time is
//! what is shown, the least of several rounds (Linux only). Bytes are what was asked of the allocator.

use allocation_counter::{AllocationInfo, measure};
use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
use switchboard_selector::{Balancer, Selector};
use switchboard_watcher::{Directory, View};
use tokio::runtime::{Builder, Runtime};

const INSTANCES: usize = 10;
const ROUNDS: usize = 5;
const CHANGES: usize = 10_000;

/// The CPU time of this thread in nanoseconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    stat.split(' ').next().and_then(|time| time.parse().ok()).expect("a number")
}

fn instance(service: usize, id: usize, round: usize) -> Instance {
    Instance::builder(format!("service-{service}"))
        .id(format!("instance-{id}"))
        .address(format!("10.0.0.{id}:8080"))
        .version("1.0.0")
        .metadata("zone", "eu-1a")
        .metadata("round", round.to_string())
        .build()
        .expect("a valid instance")
}

async fn register(registry: &MemoryRegistry, instance: &Instance) {
    registry.register(instance, &RegisterOptions::new()).await.expect("an open registry");
}

/// Makes a change at a time, all over the place, and waits until it is seen.
async fn change(registry: &MemoryRegistry, views: &mut [View], round: usize) {
    for number in round * CHANGES..(round + 1) * CHANGES {
        let service = number * 7_919 % views.len();
        let changed = instance(service, number % INSTANCES, number + 1);
        register(registry, &changed).await;
        let view = &mut views[service];
        let seen = |view: &View| view.snapshot()?.get(changed.id()).cloned();
        while seen(view).is_none_or(|seen| *seen != changed) {
            view.changed().await;
        }
    }
}

/// What is still held of what was allocated, for each of `count`.
fn each(held: &AllocationInfo, count: usize) -> f64 {
    held.bytes_current as f64 / count as f64
}

fn run(runtime: &Runtime, services: usize) -> f64 {
    let registry = MemoryRegistry::new();
    let filled = measure(|| {
        runtime.block_on(async {
            for index in 0..services * INSTANCES {
                register(&registry, &instance(index / INSTANCES, index % INSTANCES, 0)).await;
            }
        });
    });
    let directory = Directory::new(registry.handle());
    let mut views: Vec<View> = Vec::with_capacity(services);
    let watched = measure(|| {
        runtime.block_on(async {
            views.extend((0..services).map(|n| directory.service(format!("service-{n}")).expect("a view")));
            for view in &views {
                view.ready().await.expect("a snapshot");
            }
        });
    });
    let more = measure(|| views.extend_from_slice(&views.clone()));
    views.truncate(services);
    let selector = Selector::new(directory);
    let mut balancers: Vec<Balancer> = Vec::with_capacity(services);
    let balanced = measure(|| {
        runtime.block_on(async {
            balancers
                .extend((0..services).map(|n| selector.service(format!("service-{n}")).expect("a balancer")));
            for n in 0..services {
                drop(selector.select(format!("service-{n}")).await.expect("a pick"));
            }
        });
    });

    let mut least = f64::INFINITY;
    for round in 0..ROUNDS {
        let before = cpu();
        runtime.block_on(change(&registry, &mut views, round));
        least = least.min((cpu() - before) / CHANGES as f64);
    }
    println!(
        "{services:>8} {:>12.1} {:>12.0} {:>12.0} {:>12.0} {:>12.0}",
        least / 1_000.0,
        each(&filled, services * INSTANCES),
        each(&watched, services),
        each(&more, services),
        each(&balanced, services),
    );
    least
}

fn main() {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    println!(
        "{:>8} {:>12} {:>12} {:>12} {:>12} {:>12}",
        "", "µs of CPU", "B an instance", "B a service", "B another", "B a service"
    );
    println!(
        "{:>8} {:>12} {:>12} {:>12} {:>12} {:>12}",
        "services", "a change", "registered", "watched", "view", "balanced"
    );
    run(&runtime, 100);
    let (few, many) = (run(&runtime, 1_000), run(&runtime, 10_000));
    println!("\n10,000 services against 1,000: {:.2} times the CPU of a change", many / few);
}
