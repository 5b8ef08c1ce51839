use criterion::{BatchSize, Criterion};
use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry, ServiceName, Snapshot};
use switchboard_selector::{
    Balancer, CallOptions, ConsistentHash, LeastRequest, PeakEwma, Random, Request, RoundRobin, Selector,
    SmoothWeightedRoundRobin, Strategy, WeightedRandom,
};
use switchboard_watcher::Directory;
use tokio::runtime::{Builder, Runtime};

use crate::measure;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn instance(index: usize) -> Instance {
    let address = format!("10.{}.{}.{}:80", index >> 16, index >> 8 & 255, index & 255);
    Instance::builder("bench").id(format!("instance-{index:05}")).address(address).build().expect("valid")
}

fn snapshot(indices: impl Iterator<Item = usize>) -> Snapshot {
    Snapshot::new(ServiceName::new("bench").expect("valid"), indices.map(instance))
}

async fn balancer(size: usize, strategy: impl Strategy) -> (Balancer, Selector) {
    let registry = MemoryRegistry::new();
    // One after the other each registration would copy the whole; a filled store is what is wanted.
    for index in 0..size {
        registry.register(&instance(index), &RegisterOptions::new()).await.expect("registered");
    }
    let selector = Selector::builder(Directory::new(registry)).strategy(strategy).build();
    let balancer = selector.service("bench").expect("valid");
    balancer.ready().await.expect("ready");
    assert_eq!(balancer.report().len(), size);
    (balancer, selector)
}

pub fn run(criterion: &mut Criterion, size: usize) {
    let runtime = runtime();
    let _entered = runtime.enter();
    let (random, selector) = runtime.block_on(balancer(size, Random));
    let with = |options: CallOptions| random.with(&options);
    let options = CallOptions::new;
    let plain = [
        ("random", random.clone()),
        ("round robin", with(options().strategy(RoundRobin))),
        ("weighted random", with(options().strategy(WeightedRandom))),
        ("smooth weighted", with(options().strategy(SmoothWeightedRoundRobin))),
        ("p2c least request", with(options().strategy(LeastRequest))),
        ("p2c peak EWMA", with(options().strategy(PeakEwma))),
    ];
    for (name, balancer) in plain {
        learn(&balancer, size);
        measure::pick(criterion, name, size, |_| balancer.pick());
    }
    let hash = with(options().strategy(ConsistentHash));
    measure::pick(criterion, "Maglev", size, |key| hash.pick_for(&Request::new().key(key.to_le_bytes())));
    let verdict = with(options().strategy(PeakEwma));
    measure::one(criterion, "p2c peak EWMA with success()", size, |_| {
        verdict.pick().expect("an instance").success();
    });
    drop(selector);
}

/// Gives each instance verdicts, as it has them in use; without any, latency is never known.
fn learn(balancer: &Balancer, size: usize) {
    for _ in 0..size * 20 {
        balancer.pick().expect("an instance").success();
    }
}

/// What a change costs at 10,000 instances.
pub fn rebuilds(criterion: &mut Criterion) {
    let older = snapshot(0..10_000);
    let newer = snapshot((0..10_000).filter(|index| index % 100 != 7).chain(10_000..10_100));
    criterion.bench_function("diff of 10,000", |bencher| bencher.iter(|| newer.diff(&older)));
    let changes = newer.diff(&older);
    criterion.bench_function("apply 200 changes to 10,000", |bencher| bencher.iter(|| older.apply(&changes)));

    let runtime = runtime();
    let _entered = runtime.enter();
    let (balancer, _selector) = runtime.block_on(balancer(10_000, Random));
    fn case(criterion: &mut Criterion, balancer: &Balancer, name: &str, strategy: impl Strategy + Clone) {
        let options = || CallOptions::new().strategy(Fresh(strategy.clone(), 0));
        criterion.bench_function(&format!("rebuild {name}"), |bencher| {
            bencher.iter_batched(options, |options| balancer.with(&options), BatchSize::PerIteration);
        });
    }
    case(criterion, &balancer, "random", Random);
    case(criterion, &balancer, "round robin", RoundRobin);
    case(criterion, &balancer, "weighted random", WeightedRandom);
    case(criterion, &balancer, "smooth weighted", SmoothWeightedRoundRobin);
    case(criterion, &balancer, "p2c least request", LeastRequest);
    case(criterion, &balancer, "p2c peak EWMA", PeakEwma);
    case(criterion, &balancer, "Maglev", ConsistentHash);
}

/// A strategy that is no other's equal, so that its picker is made anew.
#[derive(Debug)]
struct Fresh<S>(S, #[allow(dead_code)] u8);

impl<S: Strategy> Strategy for Fresh<S> {
    fn picker(
        &self,
        candidates: &[switchboard_selector::Candidate],
    ) -> Box<dyn switchboard_selector::Picker> {
        self.0.picker(candidates)
    }
}
