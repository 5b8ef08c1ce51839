//! How whole the first snapshot of a cold watch is, and how long it takes. Needs root, for namespaces.
//!
//! `cargo run -p switchboard-tests --bin mdns-cold [HOSTS]…` (default 10 and 50) prints a JSON line for each: that many
//! hosts announce one instance each, then a host with nothing in its memory opens a registry and watches, fifty times;
//! on a link that has been quiet for long enough that everybody may answer at once, and a moment after the last reader,
//! when nobody may (RFC 6762 §6).
//!
//! It starts itself in the namespaces, as `serve ADDRESS` and `watch HOSTS PAUSE`.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use switchboard_core::{Instance, RegisterOptions, Registry, ServiceName};
use switchboard_mdns::MdnsRegistry;
use switchboard_tests::netns::{Machine, World};
use switchboard_tests::program::Program;
use tokio::time::{Instant, sleep};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const URL: &str = "mdns:?interface=eth0";

const TIMES: u32 = 50;

/// Longer than all of it takes.
const LIMIT: Duration = Duration::from_secs(400);

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments[..] {
        ["serve", address] => runtime.block_on(serve(address)),
        ["watch", hosts, pause] => runtime.block_on(watch(hosts.parse()?, pause.parse()?)),
        [] => all(&[10, 50]),
        ref hosts => all(&hosts.iter().map(|hosts| hosts.parse()).collect::<Result<Vec<_>, _>>()?),
    }
}

fn all(counts: &[usize]) -> Result<(), Failure> {
    for &hosts in counts {
        let world = World::new();
        let machines: Vec<_> = (1..=hosts)
            .map(|host| world.machine(&format!("h{host}"), &format!("10.0.0.{host}/24")))
            .collect();
        let mut servers = Vec::new();
        for (host, machine) in (1..).zip(&machines) {
            servers.push(start(machine, &["serve", &format!("10.0.0.{host}:80")])?);
        }
        for server in &mut servers {
            server.until("registration", LIMIT, |event| (event["event"] == "registered").then_some(()));
        }
        let reader = world.machine("reader", "10.0.0.250/24");
        for pause in ["2500", "100"] {
            let mut reader = start(&reader, &["watch", &hosts.to_string(), pause])?;
            let (seen, _) =
                reader.until("result", LIMIT, |event| (event["event"] == "first").then(|| event.clone()));
            print(&seen);
        }
    }
    Ok(())
}

fn start(machine: &Machine<'_>, arguments: &[&str]) -> Result<Program, Failure> {
    Ok(Program::start(machine.netns(), machine.command(std::env::current_exe()?).args(arguments)))
}

async fn serve(address: &str) -> Result<(), Failure> {
    let registry = MdnsRegistry::from_url(&URL.parse()?).await?;
    let instance = Instance::builder("greeter").address(address).build()?;
    registry.register(&instance, &RegisterOptions::new()).await?;
    print(&json!({ "event": "registered" }));
    std::future::pending().await
}

async fn watch(hosts: usize, pause: u64) -> Result<(), Failure> {
    let service = ServiceName::new("greeter")?;
    let (mut whole, mut empty, mut least, mut took) = (0, 0, usize::MAX, Vec::new());
    for _ in 0..TIMES {
        sleep(Duration::from_millis(pause)).await;
        let registry = MdnsRegistry::from_url(&URL.parse()?).await?;
        let begun = Instant::now();
        let first = registry.watch(&service).next().await.ok_or("no snapshot")??;
        took.push(begun.elapsed().as_millis());
        whole += u32::from(first.len() == hosts);
        empty += u32::from(first.is_empty());
        least = least.min(first.len());
        registry.close().await?;
    }
    took.sort_unstable();
    print(&json!({
        "event": "first", "hosts": hosts, "pause_ms": pause, "watches": TIMES, "whole": whole, "empty": empty,
        "least": least, "median_ms": took[took.len() / 2], "longest_ms": took[took.len() - 1],
    }));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what it is for")]
fn print(line: &Value) {
    println!("{line}");
}
