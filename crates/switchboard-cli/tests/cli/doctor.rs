//! `doctor` on networks that are broken in known ways.

use switchboard_tests::netns::{Machine, World};

use crate::support::{Running, Said, golden, mdns, run, said};

/// With nothing but loopback.
fn alone(world: &World) -> Machine<'_> {
    let machine = world.bare("alone");
    machine.loopback_up();
    machine
}

fn doctor(machine: &Machine<'_>) -> Said {
    let mut command = machine.command(env!("CARGO_BIN_EXE_switchboard"));
    said(command.args(["doctor", "--registry", "mdns:"]).output().unwrap())
}

#[test]
fn loopback_that_was_asked_for_is_well() {
    let at = mdns();
    let port = at.rsplit('=').next().unwrap();
    // So small a buffer everybody gets.
    let at = format!("{at}&receive_buffer=65536");
    let text = run(&at, &["doctor"]);
    assert_eq!(text.code, Some(0), "{text:?}");
    // A machine without IPv6 has one address there.
    golden("doctor.txt", &text.out, &[(port, "PORT"), ("127.0.0.1, ::1", "127.0.0.1")]);
    let json = run(&at, &["doctor", "--json"]);
    golden("doctor.json", &json.out, &[(port, "PORT"), ("127.0.0.1, ::1", "127.0.0.1")]);
}

#[test]
#[ignore = "needs root"]
fn a_machine_with_only_loopback() {
    let world = World::new();
    let said = doctor(&alone(&world));
    assert_eq!(said.code, Some(1));
    golden("doctor-loopback.txt", &said.out, &[("127.0.0.1, ::1", "127.0.0.1")]);
}

#[test]
#[ignore = "needs root"]
fn an_interface_with_multicast_off() {
    let world = World::new();
    let machine = alone(&world);
    machine.ip("link add sb0 type veth peer name sb1");
    machine.ip("addr add 10.77.0.1/24 dev sb0");
    machine.ip("link set sb1 up");
    machine.ip("link set sb0 up");
    assert!(doctor(&machine).out.contains("sb0 (10.77.0.1"), "up, with multicast");
    machine.ip("link set sb0 multicast off");
    machine.ip("link set sb1 multicast off");
    let said = doctor(&machine);
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("multicast is off"), "{said:?}");
    assert!(said.out.contains("ip link set dev sb0 multicast on"), "{said:?}");
}

#[test]
#[ignore = "needs root"]
fn a_port_that_is_taken_exclusively() {
    let world = World::new();
    let machine = alone(&world);
    let mut hold = machine.command("python3");
    hold.args(["-uc", "import socket,time; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('0.0.0.0',5353)); print('held'); time.sleep(60)"]);
    let hold = Running::start(hold);
    hold.line_with("held");
    let said = doctor(&machine);
    assert_eq!(said.code, Some(1));
    let pid = hold.pid().to_string();
    assert!(
        said.out.contains(&format!("UDP port 5353 is taken exclusively by python3 (pid {pid})")),
        "{said:?}"
    );
}

/// `rule` as nftables has them.
fn drop_what_comes_in(machine: &Machine<'_>, rule: &str) {
    let nft =
        |words: &[&str]| assert!(machine.command("nft").args(words).status().unwrap().success(), "{words:?}");
    nft(&["add", "table", "inet", "sb"]);
    nft(&["add", "chain", "inet", "sb", "input", "{ type filter hook input priority 0 ; }"]);
    nft(&["add", "rule", "inet", "sb", "input", rule]);
}

#[test]
#[ignore = "needs root and nft"]
fn a_firewall_that_drops_what_comes_in() {
    let world = World::new();
    let machine = alone(&world);
    drop_what_comes_in(&machine, "udp dport 5353 drop");
    let said = doctor(&machine);
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("is sent and does not arrive"), "{said:?}");
}

#[test]
#[ignore = "needs root and nft"]
fn a_firewall_that_drops_one_version_of_ip() {
    let world = World::new();
    let machine = alone(&world);
    machine.ip("link add sb0 type veth peer name sb1");
    // Usable at once, without two seconds of duplicate detection.
    machine.ip("addr add fd77::1/64 dev sb0 nodad");
    for interface in ["sb0", "sb1"] {
        machine.ip(&format!("link set {interface} addrgenmode none"));
    }
    machine.ip("link set sb1 up");
    machine.ip("link set sb0 up");
    let said = doctor(&machine);
    let arrives = "a datagram from fd77::1 to [ff02::fb]:5353 on sb0 arrives";
    assert!(said.out.contains(arrives), "{said:?}");

    drop_what_comes_in(&machine, "ip6 daddr ff02::fb drop");
    let said = doctor(&machine);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("PROBLEM  self-test   a datagram from fd77::1"), "{said:?}");

    // Now there is another way.
    machine.ip("addr add 10.77.0.1/24 dev sb0");
    let said = doctor(&machine);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("ok       self-test   a datagram from 10.77.0.1"), "{said:?}");
    assert!(said.out.contains("warning  self-test   a datagram from fd77::1"), "{said:?}");
}
