//! `doctor` on networks that are broken in known ways.

use crate::support::shell::{Namespace, tool};
use crate::support::{Running, Said, golden, mdns, run, said};

fn doctor(namespace: &Namespace) -> Said {
    let mut command = namespace.command(env!("CARGO_BIN_EXE_switchboard"));
    said(command.args(["doctor", "--registry", "mdns:"]).output().unwrap())
}

#[test]
fn loopback_that_was_asked_for_is_well() {
    let at = mdns();
    let port = at.rsplit('=').next().unwrap();
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
    let said = doctor(&Namespace::new());
    assert_eq!(said.code, Some(1));
    golden("doctor-loopback.txt", &said.out, &[("127.0.0.1, ::1", "127.0.0.1")]);
}

#[test]
#[ignore = "needs root"]
fn an_interface_with_multicast_off() {
    let namespace = Namespace::new();
    namespace.ip("link add sb0 type veth peer name sb1");
    namespace.ip("addr add 10.77.0.1/24 dev sb0");
    namespace.ip("link set sb1 up");
    namespace.ip("link set sb0 up");
    assert!(doctor(&namespace).out.contains("sb0 (10.77.0.1"), "up, with multicast");
    namespace.ip("link set sb0 multicast off");
    namespace.ip("link set sb1 multicast off");
    let said = doctor(&namespace);
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("multicast is off"), "{said:?}");
    assert!(said.out.contains("ip link set dev sb0 multicast on"), "{said:?}");
}

#[test]
#[ignore = "needs root"]
fn a_port_that_is_taken_exclusively() {
    let namespace = Namespace::new();
    let mut hold = namespace.command("python3");
    hold.args(["-uc", "import socket,time; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('0.0.0.0',5353)); print('held'); time.sleep(60)"]);
    let hold = Running::start(hold);
    hold.line_with("held");
    let said = doctor(&namespace);
    assert_eq!(said.code, Some(1));
    let pid = hold.pid().to_string();
    assert!(
        said.out.contains(&format!("UDP port 5353 is taken exclusively by python3 (pid {pid})")),
        "{said:?}"
    );
}

/// `rule` as nftables has them.
fn drop_what_comes_in(namespace: &Namespace, rule: &str) {
    let exec = format!("ip netns exec {} nft", namespace.0);
    tool(&format!("{exec} add table inet sb"));
    let mut chain = namespace.command("nft");
    chain.args(["add", "chain", "inet", "sb", "input", "{ type filter hook input priority 0 ; }"]);
    assert!(chain.status().unwrap().success());
    tool(&format!("{exec} add rule inet sb input {rule}"));
}

#[test]
#[ignore = "needs root and nft"]
fn a_firewall_that_drops_what_comes_in() {
    let namespace = Namespace::new();
    drop_what_comes_in(&namespace, "udp dport 5353 drop");
    let said = doctor(&namespace);
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("is sent and does not arrive"), "{said:?}");
}

#[test]
#[ignore = "needs root and nft"]
fn a_firewall_that_drops_one_version_of_ip() {
    let namespace = Namespace::new();
    namespace.ip("link add sb0 type veth peer name sb1");
    // Usable at once, without two seconds of duplicate detection.
    namespace.ip("addr add fd77::1/64 dev sb0 nodad");
    for interface in ["sb0", "sb1"] {
        namespace.ip(&format!("link set {interface} addrgenmode none"));
    }
    namespace.ip("link set sb1 up");
    namespace.ip("link set sb0 up");
    let said = doctor(&namespace);
    let arrives = "a datagram from fd77::1 to [ff02::fb]:5353 on sb0 arrives";
    assert!(said.out.contains(arrives), "{said:?}");

    drop_what_comes_in(&namespace, "ip6 daddr ff02::fb drop");
    let said = doctor(&namespace);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("PROBLEM  self-test   a datagram from fd77::1"), "{said:?}");

    // Now there is another way.
    namespace.ip("addr add 10.77.0.1/24 dev sb0");
    let said = doctor(&namespace);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("ok       self-test   a datagram from 10.77.0.1"), "{said:?}");
    assert!(said.out.contains("warning  self-test   a datagram from fd77::1"), "{said:?}");
}
