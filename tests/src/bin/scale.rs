//! What an instance, a watch and a change cost the client, Consul's agent and its server, and the link. Needs root for
//! mDNS, which runs between namespaces.
//!
//! `cargo run --release -p switchboard-tests --bin scale [memory|consul|mdns]…` prints the tables of `docs/scale.md`. The
//! Consul is `CONSUL_BIN`, else `consul` of the path: a server and a client agent on loopback, and between the program
//! and its agent a relay that counts.
//!
//! It starts itself as the program that is measured: `instances URL COUNT` and `watches URL COUNT`.
#![expect(clippy::cast_precision_loss, reason = "figures to look at")]

use std::io::BufRead as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};
use switchboard_consul::ConsulRegistry;
use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry, RegistryUrl, ServiceName};
use switchboard_mdns::MdnsRegistry;
use switchboard_tests::consul::Agent;
use switchboard_tests::netns::{Machine, World};
use switchboard_tests::program::Program;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SIZES: [usize; 3] = [10, 100, 1_000];

/// How long something is watched doing nothing.
const REST: Duration = Duration::from_secs(30);

const CHANGES: u32 = 10;

const LIMIT: Duration = Duration::from_secs(120);

/// The default of the registrar.
const INTERVAL: Duration = Duration::from_secs(30);

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match arguments[..] {
            ["instances", url, count] => instances(url, count.parse()?).await,
            ["watches", url, count] => watches(url, count.parse()?).await,
            ref wanted => {
                for (name, registry) in [("memory", 0), ("consul", 1), ("mdns", 2)] {
                    if wanted.is_empty() || wanted.contains(&name) {
                        match registry {
                            0 => memory().await?,
                            1 => consul().await?,
                            _ => mdns().await?,
                        }
                    }
                }
                Ok(())
            }
        }
    })
}

async fn open(url: &str) -> Result<Arc<dyn Registry>, Failure> {
    let url: RegistryUrl = url.parse()?;
    Ok(match url.scheme() {
        "consul" => Arc::new(ConsulRegistry::from_url(&url)?),
        "mdns" => Arc::new(MdnsRegistry::from_url(&url).await?),
        _ => Arc::new(MemoryRegistry::new()),
    })
}

fn instance(service: &str, number: usize) -> Result<Instance, Failure> {
    let address = format!("10.0.{}.{}:8080", number / 250, 1 + number % 250);
    let builder = Instance::builder(service).id(format!("instance-{number}")).address(address);
    Ok(builder.version("1.0.0").metadata("zone", "eu-1a").build()?)
}

