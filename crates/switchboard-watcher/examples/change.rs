//! What one change costs among many watched services, and what a watched instance and a view take.
//!
//! `cargo run --release -p switchboard-watcher --example change`
//!
//! A memory registry with ten instances a service, a view of each service, and changes to one instance after another, each
//! followed until the view of its service shows it. All of it runs on one thread, whose CPU time is what is shown (Linux
//! only). Bytes are what was asked of the allocator.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)] // a program that prints figures

use std::time::Duration;

use allocation_counter::measure;
use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
use switchboard_watcher::{Directory, View};
use tokio::runtime::{Builder, Runtime};

const INSTANCES: usize = 10;
const CHANGES: usize = 20_000;
const VIEWS: usize = 10_000;

/// The CPU time of this thread.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

fn instance(service: usize, id: usize, round: usize) -> Instance {
    Instance::builder(format!("service-{service}"))
        .id(format!("instance-{id}"))
        .address(format!("10.0.0.{id}:8080"))
        .version("1.0.0")
        .metadata("zone", "eu-1a")
        .metadata("round", round.to_string())
        .build()
        .unwrap()
}

async fn fill(registry: &MemoryRegistry, services: usize) {
    for service in 0..services {
        for id in 0..INSTANCES {
            registry.register(&instance(service, id, 0), &RegisterOptions::new()).await.unwrap();
        }
    }
}

async fn watch(directory: &Directory, services: usize) -> Vec<View> {
    let views: Vec<_> =
        (0..services).map(|service| directory.service(format!("service-{service}")).unwrap()).collect();
    for view in &views {
        assert_eq!(view.ready().await.unwrap().len(), INSTANCES);
    }
    views
}

async fn change(registry: &MemoryRegistry, views: &mut [View]) {
    for round in 1..=CHANGES {
        // All over the place, as it would be.
        let service = round.wrapping_mul(7_919) % views.len();
        let changed = instance(service, round % INSTANCES, round);
        registry.register(&changed, &RegisterOptions::new()).await.unwrap();
        let view = &mut views[service];
        while view.snapshot().unwrap().get(changed.id()).unwrap().as_ref() != &changed {
            view.changed().await;
        }
    }
}

fn run(runtime: &Runtime, services: usize) -> Duration {
    let registry = MemoryRegistry::new();
    let instances = (services * INSTANCES) as f64;
    let filled = measure(|| runtime.block_on(fill(&registry, services)));
    let directory = Directory::new(registry.handle());
    let handle = measure(|| drop(registry.handle()));
    let mut views = Vec::new();
    let watched = measure(|| views = runtime.block_on(watch(&directory, services)));
    let mut more = Vec::with_capacity(VIEWS);
    let viewed = measure(|| more.extend((0..VIEWS).map(|index| views[index % services].clone())));
    let per_view = viewed.bytes_current as f64 / VIEWS as f64 + size_of::<View>() as f64;
    drop(more);

    let before = cpu();
    runtime.block_on(change(&registry, &mut views));
    let each = (cpu() - before) / u32::try_from(CHANGES).unwrap();
    println!(
        "{services:>8} {:>12.1} {:>16.0} {:>16.0} {:>16.0} {:>10.0}",
        each.as_nanos() as f64 / 1_000.0,
        filled.bytes_current as f64 / instances,
        handle.bytes_max as f64 / services as f64,
        watched.bytes_current as f64 / services as f64,
        per_view,
    );
    each
}

fn main() {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    println!(
        "{:>8} {:>12} {:>16} {:>16} {:>16} {:>10}",
        "services", "µs a change", "B an instance", "B a service", "B a watched", "B a view"
    );
    println!("{:>8} {:>12} {:>16} {:>16} {:>16}", "", "", "in the registry", "in a handle", "service more");
    run(&runtime, 100);
    let (few, many) = (run(&runtime, 1_000), run(&runtime, 10_000));
    println!(
        "\n10,000 services against 1,000: {:.2} times the CPU of a change",
        many.as_secs_f64() / few.as_secs_f64()
    );
}
