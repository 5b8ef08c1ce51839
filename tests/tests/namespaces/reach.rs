//! How far a registry hears: everywhere, this machine alone, nowhere; and what it then says of what it does not hear.

use std::fs::File;

use serde_json::Value;
use switchboard_tests::netns::{Machine, World};
use switchboard_tests::program::Program;

use crate::{LIMIT, greeter, instances, node, node_at, register, until_gone, until_seen};

fn local(id: &str) -> Value {
    serde_json::json!({ "service": "local", "id": id, "addresses": ["127.0.0.1:80"] })
}

/// Asks, and waits for an error that says so, with no empty set before it.
pub(crate) fn until_alone(node: &mut Program, command: &str) {
    let (operation, service) = command.split_once(' ').unwrap_or((command, ""));
    if operation != "watch" {
        node.tell(command);
    }
    node.until(&format!("failure of {command}"), LIMIT, |event| {
        if let Some(told) = instances(event, service) {
            assert!(!told.is_empty(), "told that there is nothing: {event}");
        }
        let message = event["message"].as_str().unwrap_or_default();
        let alone = message.contains("unavailable: loopback is the only interface");
        (event["operation"] == operation && alone).then_some(())
    });
}

/// The ids of an answer to a lookup, which is none if it fails.
fn looked_up(node: &mut Program, service: &str) -> Vec<String> {
    node.tell(format!("lookup {service}"));
    let (found, _) = node.until("lookup", LIMIT, |event| {
        assert!(event["operation"] != "lookup", "{event}");
        (event["event"] == "looked-up").then(|| instances(event, service).cloned())?
    });
    found.iter().filter_map(|one| Some(one["id"].as_str()?.to_owned())).collect()
}

#[test]
#[ignore = "needs root"]
fn when_loopback_is_left_what_was_heard_over_the_link_stays_and_loopback_goes_on() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let (mut far, mut leaves) = (node(&there), node(&there));
    register(&mut far, &greeter("1", "10.0.0.2:80"));
    register(&mut leaves, &greeter("2", "10.0.0.2:81"));
    let (mut server, mut client) = (node(&here), node(&here));
    register(&mut server, &local("a"));
    // Two of its own, so that each tells of one service alone.
    let mut others = node(&here);
    client.tell("watch greeter");
    others.tell("watch local");
    let both = |event: &Value| (instances(event, "greeter")?.len() == 2).then_some(());
    client.until("both", LIMIT, both);
    until_seen(&mut others, "local", "a", LIMIT);

    here.ip("link set eth0 down");
    until_alone(&mut client, "watch greeter");
    until_alone(&mut client, "lookup greeter");
    until_alone(&mut client, "services");
    assert_eq!(looked_up(&mut others, "local"), ["a"]);
    register(&mut server, &local("b"));
    until_seen(&mut others, "local", "b", LIMIT);
    server.tell("deregister local b");
    until_gone(&mut others, "local", "b", LIMIT);
    // mdns-sd looks every two seconds; by now it has told that the far ones have gone, and nobody was.
    until_alone(&mut client, "lookup greeter");

    leaves.tell("close");
    leaves.until("close", LIMIT, |event| (event["event"] == "closed").then_some(()));
    here.ip("link set eth0 up");
    // Told once, when it is known who is still there.
    let ids = |event: &Value| {
        Some(instances(event, "greeter")?.iter().map(|one| one["id"].clone()).collect::<Vec<_>>())
    };
    assert_eq!(client.until("the state again", LIMIT, ids).0, ["1"]);
    assert_eq!(looked_up(&mut client, "greeter"), ["1"]);
}

#[test]
#[ignore = "needs root"]
fn loopback_alone_answers_what_it_has_and_says_nothing_of_what_it_has_not() {
    let world = World::new();
    let machine = world.bare("alone");
    machine.loopback_up();
    let (mut server, mut client) = (node(&machine), node(&machine));
    client.tell("watch local");
    until_alone(&mut client, "watch local");
    until_alone(&mut client, "lookup local");
    until_alone(&mut client, "services");

    register(&mut server, &local("a"));
    until_seen(&mut client, "local", "a", LIMIT);
    let mut fresh = node(&machine);
    assert_eq!(looked_up(&mut fresh, "local"), ["a"]);
    until_alone(&mut fresh, "lookup other");
    server.tell("close");
    until_gone(&mut client, "local", "a", LIMIT);
    assert!(looked_up(&mut client, "local").is_empty(), "it was heard leaving");

    // Where nothing more is wanted, nothing is nothing.
    let mut confined = node_at(&machine, "mdns:?interface=lo");
    assert!(looked_up(&mut confined, "local").is_empty());
}

#[test]
#[ignore = "needs root"]
fn a_named_interface_without_an_address_is_waited_for() {
    let world = World::new();
    let (here, there) = (world.bare("here"), world.machine("there", "10.0.0.2/24"));
    here.loopback_up();
    here.plug("eth0", "br0", "10.0.0.1/24");
    here.ip("address flush dev eth0");
    // As DHCP leaves it for its first seconds; and before that, down and by the kernel's own name for it.
    here.ip("link set eth0 down");
    here.ip("link set eth0 name lan0");
    let mut client = node_at(&here, "mdns:?interface=lan0");
    let mut server = node(&there);
    register(&mut server, &greeter("1", "10.0.0.2:80"));
    client.tell("lookup greeter");
    client.until("failure of lookup", LIMIT, |event| {
        assert!(event["event"] != "looked-up", "told that there is nothing: {event}");
        let message = event["message"].as_str().unwrap_or_default();
        message.contains("unavailable: there is no network interface").then_some(())
    });
    client.tell("watch greeter");
    here.ip("link set lan0 up");
    here.ip("address add 10.0.0.1/24 dev lan0");
    until_seen(&mut client, "greeter", "1", LIMIT);
}

/// A node whose warnings go to a file.
fn warning_node(machine: &Machine<'_>, url: &str, log: &File) -> Program {
    let mut command = machine.command(env!("CARGO_BIN_EXE_mdns-node"));
    command.arg(url).env("RUST_LOG", "switchboard=warn,switchboard_mdns=warn");
    let mut node = Program::start(machine.netns(), command.stderr(log.try_clone().unwrap()));
    node.until("start", LIMIT, |event| (event["event"] == "open").then_some(()));
    node
}

#[test]
#[ignore = "needs root"]
fn a_loopback_address_is_warned_of_once_where_others_could_hear() {
    let world = World::new();
    let machine = world.machine("here", "10.0.0.1/24");
    let warnings = |url: &str, told: &[Value]| {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut node = warning_node(&machine, url, log.as_file());
        for instance in told {
            register(&mut node, instance);
        }
        node.tell("close");
        node.until("close", LIMIT, |event| (event["event"] == "closed").then_some(()));
        let text = std::fs::read_to_string(log.path()).unwrap();
        text.matches("no other machine can reach it").count()
    };
    let renewed = [local("a"), local("a"), local("b")];
    assert_eq!(warnings("mdns:", &renewed), 2, "once for each");
    assert_eq!(warnings("mdns:?interface=lo", &renewed), 0);
    assert_eq!(warnings("mdns:", &[greeter("1", "10.0.0.1:80")]), 0);
}