/// Registers so many instances of one service, and renews each every 30 s.
async fn instances(url: &str, count: usize) -> Result<(), Failure> {
    let registry = open(url).await?;
    let options = RegisterOptions::new();
    let all: Vec<Instance> = (0..count).map(|number| instance("scale", number)).collect::<Result<_, _>>()?;
    // Those that are refused in the rush are tried again.
    futures::stream::iter(&all)
        .for_each_concurrent(16, |instance| async {
            while registry.register(instance, &options).await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    for instance in all {
        let registry = registry.clone();
        tokio::spawn(async move {
            let mut next = Instant::now() + INTERVAL.mul_f64(fastrand::f64());
            loop {
                sleep_until(next).await;
                let _ = registry.register(&instance, &RegisterOptions::new()).await;
                next += INTERVAL;
            }
        });
    }
    until_told()
}

/// Watches so many services, the first of which is that of [`instances`].
async fn watches(url: &str, count: usize) -> Result<(), Failure> {
    let registry = open(url).await?;
    let told = Arc::new(AtomicU64::new(0));
    for number in 0..count {
        let name = if number == 0 { "scale".into() } else { format!("scale-{number}") };
        let (mut watch, told) = (registry.watch(&ServiceName::new(name)?), told.clone());
        tokio::spawn(async move {
            while watch.next().await.is_some() {
                told.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while told.load(Ordering::Relaxed) < count as u64 {
        sleep(Duration::from_millis(10)).await;
    }
    until_told()
}

/// Says that it is ready, and at each line what it has used.
fn until_told() -> Result<(), Failure> {
    say(&json!({ "event": "ready" }));
    for line in std::io::stdin().lock().lines() {
        line?;
        let [received, sent] = link_bytes();
        let usage = switchboard_tests::usage::Usage::now();
        say(&json!({
            "event": "used", "cpu": usage.cpu as f64 / 100.0, "rss": rss(std::process::id()), "received": usage.received,
            "sent": usage.sent, "bytes_received": received, "bytes_sent": sent,
        }));
    }
    // Without a goodbye: nobody waits for it.
    std::process::exit(0)
}

/// The resident memory of a process, in KiB.
fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// The CPU time of a process, in seconds.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// What `eth0` has received and sent, in bytes.
fn link_bytes() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    [0, 8].map(|at| fields.get(at).copied().unwrap_or_default())
}

/// A program that is measured.
struct Measured(Program);

impl Measured {
    fn start(machine: Option<&Machine<'_>>, what: &str, url: &str, count: usize) -> Result<Self, Failure> {
        let own = std::env::current_exe()?;
        let mut command = match machine {
            Some(machine) => machine.command(own),
            None => std::process::Command::new(own),
        };
        let mut program = Program::start(what, command.args([what, url, &count.to_string()]));
        program.until("start", LIMIT, |event| (event["event"] == "ready").then_some(()));
        Ok(Self(program))
    }

    fn used(&mut self) -> Value {
        self.0.tell("used");
        self.0.until("use", LIMIT, |event| (event["event"] == "used").then(|| event.clone())).0
    }
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_default()
}

fn percent(before: f64, after: f64) -> f64 {
    100.0 * (after - before) / REST.as_secs_f64()
}

/// What went through the relay.
#[derive(Default)]
struct Counts {
    open: AtomicU64,
    requests: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl Counts {
    fn now(&self) -> [f64; 4] {
        [&self.open, &self.requests, &self.up, &self.down].map(|count| count.load(Ordering::Relaxed) as f64)
    }
}

/// A relay to this port on loopback; its own port.
async fn relay(to: u16, counts: Arc<Counts>) -> Result<u16, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let counts = counts.clone();
            tokio::spawn(async move {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await {
                    counts.open.fetch_add(1, Ordering::Relaxed);
                    let (client, server) = (client.into_split(), server.into_split());
                    let up = pass(client.0, server.1, &counts.up, Some(&counts.requests));
                    let down = pass(server.0, client.1, &counts.down, None);
                    tokio::select! { () = up => {}, () = down => {} }
                    counts.open.fetch_sub(1, Ordering::Relaxed);
                }
            });
        }
    });
    Ok(port)
}

/// Passes bytes on; a request is a piece that begins like one, since nobody here pipelines.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    bytes: &AtomicU64,
    requests: Option<&AtomicU64>,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        bytes.fetch_add(len as u64, Ordering::Relaxed);
        if let Some(requests) = requests {
            if buffer.starts_with(b"GET ") || buffer.starts_with(b"PUT ") {
                requests.fetch_add(1, Ordering::Relaxed);
            }
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}

async fn consul() -> Result<(), Failure> {
    say_line(
        "| Consul | connections | requests/s at rest | KiB/s at rest | client: MiB, CPU | agent: MiB, CPU | server: MiB, CPU | a change: requests, KiB |",
    );
    say_line("|---|---|---|---|---|---|---|---|");
    for (what, size) in [
        ("watches", 10),
        ("watches", 100),
        ("watches", 1_000),
        ("instances", 10),
        ("instances", 100),
        ("instances", 1_000),
    ] {
        let server = Agent::dev().await;
        let agent = Agent::client_of(&server).await;
        let counts = Arc::new(Counts::default());
        let url = format!("consul://127.0.0.1:{}", relay(agent.http, counts.clone()).await?);
        let direct = format!("consul://127.0.0.1:{}", agent.http);
        let _others = match what {
            "watches" => Some(Measured::start(None, "instances", &direct, 10)?),
            _ => None,
        };
        if what == "watches" {
            // Each service exists: a watch of one that does not wakes more often.
            for number in 1..size {
                let body = json!({ "Name": format!("scale-{number}"), "Port": 80 });
                agent.put("/v1/agent/service/register", &body.to_string()).await;
            }
        }
        let mut measured = Measured::start(None, what, &url, size)?;
        sleep(Duration::from_secs(5)).await;
        let (began, used) = (counts.now(), measured.used());
        let [agent_cpu, server_cpu] = [&agent, &server].map(|agent| cpu(agent.pid()));
        sleep(REST).await;
        let (ended, then) = (counts.now(), measured.used());
        let rest = REST.as_secs_f64();
        let line = format!(
            "| {size} {what} | {} | {:.1} | {:.1} | {:.0}, {:.1} % | {:.0}, {:.1} % | {:.0}, {:.1} %",
            ended[0],
            (ended[1] - began[1]) / rest,
            (ended[2] + ended[3] - began[2] - began[3]) / rest / 1024.0,
            number(&then, "rss") / 1024.0,
            percent(number(&used, "cpu"), number(&then, "cpu")),
            rss(agent.pid()) as f64 / 1024.0,
            percent(agent_cpu, cpu(agent.pid())),
            rss(server.pid()) as f64 / 1024.0,
            percent(server_cpu, cpu(server.pid())),
        );
        // What one watch of the service costs when one of its instances changes: of `size` here, of ten there.
        let counts = if what == "instances" {
            let counts = Arc::new(Counts::default());
            let url = format!("consul://127.0.0.1:{}", relay(agent.http, counts.clone()).await?);
            let watch = Measured::start(None, "watches", &url, 1)?;
            (counts, Some(watch))
        } else {
            (counts, None)
        };
        sleep(Duration::from_secs(2)).await;
        let before = counts.0.now();
        for change in 0..CHANGES {
            let body = json!({ "ID": "changed", "Name": "scale", "Port": 1000 + change });
            agent.put("/v1/agent/service/register", &body.to_string()).await;
            sleep(Duration::from_secs(1)).await;
        }
        let after = counts.0.now();
        let each = f64::from(CHANGES);
        say_line(&format!(
            "{line} | {:.1}, {:.1} |",
            (after[1] - before[1]) / each,
            (after[2] + after[3] - before[2] - before[3]) / each / 1024.0
        ));
    }
    Ok(())
}

async fn mdns() -> Result<(), Failure> {
    say_line(
        "| mDNS | packets/s sent at rest | KiB/s | registering program: MiB, CPU | reader with one watch: MiB, CPU | reader with so many watches: MiB, CPU |",
    );
    say_line("|---|---|---|---|---|---|");
    for size in SIZES {
        let world = World::new();
        let [here, there, more] = [("here", 1), ("there", 2), ("more", 3)]
            .map(|(name, number)| world.machine(name, &format!("10.0.0.{number}/24")));
        let url = "mdns:?interface=eth0";
        let mut measured = [
            Measured::start(Some(&here), "instances", url, size)?,
            Measured::start(Some(&there), "watches", url, 1)?,
            Measured::start(Some(&more), "watches", url, size)?,
        ];
        sleep(Duration::from_secs(10)).await;
        let before: Vec<Value> = measured.iter_mut().map(Measured::used).collect();
        // The TTL of addresses is 120 s, so that this holds a refresh of each.
        let long = Duration::from_secs(120);
        sleep(long).await;
        let after: Vec<Value> = measured.iter_mut().map(Measured::used).collect();
        let all = |key: &str| {
            before
                .iter()
                .zip(&after)
                .map(|(before, after)| number(after, key) - number(before, key))
                .sum::<f64>()
                / long.as_secs_f64()
        };
        let own = |at: usize| {
            let used = number(&after[at], "cpu") - number(&before[at], "cpu");
            format!("{:.0}, {:.1} %", number(&after[at], "rss") / 1024.0, 100.0 * used / long.as_secs_f64())
        };
        say_line(&format!(
            "| {size} | {:.1} | {:.1} | {} | {} | {} |",
            all("sent"),
            all("bytes_sent") / 1024.0,
            own(0),
            own(1),
            own(2)
        ));
    }
    Ok(())
}

async fn memory() -> Result<(), Failure> {
    say_line("| memory | MiB with so many instances | MiB with so many watches | CPU at rest |");
    say_line("|---|---|---|---|");
    for size in SIZES {
        let mut instances = Measured::start(None, "instances", "memory:", size)?;
        let mut watches = Measured::start(None, "watches", "memory:", size)?;
        let before = [instances.used(), watches.used()];
        sleep(REST).await;
        let after = [instances.used(), watches.used()];
        let used = |at: usize| percent(number(&before[at], "cpu"), number(&after[at], "cpu"));
        say_line(&format!(
            "| {size} | {:.1} | {:.1} | {:.2} %, {:.2} % |",
            number(&after[0], "rss") / 1024.0,
            number(&after[1], "rss") / 1024.0,
            used(0),
            used(1)
        ));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what it is for")]
fn say_line(line: &str) {
    println!("{line}");
}

fn say(line: &Value) {
    say_line(&line.to_string());
}
