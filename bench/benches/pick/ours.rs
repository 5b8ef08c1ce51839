use criterion::{BatchSize, Criterion};
use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry, ServiceName, Snapshot};
use switchboard_selector::{
    Balancer, CallOptions, Candidate, ConsistentHash, LeastRequest, PeakEwma, Pick, Picker, Random, Request,
    RoundRobin, Selector, Strategy,
};
use switchboard_watcher::Directory;
use tokio::runtime::{Builder, Runtime};

use crate::measure::{Call, Measure};

impl Call for Pick {
    fn index(&self) -> usize {
        self.id().as_str().parse().expect("a number")
    }

    fn end(self) {
        self.success();
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn instance(index: usize, weight: u16) -> Instance {
    let address = format!("10.{}.{}.{}:80", index >> 16, index >> 8 & 255, index & 255);
    let instance = Instance::builder("bench").id(format!("{index:05}")).address(address);
    instance.weight(weight).build().expect("valid")
}

fn snapshot(indices: impl Iterator<Item = usize>) -> Snapshot {
    Snapshot::new(ServiceName::new("bench").expect("valid"), indices.map(|index| instance(index, 1)))
}

async fn balancer(weights: &[u16]) -> (Balancer, Selector) {
    let registry = MemoryRegistry::new();
    for (index, &weight) in weights.iter().enumerate() {
        registry.register(&instance(index, weight), &RegisterOptions::new()).await.expect("registered");
    }
    let selector = Selector::new(Directory::new(registry));
    let balancer = selector.service("bench").expect("valid");
    balancer.ready().await.expect("ready");
    assert_eq!(balancer.report().len(), weights.len());
    (balancer, selector)
}

pub fn run(measure: &mut Measure) {
    let runtime = runtime();
    let _entered = runtime.enter();
    let (balancer, _selector) = runtime.block_on(balancer(&measure.weights()));
    let mut case = |name, options| {
        let balancer = balancer.with(&options);
        measure.shared(name, |_| balancer.pick().expect("an instance"));
    };
    case("random", CallOptions::new().strategy(Random));
    case("round robin", CallOptions::new().strategy(RoundRobin));
    case("p2c least request", CallOptions::new().strategy(LeastRequest));
    case("p2c peak EWMA", CallOptions::new().strategy(PeakEwma));
    let hash = balancer.with(&CallOptions::new().strategy(ConsistentHash));
    measure
        .shared("Maglev", |key| hash.pick_for(&Request::new().key(key.to_le_bytes())).expect("an instance"));
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
    let (balancer, _selector) = runtime.block_on(balancer(&[1; 10_000]));
    fn case(criterion: &mut Criterion, balancer: &Balancer, name: &str, strategy: impl Strategy + Clone) {
        let options = || CallOptions::new().strategy(Fresh(strategy.clone(), 0));
        criterion.bench_function(&format!("rebuild {name}"), |bencher| {
            bencher.iter_batched(options, |options| balancer.with(&options), BatchSize::PerIteration);
        });
    }
    case(criterion, &balancer, "random", Random);
    case(criterion, &balancer, "round robin", RoundRobin);
    case(criterion, &balancer, "p2c least request", LeastRequest);
    case(criterion, &balancer, "p2c peak EWMA", PeakEwma);
    case(criterion, &balancer, "Maglev", ConsistentHash);
}

/// A strategy that is no other's equal, so that its picker is made anew.
#[derive(Debug)]
struct Fresh<S>(S, #[allow(dead_code)] u8);

impl<S: Strategy> Strategy for Fresh<S> {
    fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker> {
        self.0.picker(candidates)
    }
}
