//! What several registries as one cost a reader: `cargo bench --manifest-path bench/Cargo.toml --no-default-features --bench composed`.
//!
//! Ten thousand instances in memory registries, with nothing on a wire: of a lookup, and of one change until a watch has told it, the
//! median; of a pick with its end the mean, and how much it allocates.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use switchboard_compose::{Failover, Mirror, Route, Union};
use switchboard_core::{Instance, MemoryRegistry, Namespace, RegisterOptions, Registry, ServiceName};
use switchboard_selector::Selector;
use switchboard_watcher::Directory;

const INSTANCES: usize = 10_000;
const ROUNDS: usize = 101;
const PICKS: u32 = 1_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("| {INSTANCES} instances | a lookup | a change, until it is told | a pick | allocations of a pick |");
    println!("|---|---:|---:|---:|---:|");
    let two = || [0, 1].map(|_| Arc::new(MemoryRegistry::new()) as Arc<dyn Registry>).to_vec();
    measure("memory", Arc::new(MemoryRegistry::new())).await;
    measure("namespace", Arc::new(Namespace::new(MemoryRegistry::new(), "alice").unwrap())).await;
    measure("mirror of two", Arc::new(Mirror::new(two()).unwrap())).await;
    measure("route of two", Arc::new(Route::new(["*", "other"].into_iter().zip(two())).unwrap())).await;
    measure("failover of two", Arc::new(Failover::new(two()).unwrap())).await;
    measure("union of two", Arc::new(Union::new(two()).unwrap())).await;
}

async fn measure(what: &str, registry: Arc<dyn Registry>) {
    let service = ServiceName::new("orders").unwrap();
    let instance = |number: usize, version: usize| {
        let address = format!("10.0.{}.{}:80", number / 256, number % 256);
        let builder = Instance::builder(&service).id(format!("{number:05}")).address(address.as_str());
        builder.version(version.to_string()).metadata("zone", "eu-1").build().unwrap()
    };
    for number in 0..INSTANCES {
        registry.register(&instance(number, 0), &RegisterOptions::new()).await.unwrap();
    }

    let mut lookups = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        assert_eq!(registry.lookup(&service).await.unwrap().len(), INSTANCES);
        lookups.push(begun.elapsed());
    }

    let mut watch = registry.watch(&service);
    while watch.next().await.unwrap().unwrap().len() < INSTANCES {}
    let mut changes = Vec::new();
    for round in 1..=ROUNDS {
        let changed = instance(round, round);
        let begun = Instant::now();
        registry.register(&changed, &RegisterOptions::new()).await.unwrap();
        // With two registries it may be told when the first of them has it.
        while watch.next().await.unwrap().unwrap().get(changed.id()).unwrap().version() != changed.version() {}
        changes.push(begun.elapsed());
    }
    drop(watch);

    let balancer = Selector::new(Directory::new(&registry)).service(&service).unwrap();
    balancer.ready().await.unwrap();
    let pick = || balancer.pick().unwrap().success();
    (0..1000).for_each(|_| pick());
    let allocations = allocation_counter::measure(pick).count_total;
    let begun = Instant::now();
    (0..PICKS).for_each(|_| pick());
    let each = begun.elapsed() / PICKS;
    let (lookup, change) = (median(lookups), median(changes));
    println!("| {what} | {lookup:.1?} | {change:.1?} | {each:.0?} | {allocations} |");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
