//! Processes that die and links that break.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use switchboard_tests::netns::World;
use switchboard_tests::program::Program;

use crate::{
    LIMIT, greeter, instances, node, register, told_since_seen, took, until_at, until_gone, until_seen,
};

/// How long the link is cut: past the 120 s that address and SRV records live, unless `SWITCHBOARD_PARTITION_SECONDS`
/// says otherwise.
fn partition() -> Duration {
    let given = std::env::var("SWITCHBOARD_PARTITION_SECONDS").ok();
    Duration::from_secs(given.map_or(130, |seconds| seconds.parse().expect("a number of seconds")))
}

/// What a reader takes to notice by itself that a process is gone: TTL and some.
const LAPSE: Duration = Duration::from_secs(140);

/// What a reader takes at most with a suspicion: half of the 120 s that it takes at least without one. It is 3 s on a machine that has
/// nothing else to do.
const SUSPECTED: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root; takes two minutes and a half"]
fn a_partition_heals_by_itself() {
    let world = World::new();
    let machines = [
        world.machine("a", "10.0.0.1/24"),
        world.machine("b", "10.0.0.2/24"),
        world.machine("c", "10.0.0.3/24"),
    ];
    let ids = ["a", "b", "c"];
    let mut nodes: Vec<Program> = machines.iter().map(node).collect();
    for (number, node) in nodes.iter_mut().enumerate() {
        register(node, &greeter(ids[number], &format!("10.0.0.{}:80", number + 1)));
        node.tell("watch greeter");
    }
    for node in &mut nodes {
        node.until("all three", LIMIT, |event| {
            instances(event, "greeter").filter(|all| all.len() == 3).map(drop)
        });
    }

    machines[2].cut("eth0");
    let cut = Instant::now();
    thread::sleep(partition());
    let [a, b, c] = &mut nodes[..] else { unreachable!("three") };
    if partition() > LAPSE.mul_f32(0.9) {
        for (node, id) in [(&mut *a, "c"), (&mut *b, "c"), (&mut *c, "a")] {
            took(&format!("partition: {id} gone after the cut"), cut, until_gone(node, "greeter", id, LIMIT));
        }
    }
    for (node, here, there) in [(&mut *a, "a", "b"), (&mut *b, "b", "a")] {
        let last = node.log().iter().rev().find_map(|event| instances(&event.value, "greeter")).cloned();
        let left: Vec<Value> = last.into_iter().flatten().map(|instance| instance["id"].clone()).collect();
        assert!(
            left.contains(&here.into()) && left.contains(&there.into()),
            "those on one side stay: {left:?}"
        );
    }

    machines[2].heal("eth0", "br0");
    let healed = Instant::now();
    for (node, id) in [(a, "c"), (b, "c"), (&mut *c, "a")] {
        took(
            &format!("partition: {id} back after the healing"),
            healed,
            until_seen(node, "greeter", id, LIMIT).1,
        );
    }
    until_both(c, ["a", "b"]);
}

fn until_both(node: &mut Program, ids: [&str; 2]) {
    let there = |event: &Value| instances(event, "greeter").is_some_and(|all| all.len() == 3).then_some(());
    let already = node.log().iter().rev().find_map(|event| instances(&event.value, "greeter"));
    if already.is_none_or(|all| all.len() < 3) {
        node.until(&format!("{ids:?}"), LIMIT, there);
    }
}

#[test]
#[ignore = "needs root"]
fn a_killed_process_is_gone_soon_once_suspected() {
    let world = World::new();
    let (mut server, mut client) = served(&world);
    // Past the second in which no record may be doubted.
    thread::sleep(Duration::from_secs(2));
    let killed = server.kill();
    for service in SERVICES {
        client.tell(format!("suspect {service} 1"));
    }
    took("SIGKILL and suspect until gone", killed, until_all_gone(&mut client, SUSPECTED));
}

#[test]
#[ignore = "needs root; takes two minutes"]
fn a_killed_process_is_gone_when_its_records_lapse() {
    let world = World::new();
    let (mut server, mut client) = served(&world);
    thread::sleep(Duration::from_secs(2));
    let killed = server.kill();
    took("SIGKILL until gone by TTL", killed, until_all_gone(&mut client, LAPSE));
}

