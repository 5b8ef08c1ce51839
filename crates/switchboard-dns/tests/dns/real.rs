//! Real name servers, whose zones are edited while they are read.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use switchboard_conformance::async_trait;
use switchboard_core::{Registry, Snapshot};
use switchboard_dns::{DnsRegistry, Records};
use switchboard_tests::port::free_port;
use tempfile::TempDir;

use crate::conformance::{ADDRESSES, DNSSD, SRV, Serves, World};
use crate::support::zone::{ip, name, ptr, srv, txt};
use crate::support::{LIMIT, next, quick, service, shown, until};

/// A running server; killed when dropped, and with this process.
struct Daemon {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Daemon {
    fn start(make: impl Fn(&Path, u16) -> Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let inner = make(folder.path(), port);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(inner.get_program()).args(inner.get_args());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let daemon = Self { child: command.spawn().unwrap(), address, folder };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            let program = inner.get_program().to_string_lossy();
            assert!(begun.elapsed() < LIMIT, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// dnsmasq with a file of hosts, and these options.
fn dnsmasq(options: &'static [&'static str]) -> Daemon {
    Daemon::start(move |folder, port| {
        let hosts = folder.join("hosts");
        std::fs::write(&hosts, "").unwrap();
        let mut command = Command::new("/usr/sbin/dnsmasq");
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root"])
            .args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1"])
            .args(["--local=/example/", "--local-ttl=1"])
            .arg(format!("--port={port}"))
            .arg(format!("--addn-hosts={}", hosts.display()))
            .args(options);
        command
    })
}

impl Daemon {
    /// Writes dnsmasq's hosts anew, and has it read them.
    fn hosts(&self, count: usize) {
        let lines = (1..=count).map(|n| format!("10.0.0.{n} orders.example h{n}.example\n"));
        std::fs::write(self.folder.path().join("hosts"), lines.collect::<String>()).unwrap();
        self.signal("-HUP");
    }
}

#[tokio::test]
#[ignore = "needs dnsmasq"]
async fn hosts_of_dnsmasq_that_come_and_go_are_told() {
    let server = dnsmasq(&[]);
    let registry = quick(server.address).port(80).open().unwrap();
    let mut watch = registry.watch(&service("orders"));
    assert_eq!(next(&mut watch).await.unwrap().len(), 0);
    for count in [2, 3, 1, 0, 20] {
        server.hosts(count);
        let found = until(&mut watch, count).await;
        if count == 1 {
            assert_eq!(shown(&found), ["10.0.0.1:80 [10.0.0.1:80] 1"]);
        }
    }
}

#[tokio::test]
#[ignore = "needs dnsmasq"]
async fn srv_records_of_dnsmasq_have_port_priority_and_weight() {
    let server = dnsmasq(&[
        "--srv-host=_orders._tcp.example,h1.example,8080,10,3",
        "--srv-host=_orders._tcp.example,h2.example,8081,10,1",
        "--srv-host=_orders._tcp.example,h3.example,8082,20,1",
    ]);
    server.hosts(3);
    let registry = quick(server.address).record(Records::Srv).open().unwrap();
    let mut watch = registry.watch(&service("_orders._tcp"));
    // It may have been asked before it had read the hosts.
    let found = until(&mut watch, 2).await;
    assert_eq!(shown(&found), ["h1.example:8080 [10.0.0.1:8080] 3", "h2.example:8081 [10.0.0.2:8081] 1"]);
}

/// BIND with the zone `example`, which takes updates.
struct Bind(Daemon);

impl Bind {
    fn new() -> Self {
        let zone =
            "$TTL 1\n@ SOA ns hostmaster 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\nh-127-0-0-1 A 127.0.0.1\n";
        Self(Daemon::start(|folder, port| {
            std::fs::write(folder.join("zone"), zone).unwrap();
            let folder = folder.display();
            let configuration = format!(
                "options {{ directory \"{folder}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
                 recursion no; max-records-per-type 0; pid-file none; session-keyfile none; dnssec-validation no; check-names primary ignore; }};\n\
                 controls {{ }};\n\
                 zone \"example\" {{ type primary; file \"zone\"; allow-update {{ 127.0.0.1; }}; }};\n"
            );
            let path = format!("{folder}/named.conf");
            std::fs::write(&path, configuration).unwrap();
            let mut command = Command::new("/usr/sbin/named");
            command.args(["-f", "-n", "1", "-c", &path]);
            command
        }))
    }

    /// RFC 2136: replaces sets of records.
    fn update(&self, sets: BTreeMap<(Name, RecordType), Vec<Record>>) {
        let mut message = Message::new(7, hickory_resolver::proto::op::MessageType::Query, OpCode::Update);
        message.add_query(Query::query(name("example."), RecordType::SOA));
        for ((owner, kind), records) in sets {
            let mut gone = Record::from_rdata(owner, 0, RData::Update0(kind));
            gone.dns_class = DNSClass::ANY;
            message.authorities.push(gone);
            message.authorities.extend(records);
        }
        let bytes = message.to_vec().unwrap();
        let mut stream = TcpStream::connect(self.0.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut len = [0; 2];
        stream.read_exact(&mut len).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut answer).unwrap();
        let code = Message::from_vec(&answer).unwrap().metadata.response_code;
        assert_eq!(code, ResponseCode::NoError);
    }

