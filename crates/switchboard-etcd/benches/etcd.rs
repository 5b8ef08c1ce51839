//! What the registry costs over bare gRPC, against a real etcd: `cargo bench -p switchboard-etcd`.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)]

#[path = "../src/wire.rs"]
#[allow(dead_code, unreachable_pub)]
mod wire;

use std::time::{Duration, Instant};

use futures::StreamExt;
use http::uri::PathAndQuery;
use switchboard_core::{Instance, RegisterOptions, Registry, ServiceName};
use switchboard_etcd::EtcdRegistry;
use switchboard_tests::etcd::Member;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;
use wire::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, Method, PutRequest, RangeRequest,
    WatchCreateRequest, WatchOp, WatchRequest, WatchResponse,
};

const ROUNDS: usize = 1000;
const MANY: usize = 10_000;
/// How the process that reads them is told to.
const READ: &str = "read-many";

fn main() {
    // `cargo test --benches` builds and starts it too; measuring takes an etcd and a release build.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, task, address] = arguments.as_slice() {
        if task == READ {
            return runtime.block_on(read(address));
        }
    }
    runtime.block_on(async {
        side_by_side().await;
        many().await;
    });
}

fn registry(address: &str) -> EtcdRegistry {
    EtcdRegistry::builder().endpoint(address).open().unwrap()
}

fn options() -> RegisterOptions {
    RegisterOptions::new().ttl(Duration::from_secs(600))
}

/// Register → the watcher has it, ours and a bare loop by turns.
async fn side_by_side() {
    let member = Member::alone().await;
    let registry = registry(&member.address());
    let service = ServiceName::new("ours").unwrap();
    let mut watch = registry.watch(&service);
    watch.next().await.unwrap().unwrap();
    let bare = Bare::connect(&member.address()).await;
    let mut events = bare.watch("bare/").await;

    let options = options();
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let instance = Instance::builder(&service)
            .id(format!("ours-{round}"))
            .address("127.0.0.1:7001")
            .build()
            .unwrap();
        let started = Instant::now();
        let seen = async {
            assert_eq!(watch.next().await.unwrap().unwrap().len(), 1);
            started.elapsed()
        };
        let (registered, took) = tokio::join!(registry.register(&instance, &options), seen);
        registered.unwrap();
        ours.push(took);
        registry.deregister(&instance.key()).await.unwrap();
        assert!(watch.next().await.unwrap().unwrap().is_empty());

        let key = format!("bare/{round}");
        let value = serde_json::to_vec(&instance).unwrap();
        let started = Instant::now();
        let seen = async {
            while events.message().await.unwrap().unwrap().events.is_empty() {}
            started.elapsed()
        };
        let register = async {
            let lease = bare.call(LeaseGrantRequest { ttl: 600 }).await.id;
            bare.call(PutRequest { key: key.clone().into(), value, lease }).await;
            lease
        };
        let (lease, took) = tokio::join!(register, seen);
        bares.push(took);
        bare.call(DeleteRangeRequest { key: key.into() }).await;
        bare.call(LeaseRevokeRequest { id: lease }).await;
        while events.message().await.unwrap().unwrap().events.is_empty() {}
    }
    println!("register -> watcher has it, {ROUNDS} rounds by turns, one member");
    println!("{:<24}{:>12}{:>12}{:>12}", "", "median", "p90", "p99");
    for (what, times) in [("switchboard", &mut ours), ("bare tonic loop", &mut bares)] {
        times.sort();
        let at = |part: usize| format!("{:.2} ms", times[times.len() * part / 100].as_secs_f64() * 1e3);
        println!("{what:<24}{:>12}{:>12}{:>12}", at(50), at(90), at(99));
    }
    let ratio = ours[ROUNDS / 2].as_secs_f64() / bares[ROUNDS / 2].as_secs_f64();
    println!("ratio of the medians: {ratio:.2}\n");
}

/// What a program without a library would do.
struct Bare(Grpc<Channel>);

