//! Hostile packets on the mDNS port, on loopback and a port of the test's own: they change nothing and crash nothing.
//!
//! Multicast DNS has no authentication, so a well-formed lie is believed; what is tested is that it stays where it
//! belongs, and that what is not well-formed is nothing at all.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use futures::StreamExt;
use switchboard_core::{
    ErrorKind, Instance, RegisterOptions, Registry, ServiceName, Snapshot, SnapshotStream,
};
use switchboard_mdns::MdnsRegistry;
use switchboard_tests::packet::{Packet, RecordType, name, srv, string};
use tokio::time::{Instant, sleep, timeout};

const LIMIT: Duration = Duration::from_secs(60);

const OWN: [&str; 3] = ["_switchboard", "_tcp", "local"];

/// A registry with an instance, a neighbour that watches it, and somebody with bad intentions.
struct Scene {
    port: u16,
    here: MdnsRegistry,
    there: MdnsRegistry,
    watch: SnapshotStream,
    instance: Instance,
    attacker: UdpSocket,
}

impl Scene {
    async fn set() -> Self {
        let port = UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let (here, there) = (open(port).await, open(port).await);
        let instance =
            Instance::builder("greeter").id("1").address("127.0.0.1:80").metadata("k", "v").build().unwrap();
        here.register(&instance, &RegisterOptions::new()).await.unwrap();
        let mut watch = there.watch(instance.service());
        while watch.next().await.unwrap().unwrap().is_empty() {}
        Self { port, here, there, watch, instance, attacker: attacker(port) }
    }

    /// Sends a packet to everybody, from the mDNS port as a real responder would.
    fn send(&self, packet: &[u8]) {
        self.attacker.send_to(packet, (Ipv4Addr::new(224, 0, 0, 251), self.port)).unwrap();
    }

    /// Both still know the instance, as it is; nobody was told otherwise; and both still work.
    async fn check_unharmed(&mut self) {
        timeout(LIMIT, self.until_idle()).await.expect("the daemons work again within the limit");
        self.check_alive().await;
        let next = timeout(Duration::from_millis(100), self.watch.next()).await;
        assert!(next.is_err(), "the watch was told something: {next:?}");
    }

    /// Waits until both have read what was sent. They say so themselves: one that is busy is unavailable.
    async fn until_idle(&self) {
        for registry in [&self.here, &self.there] {
            let probe = Instance::builder("probe").address("127.0.0.1:82").build().unwrap();
            while let Err(error) = registry.register(&probe, &RegisterOptions::new()).await {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
            }
            registry.deregister(&probe.key()).await.unwrap();
        }
    }

    async fn check_alive(&mut self) {
        for (number, registry) in [&self.here, &self.there].into_iter().enumerate() {
            let fresh = Instance::builder("fresh")
                .id(format!("{number}-{}", uuid()))
                .address("127.0.0.1:81")
                .build()
                .unwrap();
            registry.register(&fresh, &RegisterOptions::new()).await.unwrap();
            for reader in [&self.here, &self.there] {
                let is = |snapshot: &Snapshot| snapshot.get(fresh.id()).is_some();
                until(reader.watch(fresh.service()), is).await;
                let found = reader.lookup(self.instance.service()).await.unwrap();
                assert_eq!(found.all().len(), 1, "{found:?}");
                assert_eq!(found.all()[0].as_ref(), &self.instance);
            }
            registry.deregister(&fresh.key()).await.unwrap();
        }
    }

    async fn end(self) {
        self.here.close().await.unwrap();
        self.there.close().await.unwrap();
    }
}

async fn open(port: u16) -> MdnsRegistry {
    MdnsRegistry::builder().interface("lo").port(port).open().await.unwrap()
}

fn attacker(port: u16) -> UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    socket.into()
}

async fn until(mut watch: SnapshotStream, is: impl Fn(&Snapshot) -> bool) {
    let reached = async { while !is(&watch.next().await.unwrap().unwrap()) {} };
    timeout(LIMIT, reached).await.expect("the snapshot within the limit");
}

/// Something new each time.
fn uuid() -> String {
    switchboard_core::InstanceId::random(&ServiceName::new("x").unwrap()).to_string()
}

/// A small, repeatable source of bytes (xorshift64).
struct Noise(u64);