    fn set(&self, records: Vec<Record>) {
        let mut sets: BTreeMap<(Name, RecordType), Vec<Record>> = BTreeMap::new();
        for record in records {
            sets.entry((record.name.clone(), record.record_type())).or_default().push(record);
        }
        self.update(sets);
    }
}

#[async_trait]
impl Serves for Bind {
    async fn replace(&self, sets: BTreeMap<(Name, RecordType), Vec<Record>>) {
        self.update(sets);
    }

    fn address(&self) -> SocketAddr {
        self.0.address
    }
}

mod bind_by_srv {
    switchboard_conformance::suite!(
        #[ignore = "needs bind9"]
        super::World::new(super::Bind::new(), super::SRV)
    );
}

mod bind_by_address {
    switchboard_conformance::suite!(
        #[ignore = "needs bind9"]
        super::World::new(super::Bind::new(), super::ADDRESSES)
    );
}

mod bind_by_dnssd {
    switchboard_conformance::suite!(
        #[ignore = "needs bind9"]
        super::World::new(super::Bind::new(), super::DNSSD)
    );
}

#[tokio::test]
#[ignore = "needs bind9"]
async fn a_thousand_records_of_bind_come_over_tcp_and_it_goes_down_and_comes_back() {
    let mut server = Bind::new();
    let each = (0..1000).map(|n| srv("orders.example.", 1, (1, 1, 1000 + n), "h-127-0-0-1.example."));
    server.set(each.collect());
    let registry =
        quick(server.0.address).record(Records::Srv).timeout(Duration::from_secs(5)).open().unwrap();
    let mut watch = registry.watch(&service("orders"));
    let before = until(&mut watch, 1000).await;
    server.0.child.kill().unwrap();
    server.0.child.wait().unwrap();
    let error = next(&mut watch).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let (folder, address) = (server.0.folder.path().to_owned(), server.0.address);
    let again = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "/usr/sbin/named", "-f", "-n", "1", "-c"])
        .arg(folder.join("named.conf"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    server.0.child = again;
    assert_eq!(server.0.address, address);
    let after: Snapshot = loop {
        if let Ok(snapshot) = next(&mut watch).await {
            break snapshot;
        }
    };
    assert_eq!(after, before);
}

#[tokio::test]
#[ignore = "needs bind9"]
async fn printers_in_a_zone_of_bind_are_read_as_on_a_link() {
    let server = Bind::new();
    let kind = name("_ipp._tcp.example.");
    let label = |label: &str| kind.prepend_label(label.as_bytes()).unwrap();
    let printer = label("Größe 2. Stock");
    let mut target = srv("x.", 1, (0, 0, 631), "h-127-0-0-1.example.");
    target.name = printer.clone();
    server.set(vec![
        ptr(&name("_services._dns-sd._udp.example."), &kind),
        ptr(&kind, &printer),
        target,
        txt(&printer, &[b"rp=ipp/print".to_vec(), b"Color".to_vec()]),
        ip("x.example.", 1, [127, 0, 0, 1]),
    ]);
    let registry = quick(server.0.address).record(Records::DnsSd).open().unwrap();
    let names: Vec<String> = registry.services().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["_ipp._tcp"]);
    let found = registry.lookup(&service("_ipp._tcp")).await.unwrap();
    assert_eq!(shown(&found), ["Größe 2. Stock [127.0.0.1:631] 1"]);
    assert_eq!(found.all()[0].metadata()["rp"], "ipp/print");
}

/// What asks a server with nothing but a domain, as the command line does.
#[tokio::test]
#[ignore = "needs dnsmasq"]
async fn examining_says_why_a_name_is_not_found() {
    use switchboard_dns::Answered;

    let server = dnsmasq(&[]);
    server.hosts(2);
    let registry = DnsRegistry::builder().server(server.address).domain("example").port(80).open().unwrap();
    let said = |service_name: &'static str| {
        let registry = &registry;
        async move {
            let all = registry.examine(Some(&service(service_name))).await.unwrap();
            all.into_iter().map(|one| (one.record, one.said.unwrap())).collect::<Vec<_>>()
        }
    };
    let mut watch = registry.watch(&service("orders"));
    until(&mut watch, 2).await;
    let records = Answered::NoRecord;
    let found = said("orders").await;
    assert_eq!((found[0].0, &found[0].1), ("SRV", &records));
    assert!(matches!(found[1], ("A", Answered::Records { count: 2, .. })), "{found:?}");
    assert_eq!(said("stock").await[0].1, Answered::NoName);
    assert_eq!(registry.examine(None).await.unwrap().len(), 1);
}
