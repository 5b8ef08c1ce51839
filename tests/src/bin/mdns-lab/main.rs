//! mDNS on links that lose, delay, duplicate, break and lie; Avahi on the same beside it. Needs root, for namespaces.
//!
//! `cargo xtask lab [SCENARIO…]` builds what it takes and runs this; without a scenario, all of them. Each machine is a
//! network namespace with one address of IPv4, and the link is a [program](link). What is measured, and what came of it,
//! is in `docs/mdns.md`. `SWITCHBOARD_LAB_SECONDS` is how long a bad link is watched for wrong removals (default 150,
//! past the TTL of 120).
//!
//! It starts itself in the namespaces, as `link`, `flood TYPE COUNT RATE` and `forge TYPE COUNT`, and as `sweep PID` to clean up.

mod hostile;
mod lab;
mod link;
mod neighbours;
mod stack;

use std::fmt::Write as _;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::lab::{Row, SCENARIOS};
use crate::neighbours::Neighbours;
use crate::stack::Stack;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["link"] => link::run(),
        ["flood", kind, count, rate] => hostile::flood(kind, count.parse()?, rate.parse()?),
        ["sweep", parent] => {
            sweep(parent);
            Ok(())
        }
        ["forge", kind, count] => hostile::forge(kind, count.parse()?),
        ref wanted => all(wanted),
    }
}

/// Runs scenarios until done or told to end; either way no namespace is left.
fn all(wanted: &[&str]) -> Result<(), Failure> {
    let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(name)) {
        return Err(format!("no scenario {unknown:?}; there are {}", names.join(", ")).into());
    }
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let neighbours = Neighbours::make_room();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let told = runtime.block_on(async {
        let work = tokio::task::spawn_blocking(move || table(&wanted));
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            done = work => done.map(|()| false).map_err(Failure::from),
            _ = interrupt.recv() => Ok(true),
            _ = terminate.recv() => Ok(true),
        }
    });
    drop(neighbours);
    if told? {
        // Not by return, which would wait for the scenario. Everything that was started ends with this process, and
        // then somebody has to take the namespaces away.
        std::process::Command::new(std::env::current_exe()?)
            .args(["sweep", &std::process::id().to_string()])
            .spawn()?;
        std::process::exit(130);
    }
    Ok(())
}

/// Waits for the end of this process, and removes the namespaces that it has left.
fn sweep(parent: &str) {
    let proc = std::path::Path::new("/proc").join(parent);
    while proc.exists() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    switchboard_tests::netns::remove_stale();
}

fn table(wanted: &[String]) {
    say(Row::HEADER);
    for scenario in SCENARIOS {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == scenario.name) {
            continue;
        }
        // A link of its own for each, at the same time: both wait for most of it.
        let rows = std::thread::scope(|scope| {
            let start = |stack| scope.spawn(move || (scenario.run)(stack, scenario));
            let ours = start(Stack::Switchboard);
            if scenario.alone {
                // Waited for before the other begins; its result is taken below.
                while !ours.is_finished() {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
            [ours, start(Stack::Avahi)].map(std::thread::ScopedJoinHandle::join)
        });
        for (stack, row) in [Stack::Switchboard, Stack::Avahi].into_iter().zip(rows) {
            match row {
                Ok(row) => say(&row.line(scenario.name, stack)),
                Err(_) => say(&format!("| {} | {} | did not come to its end |", scenario.name, stack.name())),
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "what it is for")]
fn say(line: &str) {
    println!("{line}");
}

fn print(line: &Value) {
    let mut text = String::new();
    let _ = write!(text, "{line}");
    say(&text);
}
