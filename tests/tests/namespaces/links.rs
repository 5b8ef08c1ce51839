//! Interfaces that come and go, several of them, and none.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use switchboard_tests::netns::{Machine, World};
use switchboard_tests::program::Program;

use crate::reach::until_alone;
use crate::{
    LIMIT, greeter, instances, node, node_at, register, told_since_seen, took, until_at, until_gone,
    until_seen,
};

/// An address for everything: the registry announces what the machine has.
fn with_addresses(id: &str, addresses: &[&str]) -> serde_json::Value {
    json!({ "service": "greeter", "id": id, "addresses": addresses })
}

#[test]
#[ignore = "needs root"]
fn a_changed_address_reaches_readers() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let (mut server, mut client) = (node(&here), node(&there));
    register(&mut server, &greeter("1", "10.0.0.1:80"));
    client.tell("watch greeter");
    until_seen(&mut client, "greeter", "1", LIMIT);

    // The machine moves; then the program registers where it is now.
    here.ip("address del 10.0.0.1/24 dev eth0");
    here.ip("address add 10.0.0.9/24 dev eth0");
    let changed = Instant::now();
    server.tell(format!("register {}", greeter("1", "10.0.0.9:80")));
    took("address changed until seen", changed, until_at(&mut client, "greeter", "1", "10.0.0.9:80", LIMIT));
    let mut told = told_since_seen(&mut client, "greeter");
    assert!(told.all(|all| all.len() == 1), "an update, not a gap");
}

#[test]
#[ignore = "needs root"]
fn a_server_on_every_address_is_reached_at_the_one_it_advertises() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let (mut server, mut client) = (node(&here), node(&there));
    server.tell("serve greeter 1");
    let (address, _) = server.until("server", LIMIT, |event| Some(event["address"].as_str()?.to_owned()));
    assert!(address.starts_with("10.0.0.1:"), "{address}");

    client.tell("watch greeter");
    let (found, _) = until_seen(&mut client, "greeter", "1", LIMIT);
    assert_eq!(found["addresses"][0], *address);
    client.tell(format!("call {address}"));
    let (heard, _) = client.until("answer", LIMIT, |event| Some(event["heard"].as_str()?.to_owned()));
    assert_eq!(heard, "hello");
}

#[test]
#[ignore = "needs root"]
fn an_address_that_comes_back_is_announced_again() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let (mut server, mut client) = (node(&here), node(&there));
    register(&mut server, &greeter("1", "10.0.0.1:80"));
    here.ip("address del 10.0.0.1/24 dev eth0");
    // Long enough for the daemon, which looks every two seconds, to notice.
    thread::sleep(Duration::from_secs(5));
    here.ip("address add 10.0.0.1/24 dev eth0");
    let back = Instant::now();
    // The client begins now, so what it finds was announced or answered since.
    client.tell("watch greeter");
    took("address back until seen", back, until_at(&mut client, "greeter", "1", "10.0.0.1:80", LIMIT));
}

#[test]
#[ignore = "needs root"]
fn a_link_that_was_down_is_used_again_on_both_sides() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let (mut server, mut client) = (node(&here), node(&there));
    for (node, id, address) in [(&mut server, "1", "10.0.0.1:80"), (&mut client, "2", "10.0.0.2:80")] {
        register(node, &greeter(id, address));
        node.tell("watch greeter");
    }
    until_seen(&mut client, "greeter", "1", LIMIT);
    until_seen(&mut server, "greeter", "2", LIMIT);

    there.ip("link set eth0 down");
    let down = Instant::now();
    // Nobody has left, and loopback is up still.
    until_alone(&mut client, "watch greeter");
    took("own link down until that is told", down, Instant::now());
    there.ip("link set eth0 up");
    let up = Instant::now();
    took("own link up until the other is back", up, until_seen(&mut client, "greeter", "1", LIMIT).1);

    // A fresh reader beside the server, so that nothing remembered can help, finds the one whose link was down.
    let other = world.machine("other", "10.0.0.3/24");
    let mut reader = node(&other);
    reader.tell("watch greeter");
    until_at(&mut reader, "greeter", "2", "10.0.0.2:80", LIMIT);
}

#[test]
#[ignore = "needs root"]
fn a_reader_on_each_link_gets_the_address_of_its_own_link_first() {
    let world = World::new();
    world.add_bridge("br1");
    let server = world.machine("server", "10.0.0.1/24");
    server.plug("eth1", "br1", "10.1.0.1/24");
    let first = world.machine("first", "10.0.0.2/24");
    let second = world.bare("second");
    second.loopback_up();
    second.plug("eth0", "br1", "10.1.0.2/24");

    let (mut server, mut first, mut second) = (node(&server), node(&first), node(&second));
    register(&mut server, &with_addresses("1", &["10.0.0.1:80", "10.1.0.1:80"]));
    first.tell("watch greeter");
    second.tell("watch greeter");
    until_at(&mut first, "greeter", "1", "10.0.0.1:80", LIMIT);
    until_at(&mut second, "greeter", "1", "10.1.0.1:80", LIMIT);
    // And by a lookup, once all that was to be heard has been.
    for (reader, address) in [(&mut first, "10.0.0.1:80"), (&mut second, "10.1.0.1:80")] {
        reader.tell("lookup greeter");
        let (found, _) = until_seen(reader, "greeter", "1", LIMIT);
        assert_eq!(found["addresses"][0], address);
        assert_eq!(found["addresses"].as_array().map(Vec::len), Some(2), "the other is kept as well");
    }
}