/// Several, because what is done for each in the order of a hash map goes right for some by chance.
const SERVICES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// A process that registers an instance of each of [`SERVICES`], and one that watches them.
fn served(world: &World) -> (Program, Program) {
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let (mut server, mut client) = (node(&here), node(&there));
    for service in SERVICES {
        let instance = serde_json::json!({ "service": service, "id": "1", "addresses": ["10.0.0.1:80"] });
        server.tell(format!("register {instance}"));
        client.tell(format!("watch {service}"));
    }
    let mut left: BTreeSet<&str> = SERVICES.into();
    client.until("all services", LIMIT, |event| {
        left.retain(|service| instances(event, service).is_none_or(Vec::is_empty));
        left.is_empty().then_some(())
    });
    (server, client)
}

fn until_all_gone(client: &mut Program, limit: Duration) -> Instant {
    let mut left: BTreeSet<&str> = SERVICES.into();
    let what = "end of every service";
    client
        .until(what, limit, |event| {
            left.retain(|service| instances(event, service).is_none_or(|all| !all.is_empty()));
            left.is_empty().then_some(())
        })
        .1
}

#[test]
#[ignore = "needs root"]
fn a_killed_process_that_returns_on_another_port_is_never_missed() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let (mut server, mut client) = (node(&here), node(&there));
    register(&mut server, &greeter("1", "10.0.0.1:80"));
    client.tell("watch greeter");
    until_seen(&mut client, "greeter", "1", LIMIT);
    thread::sleep(Duration::from_secs(2));
    let killed = server.kill();
    let mut server = node(&here);
    register(&mut server, &greeter("1", "10.0.0.1:81"));
    let back = until_at(&mut client, "greeter", "1", "10.0.0.1:81", LIMIT);
    took("SIGKILL, started again, until seen on its new port", killed, back);
    let mut told = told_since_seen(&mut client, "greeter");
    assert!(told.all(|all| all.len() == 1), "there was a gap, or the old one too");
}

#[test]
#[ignore = "needs root"]
fn a_killed_process_that_returns_on_another_host_has_its_id() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let elsewhere = world.machine("elsewhere", "10.0.0.3/24");
    let (mut server, mut client) = (node(&here), node(&there));
    register(&mut server, &greeter("1", "10.0.0.1:80"));
    client.tell("watch greeter");
    until_seen(&mut client, "greeter", "1", LIMIT);
    thread::sleep(Duration::from_secs(2));
    server.kill();
    let mut server = node(&elsewhere);
    register(&mut server, &greeter("1", "10.0.0.3:80"));
    until_at(&mut client, "greeter", "1", "10.0.0.3:80", LIMIT);
    let mut told = told_since_seen(&mut client, "greeter");
    assert!(told.all(|all| all.len() == 1), "there was a gap, or the old one too");
}

#[test]
#[ignore = "needs root"]
fn one_id_on_two_hosts_is_two_instances() {
    let world = World::new();
    let (one, two) = (world.machine("one", "10.0.0.1/24"), world.machine("two", "10.0.0.2/24"));
    let reader = world.machine("reader", "10.0.0.3/24");
    let (mut first, mut second, mut client) = (node(&one), node(&two), node(&reader));
    register(&mut first, &greeter("1", "10.0.0.1:80"));
    register(&mut second, &greeter("1", "10.0.0.2:80"));
    client.tell("watch greeter");
    let both = |event: &Value| {
        let told = instances(event, "greeter")?.iter();
        let told: Vec<_> = told.map(|all| [all["id"].clone(), all["addresses"][0].clone()]).collect();
        (told == [["1", "10.0.0.1:80"], ["1 (2)", "10.0.0.2:80"]]).then_some(())
    };
    client.until("both", LIMIT, both);
    // The one that is renamed goes on under its id when the other has gone.
    first.tell("close");
    let left = |event: &Value| instances(event, "greeter").filter(|all| all.len() == 1).cloned();
    let (left, _) = client.until("one", LIMIT, left);
    assert_eq!((&left[0]["id"], &left[0]["addresses"][0]), (&"1".into(), &"10.0.0.2:80".into()));
}

#[test]
#[ignore = "needs root"]
fn an_orderly_end_is_told_at_once() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let (mut server, mut client) = (node(&here), node(&there));
    register(&mut server, &greeter("1", "10.0.0.1:80"));
    client.tell("watch greeter");
    until_seen(&mut client, "greeter", "1", LIMIT);
    let closing = Instant::now();
    server.tell("close");
    took("close until gone", closing, until_gone(&mut client, "greeter", "1", LIMIT));
}