impl Noise {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()[3]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

fn instance_name(label: &str) -> Vec<u8> {
    name([label].into_iter().chain(OWN))
}

/// A whole announcement of an instance of our type, believable or not.
fn announcement(label: &str, port: u16, txt: &[u8]) -> Packet {
    let host = name(["liar", "local"]);
    Packet::response(4)
        .record(&name(OWN), RecordType::Ptr, 4500, &instance_name(label))
        .record(&instance_name(label), RecordType::Srv, 120, &srv(port, &host))
        .record(&instance_name(label), RecordType::Txt, 4500, txt)
        .record(&host, RecordType::A, 120, &[127, 0, 0, 1])
}

fn txt(strings: &[&[u8]]) -> Vec<u8> {
    strings.iter().flat_map(|bytes| string(bytes)).collect()
}

#[tokio::test]
async fn noise_is_nothing() {
    let mut scene = Scene::set().await;
    let mut noise = Noise(0x5eed);
    for number in 0..2000 {
        let len = usize::from(noise.byte()) * 6;
        let mut packet = noise.bytes(len);
        // Half of them look like a response or a query at first.
        if number % 2 == 0 && len > 12 {
            packet[2..12].copy_from_slice(&[
                if number % 4 == 0 { 0x84 } else { 0 },
                0,
                0,
                1,
                0,
                3,
                0,
                0,
                0,
                1,
            ]);
        }
        scene.send(&packet);
        breathe(number).await;
    }
    scene.check_unharmed().await;
    scene.end().await;
}

/// Lets the daemons read now and then: what the kernel drops is no attack.
async fn breathe(number: usize) {
    if number % 100 == 99 {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn malformed_packets_are_nothing() {
    let mut scene = Scene::set().await;
    let good = announcement("liar", 80, &txt(&[b"service=greeter", b"id=liar"]));
    let pointer_to_itself = [0xc0, 12];
    let pointers_in_a_ring = [0xc0, 14, 0xc0, 12];
    let pointer_past_the_end = [0xff, 0xff];
    let mut packets: Vec<Packet> = vec![
        Packet::response(0),
        Packet::response(u16::MAX),
        Packet::query(u16::MAX),
        Packet::response(1).record(&pointer_to_itself, RecordType::Ptr, 120, &pointer_to_itself),
        Packet::response(1).raw(&pointers_in_a_ring).raw(&[0, 12, 0, 1]),
        Packet::response(1).record(&pointer_past_the_end, RecordType::Ptr, 120, &[]),
        Packet::query(1).question(&pointer_to_itself, RecordType::Ptr),
        // A name of 130 labels, and one of labels that claim more than there is.
        Packet::query(1).question(&name(std::iter::repeat_n("a", 130)), RecordType::Ptr),
        Packet::query(1).raw(&[63, b'a']),
        // Names in records that end before the record does, or go on after it.
        Packet::response(1).record(&name(OWN), RecordType::Ptr, 120, &[5, b'a']),
        Packet::response(1).record(&name(OWN), RecordType::Srv, 120, &[0, 0]),
        Packet::response(1).record(&name(OWN), RecordType::A, 120, &[1, 2, 3]),
        // TXT strings longer than the record, and a record longer than the packet.
        Packet::response(1).record(&instance_name("x"), RecordType::Txt, 120, &[255, b'a']),
        Packet::response(1).raw(&instance_name("x")).raw(&[0, 16, 0, 1, 0, 0, 0, 9, 0xff, 0xff, 1]),
        // More than a datagram of mDNS may hold.
        good.clone().raw(&[0; 8900]),
        Packet::response(1).record(&instance_name("x"), RecordType::Txt, 120, &vec![1; 8900]),
    ];
    // Every beginning of a good one. Whole records in it may be believed, so it is about a service of its own.
    let other = announcement("other", 80, &txt(&[b"service=other", b"id=other"]));
    packets.extend((0..other.bytes().len()).map(|end| Packet::default().raw(&other.bytes()[..end])));
    for (number, packet) in packets.iter().enumerate() {
        scene.send(packet.bytes());
        breathe(number).await;
    }
    let _ = scene.attacker.send_to(&vec![0; 60_000], (Ipv4Addr::new(224, 0, 0, 251), scene.port));
    scene.check_unharmed().await;
    scene.end().await;
}

#[tokio::test]
async fn what_makes_no_instance_is_left_out() {
    let mut scene = Scene::set().await;
    // What its length byte can hold of it is a name like any other.
    let long = format!("service={}", "x".repeat(300));
    let cases: Vec<(&str, u16, Vec<u8>)> = vec![
        ("no-port", 0, txt(&[b"service=greeter", b"id=a"])),
        ("no-service", 80, txt(&[b"id=b"])),
        ("no-text", 80, txt(&[b""])),
        ("no-key", 80, txt(&[b"=greeter", b"==", b"service"])),
        ("bad-utf8", 80, txt(&[b"service=gr\xff\xfe", b"id=c"])),
        ("empty", 80, txt(&[b"service=", b"id="])),
        ("control", 80, txt(&[b"service=greeter", b"id=a\x00b"])),
        ("long-service", 80, txt(&[long.as_bytes(), b"id=d"])),
        ("plain", 80, txt(&[b"service=_http._tcp", b"id=e"])),
    ];
    for (label, port, text) in &cases {
        scene.send(announcement(label, *port, text).bytes());
    }
    // Other types are none of ours, whatever they say.
    for kind in
        [["_other", "_tcp", "local"], ["_switchboard", "_udp", "local"], ["_switchboard", "_tcp", "example"]]
    {
        let alias = name(["x"].into_iter().chain(kind));
        let packet = Packet::response(3)
            .record(&name(kind), RecordType::Ptr, 120, &alias)
            .record(&alias, RecordType::Srv, 120, &srv(80, &name(["liar", "local"])))
            .record(&alias, RecordType::Txt, 120, &txt(&[b"service=greeter", b"id=x"]));
        scene.send(packet.bytes());
    }
    scene.check_unharmed().await;
    let services = scene.there.services().await.unwrap();
    assert!(
        !services
            .iter()
            .any(|service| service.as_str().starts_with(['_', 'g']) && service.as_str() != "greeter"),
        "{services:?}"
    );
    scene.end().await;
}

#[tokio::test]
async fn odd_texts_cost_only_themselves() {
    let mut scene = Scene::set().await;
    let text = txt(&[
        b"service=odd",
        b"id=odd",
        b"weight=0",
        b"warning-weight=-1",
        b"version=",
        b"tags=,,\xff,ok",
        b"endpoints=\x01",
        b"m.=x",
        b"m.bad=\xff",
        b"m.good=1",
        b"M.GOOD=2",
        b"addresses=nonsense,127.0.0.1:0",
    ]);
    scene.send(announcement("odd", 8080, &text).bytes());
    let odd = ServiceName::new("odd").unwrap();
    until(scene.there.watch(&odd), |snapshot| snapshot.len() == 1).await;
    let found = scene.there.lookup(&odd).await.unwrap();
    let found = &found.all()[0];
    assert_eq!(found.address().to_string(), "127.0.0.1:8080");
    assert_eq!((found.weight().get(), found.version()), (1, None));
    assert_eq!(found.metadata().get("good").map(String::as_str), Some("1"));
    scene.check_unharmed().await;
    scene.end().await;
}

#[tokio::test]
async fn a_false_goodbye_is_put_right() {
    let mut scene = Scene::set().await;
    let instance = instance_name("1");
    let one = Packet::response(1).record(&name(OWN), RecordType::Ptr, 0, &instance);
    let all = Packet::response(3)
        .record(&name(OWN), RecordType::Ptr, 0, &instance)
        .record(&instance, RecordType::Srv, 0, &srv(80, &name(["liar", "local"])))
        .record(&instance, RecordType::Txt, 0, &txt(&[b"service=greeter"]));
    // Past the second announcement, which would put it right as well.
    sleep(Duration::from_secs(2)).await;
    for goodbye in [one, all] {
        scene.send(goodbye.bytes());
        // A goodbye counts after a second (RFC 6762 §10.1), in which the one that is still there may object.
        sleep(Duration::from_secs(3)).await;
        for reader in [&scene.here, &scene.there] {
            let as_before = |snapshot: &Snapshot| {
                snapshot.get(scene.instance.id()).is_some_and(|found| **found == scene.instance)
            };
            until(reader.watch(scene.instance.service()), as_before).await;
        }
        // It may have been gone for a moment; what counts is that it is back.
        while timeout(Duration::from_millis(100), scene.watch.next()).await.is_ok() {}
    }
    scene.check_unharmed().await;
    scene.end().await;
}

#[tokio::test]
async fn a_flood_of_lies_drowns_nobody() {
    const LIES: usize = 20_000;
    let mut scene = Scene::set().await;
    let text = txt(&[b"service=flood"]);
    let begun = Instant::now();
    for number in 0..LIES {
        scene.send(announcement(&format!("flood-{number}"), 80, &text).bytes());
        breathe(number).await;
    }
    let sent = begun.elapsed();
    // The flood is read before what comes after it.
    scene.check_unharmed().await;
    let believed = scene.there.lookup(&ServiceName::new("flood").unwrap()).await.unwrap();
    report(&format!(
        "{LIES} lies sent in {sent:?}, {} believed, working again after {:?}",
        believed.len(),
        begun.elapsed()
    ));
    scene.end().await;
}

#[expect(clippy::print_stdout, reason = "the figures are what --nocapture is for")]
fn report(line: &str) {
    println!("{line}");
}