impl Bare {
    async fn connect(address: &str) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self(Grpc::new(channel).max_decoding_message_size(64 << 20))
    }

    async fn call<M: Method>(&self, request: M) -> M::Answer {
        let mut grpc = self.0.clone();
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<M, M::Answer>::default();
        let answer = grpc.unary(Request::new(request), PathAndQuery::from_static(M::PATH), codec).await;
        answer.unwrap().into_inner()
    }

    async fn watch(&self, prefix: &str) -> Streaming<WatchResponse> {
        let mut grpc = self.0.clone();
        grpc.ready().await.unwrap();
        let create = WatchCreateRequest {
            key: prefix.into(),
            range_end: prefix.replace('/', "0").into(),
            start_revision: 0,
            watch_id: 1,
            fragment: true,
        };
        let create = WatchRequest { op: Some(WatchOp::Create(create)) };
        // The stream of requests stays open.
        let requests = futures::stream::iter([create]).chain(futures::stream::pending());
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let answer =
            grpc.streaming(Request::new(requests), PathAndQuery::from_static(wire::WATCH), codec).await;
        let mut events = answer.unwrap().into_inner();
        assert!(events.message().await.unwrap().unwrap().created);
        events
    }
}

fn one_of_many(number: usize, generation: usize) -> Instance {
    Instance::builder("many")
        .id(format!("many-{number}"))
        .version(format!("1.{generation}"))
        .address(format!("10.1.{}.{}:8080", number / 250, number % 250))
        .tag("canary")
        .tag("eu")
        .metadata("zone", "eu-1")
        .metadata("rack", format!("r{number}"))
        .build()
        .unwrap()
}

/// A service with very many instances, read by a process of its own so that its memory is all that counts.
async fn many() {
    let member = Member::alone().await;
    let registry = registry(&member.address());
    let registered = futures::stream::iter(0..MANY).for_each_concurrent(64, async |number| {
        registry.register(&one_of_many(number, 0), &options()).await.unwrap();
    });
    registered.await;
    let program = std::env::current_exe().unwrap();
    let read = tokio::process::Command::new(program).args([READ, &member.address()]).status().await.unwrap();
    assert!(read.success());
}

async fn read(address: &str) {
    let (watcher, writer) = (registry(address), registry(address));
    let bare = Bare::connect(address).await;
    let mut watch = watcher.watch(&ServiceName::new("many").unwrap());
    let (before, started) = (memory("VmRSS"), Instant::now());
    let first = watch.next().await.unwrap().unwrap();
    let took = started.elapsed();
    assert_eq!(first.len(), MANY);
    println!("{MANY} instances of one service, one member");
    let (peak, kept) = (memory("VmHWM") - before, memory("VmRSS") - before);
    println!("{:<44}{took:>9.2?}   peak memory +{peak:.0} MB, +{kept:.0} MB after", "first snapshot");

    let mut times = Vec::new();
    for generation in 1..=9 {
        let changed = one_of_many(MANY / 2, generation);
        let started = Instant::now();
        let next = async {
            let snapshot = watch.next().await.unwrap().unwrap();
            (started.elapsed(), snapshot)
        };
        let options = options();
        let (registered, (took, snapshot)) = tokio::join!(writer.register(&changed, &options), next);
        registered.unwrap();
        assert_eq!(snapshot.diff(&first).len(), 1);
        times.push(took);
    }
    times.sort();
    let (took, peak) = (times[4], memory("VmHWM") - before);
    println!("{:<44}{took:>9.2?}   peak memory +{peak:.0} MB", "one changed instance, median of 9");

    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..9 {
        let started = Instant::now();
        let (key, range_end) = (b"switchboard/many/".to_vec(), b"switchboard/many0".to_vec());
        let all = RangeRequest { key, range_end, limit: 0, revision: 0, keys_only: false };
        bytes = bare.call(all).await.kvs.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
        times.push(started.elapsed());
    }
    times.sort();
    let size = bytes as f64 / 1e6;
    println!(
        "{:<44}{:>9.2?}   {size:.1} MB, no JSON decoded\n",
        "for comparison: a bare range, median of 9", times[4]
    );
}

/// A line of this process's status, in megabytes.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
