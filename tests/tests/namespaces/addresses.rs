//! Which address a server advertises, and which interfaces mDNS refuses.

use switchboard_tests::netns::{Machine, World};
use switchboard_tests::program::Program;

use crate::{LIMIT, greeter, node, node_at, register};

/// A host in a cloud: a public address, and Docker's bridge with a container at it.
fn cloud_host(world: &World) -> Machine<'_> {
    world.add_bridge("br1");
    let host = world.machine("host", "203.0.113.7/24");
    host.ip("link add docker0 type bridge forward_delay 0");
    host.ip("address add 172.17.0.1/16 dev docker0");
    host.ip("link set docker0 up");
    // The container's end, without which the bridge would not be up.
    host.ip("link add veth0 type veth peer name veth1");
    host.ip("link set veth0 master docker0 up");
    host.ip("link set veth1 up");
    host
}

/// What is advertised for `bound`: for any registry, and for this one or Consul's.
fn advertised(node: &mut Program, bound: &str) -> (String, String) {
    node.tell(format!("advertise {bound}"));
    let (told, _) =
        node.until("address", LIMIT, |event| (event["event"] == "advertised").then(|| event.clone()));
    let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
    (text("anywhere"), text("here"))
}

#[test]
#[ignore = "needs root"]
fn a_cloud_host_does_not_advertise_dockers_bridge() {
    let world = World::new();
    let host = cloud_host(&world);
    let mut server = node(&host);
    let public = || ("203.0.113.7:80".to_owned(), "203.0.113.7:80".to_owned());
    assert_eq!(advertised(&mut server, "0.0.0.0:80"), public(), "without any route but those of its links");
    host.ip("route add default via 203.0.113.1");
    assert_eq!(advertised(&mut server, "0.0.0.0:80"), public());
    assert_eq!(advertised(&mut server, "[::]:80"), public(), "it takes IPv4 as well");
}

#[test]
#[ignore = "needs root"]
fn the_route_to_the_registry_decides() {
    let world = World::new();
    let host = cloud_host(&world);
    host.plug("eth1", "br1", "10.1.0.1/24");
    host.ip("route add default via 203.0.113.1");
    let mut server = node_at(&host, "mdns:?interface=eth1");
    let (public, inner) = ("203.0.113.7:80".to_owned(), "10.1.0.1:80".to_owned());
    assert_eq!(advertised(&mut server, "0.0.0.0:80"), (public.clone(), inner.clone()));
    assert_eq!(advertised(&mut server, "0.0.0.0:80 consul://10.1.0.9:8500"), (public.clone(), inner));
    let agent_here = "0.0.0.0:80 consul://127.0.0.1:8500";
    assert_eq!(advertised(&mut server, agent_here), (public.clone(), public.clone()));
    let mut local = node_at(&host, "mdns:?interface=lo");
    assert_eq!(advertised(&mut local, "0.0.0.0:80"), (public, "127.0.0.1:80".to_owned()));
}

#[test]
#[ignore = "needs root"]
fn every_address_of_ipv6_is_not_one_of_ipv4_where_the_system_says_so() {
    let world = World::new();
    let host = world.machine("host", "10.0.0.1/24");
    host.ip("address add fd00::7/64 dev eth0 nodad");
    let mut server = node(&host);
    assert_eq!(advertised(&mut server, "[::]:80").0, "10.0.0.1:80");
    host.sysctl("net.ipv6.bindv6only=1");
    assert_eq!(advertised(&mut server, "[::]:80").0, "[fd00::7]:80");
}

#[test]
#[ignore = "needs root"]
fn a_tunnel_is_refused_by_name_and_left_out_by_default() {
    let world = World::new();
    let machine = world.machine("here", "10.0.0.1/24");
    machine.ip("tuntap add dev tun0 mode tun");
    machine.ip("address add 10.9.0.1/24 dev tun0");
    machine.ip("link set tun0 up");
    let refused = |url: &str| {
        let output = machine.command(env!("CARGO_BIN_EXE_mdns-node")).arg(url).output().unwrap();
        assert!(!output.status.success(), "{url} was opened");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for url in ["mdns:?interface=tun0", "mdns:?interface=10.9.0.1"] {
        let why = refused(url);
        assert!(why.contains(": invalid input: ") && why.contains("is a point-to-point link"), "{why}");
    }
    let why = refused("mdns:?interface=nosuch0");
    assert!(why.contains("does not exist; there are: eth0, lo\n"), "{why}");

    let mut server = node(&machine);
    server.tell("hold tun0");
    server.until("tunnel", LIMIT, |event| (event["event"] == "held").then_some(()));
    register(&mut server, &greeter("1", "10.0.0.1:80"));
    assert_eq!(advertised(&mut server, "0.0.0.0:80").1, "10.0.0.1:80");
}
