//! What the registry costs over bare HTTP, against a real agent: `cargo bench -p switchboard-consul`.
//!
//! Needs a `consul` binary (`scripts/install-consul.sh`).

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)]

use std::time::{Duration, Instant};

use futures::StreamExt;
use switchboard_consul::ConsulRegistry;
use switchboard_core::{Instance, RegisterOptions, Registry, ServiceName};
use switchboard_tests::consul::Agent;

const ROUNDS: usize = 200;
const MANY: usize = 10_000;
/// How the process that reads them is told to.
const READ: &str = "read-many";

fn main() {
    // `cargo test --benches` builds and starts it too; measuring takes an agent and a release build.
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
        many().await;
        side_by_side().await;
    });
}

fn registry(agent: &Agent) -> ConsulRegistry {
    ConsulRegistry::builder().ignore_env().address(&agent.address()).build().unwrap()
}

/// Register → the watcher has it, ours and a bare blocking loop by turns.
async fn side_by_side() {
    let agent = Agent::dev().await;
    let registry = registry(&agent);
    let service = ServiceName::new("ours").unwrap();
    let mut watch = registry.watch(&service);
    watch.next().await.unwrap().unwrap();
    let mut bare = Bare { http: agent.client.clone(), base: agent.address(), index: String::from("1") };
    bare.wait_for(false).await;

    let options = RegisterOptions::new().ttl(Duration::from_secs(60));
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let instance = Instance::builder(&service)
            .id(format!("ours-{round}"))
            .address("127.0.0.1:7001")
            .build()
            .unwrap();
        let started = Instant::now();
        let seen = async {
            let snapshot = watch.next().await.unwrap().unwrap();
            assert_eq!(snapshot.len(), 1);
            started.elapsed()
        };
        let (registered, took) = tokio::join!(registry.register(&instance, &options), seen);
        registered.unwrap();
        ours.push(took);
        registry.deregister(&instance.key()).await.unwrap();
        assert!(watch.next().await.unwrap().unwrap().is_empty());

        let started = Instant::now();
        let put = Bare { http: bare.http.clone(), base: bare.base.clone(), index: String::new() };
        let seen = async {
            bare.wait_for(true).await;
            started.elapsed()
        };
        let ((), took) = tokio::join!(put.register(round), seen);
        bares.push(took);
        put.put(&format!("/v1/agent/service/deregister/bare-{round}"), String::new()).await;
        bare.wait_for(false).await;
    }
    println!("register -> watcher has it, {ROUNDS} rounds by turns, one dev agent");
    println!("{:<24}{:>12}{:>12}{:>12}", "", "median", "p90", "p99");
    for (what, times) in [("switchboard", &mut ours), ("bare blocking loop", &mut bares)] {
        times.sort();
        let at = |part: usize| format!("{:.2} ms", times[times.len() * part / 100].as_secs_f64() * 1e3);
        println!("{what:<24}{:>12}{:>12}{:>12}", at(50), at(90), at(99));
    }
    let ratio = ours[ROUNDS / 2].as_secs_f64() / bares[ROUNDS / 2].as_secs_f64();
    println!("ratio of the medians: {ratio:.2}\n");
}

/// What a program without a library would do.
struct Bare {
    http: reqwest::Client,
    base: String,
    index: String,
}

impl Bare {
    async fn put(&self, path: &str, body: String) {
        let answer = self.http.put(format!("{}{path}", self.base)).body(body).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    async fn register(&self, round: usize) {
        let body = format!(
            r#"{{"ID":"bare-{round}","Name":"bare","Address":"127.0.0.1","Port":7001,
                "Check":{{"CheckID":"service:bare-{round}","TTL":"60s","Status":"passing"}}}}"#
        );
        self.put("/v1/agent/service/register", body).await;
    }

    /// Until the service has, or has not, an instance.
    async fn wait_for(&mut self, there: bool) {
        loop {
            let url = format!("{}/v1/health/service/bare?index={}&wait=60s", self.base, self.index);
            let answer = self.http.get(url).send().await.unwrap();
            answer.headers()["x-consul-index"].to_str().unwrap().clone_into(&mut self.index);
            let found: Vec<serde_json::Value> =
                serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
            if found.is_empty() != there {
                return;
            }
        }
    }
}

/// A service with very many instances, read by a process of its own so that its memory is all that counts.
async fn many() {
    let agent = Agent::dev().await;
    let address = agent.address();
    let put = async |number| put(&agent.client, &address, number, 0).await;
    futures::stream::iter(0..MANY).for_each_concurrent(16, put).await;
    let program = std::env::current_exe().unwrap();
    let read = tokio::process::Command::new(program).args([READ, &address]).status().await.unwrap();
    assert!(read.success());
}

/// Puts one of them into the catalog, as another agent would.
async fn put(http: &reqwest::Client, address: &str, number: usize, generation: usize) {
    let body = format!(
        r#"{{"Node":"node-{}","Address":"10.0.0.1",
            "Service":{{"ID":"many-{number}","Service":"many","Address":"10.1.{}.{}","Port":8080,
              "Tags":["canary","eu"],"Meta":{{"version":"1.{generation}","zone":"eu-1","rack":"r{number}"}}}},
            "Check":{{"CheckID":"service:many-{number}","Name":"TTL","Status":"passing",
              "ServiceID":"many-{number}"}}}}"#,
        number / 100,
        number / 250,
        number % 250,
    );
    let answer = http.put(format!("{address}/v1/catalog/register")).body(body).send().await.unwrap();
    assert!(answer.status().is_success());
}

async fn read(address: &str) {
    let registry = ConsulRegistry::builder().ignore_env().address(address).build().unwrap();
    let mut watch = registry.watch(&ServiceName::new("many").unwrap());
    let (before, started) = (memory("VmRSS"), Instant::now());
    let first = watch.next().await.unwrap().unwrap();
    let took = started.elapsed();
    assert_eq!(first.len(), MANY);
    println!("{MANY} instances of one service, one dev agent");
    let (peak, kept) = (memory("VmHWM") - before, memory("VmRSS") - before);
    println!("{:<44}{took:>9.2?}   peak memory +{peak:.0} MB, +{kept:.0} MB after", "first snapshot");

    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut times = Vec::new();
    for generation in 1..=9 {
        let started = Instant::now();
        let next = async {
            let snapshot = watch.next().await.unwrap().unwrap();
            (started.elapsed(), snapshot)
        };
        let ((), (took, snapshot)) = tokio::join!(put(&http, address, MANY / 2, generation), next);
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
        let answer = http.get(format!("{address}/v1/health/service/many")).send().await.unwrap();
        bytes = answer.bytes().await.unwrap().len();
        times.push(started.elapsed());
    }
    times.sort();
    let size = bytes as f64 / 1e6;
    println!(
        "{:<44}{:>9.2?}   {size:.1} MB, nothing decoded\n",
        "for comparison: a bare GET, median of 9", times[4]
    );
}

/// A line of this process's status, in megabytes.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