#[test]
#[ignore = "needs root"]
fn loopback_is_enough() {
    let world = World::new();
    let machine = world.bare("alone");
    machine.loopback_up();
    let (mut server, mut client) = (node(&machine), node(&machine));
    register(&mut server, &greeter("1", "127.0.0.1:80"));
    client.tell("watch greeter");
    until_at(&mut client, "greeter", "1", "127.0.0.1:80", LIMIT);
    server.tell("close");
    until_gone(&mut client, "greeter", "1", LIMIT);
}

#[test]
#[ignore = "needs root"]
fn without_any_interface_it_opens_and_waits_for_one() {
    let world = World::new();
    let here = world.bare("here");
    let there = world.machine("there", "10.0.0.2/24");
    let mut server = node(&here);
    server.tell(format!("register {}", greeter("1", "10.0.0.1:80")));
    let (message, _) = server.until("refusal", LIMIT, |event| {
        (event["event"] == "error").then(|| event["message"].as_str().unwrap_or_default().to_owned())
    });
    assert!(message.contains("unavailable") && message.contains("no interface"), "{message}");
    for operation in ["lookup", "services", "watch"] {
        server.tell(format!("{operation} greeter"));
        until_no_interface(&mut server, operation);
    }

    here.plug("eth0", "br0", "10.0.0.1/24");
    let up = Instant::now();
    server.tell(format!("register {}", greeter("1", "10.0.0.1:80")));
    server.until("registration", LIMIT, |event| (event["event"] == "registered").then_some(()));
    took("first interface until registered", up, Instant::now());
    let mut client = node(&there);
    client.tell("watch greeter");
    until_at(&mut client, "greeter", "1", "10.0.0.1:80", LIMIT);
    until_seen(&mut server, "greeter", "1", LIMIT);
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_comes_later_makes_no_second_instance() {
    let world = World::new();
    let here = world.bare("here");
    here.loopback_up();
    let mut client = node(&world.machine("there", "10.0.0.2/24"));
    client.tell("watch greeter");
    let mut server = node(&here);
    register(&mut server, &greeter("1", "10.0.0.1:80"));
    here.plug("eth0", "br0", "10.0.0.1/24");
    until_at(&mut client, "greeter", "1", "10.0.0.1:80", LIMIT);
    // For longer than it takes to announce it again, and for some names more.
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        client.tell("lookup greeter");
        let (found, _) = client.until("a lookup", LIMIT, |event| {
            (event["event"] == "looked-up").then(|| instances(event, "greeter").cloned())?
        });
        assert_eq!(found.len(), 1, "{found:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// An error that says so, and no empty set.
fn until_no_interface(node: &mut Program, operation: &str) {
    node.until(&format!("failure of {operation}"), LIMIT, |event| {
        if event["event"] == "snapshot" || event["event"] == "looked-up" || event["event"] == "services" {
            let told = event["instances"].as_array().or(event["names"].as_array());
            assert!(told.is_some_and(|told| !told.is_empty()), "told that there is nothing: {event}");
        }
        let message = event["message"].as_str().unwrap_or_default();
        (event["operation"] == operation && message.contains("no network interface")).then_some(())
    });
}

#[test]
#[ignore = "needs root"]
fn when_the_last_interface_goes_nothing_has_left_and_all_is_told_again() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let mut server = node(&there);
    register(&mut server, &greeter("1", "10.0.0.2:80"));
    let mut client = node_at(&here, "mdns:?interface=eth0");
    client.tell("watch greeter");
    until_seen(&mut client, "greeter", "1", LIMIT);

    here.ip("link set eth0 down");
    for operation in ["watch", "lookup", "services"] {
        if operation != "watch" {
            client.tell(format!("{operation} greeter"));
        }
        until_no_interface(&mut client, operation);
    }
    here.ip("link set eth0 up");
    let (all, _) = client.until("the state again", LIMIT, |event| instances(event, "greeter").map(Vec::len));
    assert_eq!(all, 1, "it is told when it is known again");
}

#[test]
#[ignore = "needs root"]
fn a_first_state_holds_every_host_of_the_link() {
    const HOSTS: usize = 10;
    let world = World::new();
    let machines: Vec<Machine<'_>> =
        (1..=HOSTS).map(|host| world.machine(&format!("h{host}"), &format!("10.0.0.{host}/24"))).collect();
    let mut nodes: Vec<Program> = machines.iter().map(node).collect();
    for (host, node) in (1..).zip(&mut nodes) {
        node.tell(format!("register {}", greeter(&host.to_string(), &format!("10.0.0.{host}:80"))));
    }
    for node in &mut nodes {
        node.until("registration", LIMIT, |event| (event["event"] == "registered").then_some(()));
    }
    let reader = world.machine("reader", "10.0.0.250/24");
    // Each reader knows nothing, and asks before everybody may answer again (RFC 6762 §6).
    for command in ["watch greeter", "lookup greeter", "watch greeter"] {
        // A settle window that holds on a busy machine too.
        let mut reader = node_at(&reader, "mdns:?settle=1s");
        let asked = Instant::now();
        reader.tell(command);
        let (first, told) =
            reader.until("first state", LIMIT, |event| instances(event, "greeter").map(Vec::len));
        took(&format!("{command}: first state of {HOSTS} hosts"), asked, told);
        assert_eq!(first, HOSTS, "{command}");
    }
}
