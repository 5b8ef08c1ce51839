//! Real peers and real faults, between network namespaces.
//!
//! All in one binary, because most of them wait most of the time: run it with many threads,
//! `cargo test -p switchboard-tests --test namespaces -- --ignored --test-threads 16`. It takes three minutes, the
//! lapse of a record's TTL. With `--nocapture` it prints what took how long.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod addresses;
mod faults;
mod links;
mod neighbours;
mod peers;
mod reach;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use switchboard_tests::netns::Machine;
use switchboard_tests::program::Program;

/// Longer than anything takes but the lapse of a TTL.
const LIMIT: Duration = Duration::from_secs(20);

/// One of our registries in `machine`, opened.
fn node(machine: &Machine<'_>) -> Program {
    node_at(machine, "mdns:")
}

/// The registry of this URL in `machine`, opened.
fn node_at(machine: &Machine<'_>, url: &str) -> Program {
    let mut node = Program::start(machine.netns(), machine.command(env!("CARGO_BIN_EXE_mdns-node")).arg(url));
    node.until("start", LIMIT, |event| (event["event"] == "open").then_some(()));
    node
}

/// Registers an instance and waits for it to be done, if need be again: a machine that is very busy may not announce it in
/// time.
fn register(node: &mut Program, instance: &Value) -> Instant {
    let deadline = Instant::now() + LIMIT;
    loop {
        node.tell(format!("register {instance}"));
        let left = deadline.saturating_duration_since(Instant::now());
        let (registered, at) = node.until("registration", left, |event| match event["event"].as_str() {
            Some("registered") => Some(true),
            Some("error") if event["operation"] == "register" => Some(false),
            _ => None,
        });
        if registered {
            return at;
        }
    }
}

/// What has been told of `service` since it was first seen. A machine that is very busy answers the first question late.
fn told_since_seen<'a>(node: &'a mut Program, service: &'a str) -> impl Iterator<Item = &'a Vec<Value>> {
    let told = node.log().iter().filter_map(move |event| instances(&event.value, service));
    told.skip_while(|instances| instances.is_empty())
}

fn greeter(id: &str, address: &str) -> Value {
    json!({ "service": "greeter", "id": id, "addresses": [address] })
}

/// The instances of `service` that an event of a watch or lookup tells.
fn instances<'a>(event: &'a Value, service: &str) -> Option<&'a Vec<Value>> {
    (event["service"] == service).then(|| event["instances"].as_array())?
}

/// Waits until the instance is seen, by a watch or a lookup; gives it.
fn until_seen(node: &mut Program, service: &str, id: &str, limit: Duration) -> (Value, Instant) {
    node.until(&format!("{service}/{id}"), limit, |event| {
        instances(event, service)?.iter().find(|instance| instance["id"] == id).cloned()
    })
}

/// Waits until the instance is seen at `address` first of all.
fn until_at(node: &mut Program, service: &str, id: &str, address: &str, limit: Duration) -> Instant {
    let what = format!("{service}/{id} at {address}");
    let at = |event: &Value| {
        let found = instances(event, service)?.iter().find(|instance| instance["id"] == id)?;
        (found["addresses"][0] == address).then_some(())
    };
    node.until(&what, limit, at).1
}

/// Waits until the instance is not seen any more.
fn until_gone(node: &mut Program, service: &str, id: &str, limit: Duration) -> Instant {
    node.until(&format!("end of {service}/{id}"), limit, |event| {
        (!instances(event, service)?.iter().any(|instance| instance["id"] == id)).then_some(())
    })
    .1
}

/// Prints how long something took; for the record, not to be judged.
#[expect(clippy::print_stdout, reason = "the figures are what --nocapture is for")]
fn took(what: &str, from: Instant, to: Instant) {
    println!("{what}: {:.2} s", to.saturating_duration_since(from).as_secs_f64());
}
