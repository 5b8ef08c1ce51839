//! Registries that one can only read: lists, and DNS as Docker Compose serves it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use switchboard_tests::netns::{Machine, World};

use crate::support::{LIMIT, Running, Said, golden, run, said};

#[test]
fn doctor_says_what_is_wrong_with_a_list_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("services.toml");
    let at = format!("file://{}", path.display());
    let mut shown = String::new();
    let entry = "[[instances]]\nservice = \"orders\"\naddresses = [\"10.0.0.1:80\"]\n";
    for text in [None, Some(entry.to_owned()), Some(format!("{entry}wieght = 5\n"))] {
        if let Some(text) = &text {
            std::fs::write(&path, text).unwrap();
        }
        let said = run(&at, &["doctor", "orders"]);
        assert_eq!(said.code == Some(0), text.as_deref() == Some(entry), "{said:?}");
        // Its age in seconds is the machine's.
        let lines = said.out.lines().map(|line| line.split(", changed ").next().unwrap_or_default());
        shown.extend(lines.flat_map(|line| [line, "\n"]));
        shown.push('\n');
    }
    let said = run("static:orders=10.0.0.1:80,10.0.0.2:80", &["doctor", "orders"]);
    shown.push_str(&said.out);
    golden("doctor-lists.txt", &shown, &[(folder.path().to_str().unwrap(), "FOLDER")]);
}

#[test]
fn doctor_says_that_no_name_server_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("resolv.conf");
    let said = run(&format!("dns:?resolv_conf={}", none.display()), &["doctor"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.starts_with("PROBLEM  servers     dns: examine: unavailable: cannot read "), "{said:?}");
    let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = format!("dns://{}?timeout=200ms&domain=example", gone.local_addr().unwrap());
    let said = run(&at, &["doctor", "orders"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("did not answer within 200ms"), "{said:?}");
}

/// dnsmasq at an address of a machine's loopback, with hosts that can be edited; killed when dropped.
struct Resolver {
    child: Child,
    hosts: std::path::PathBuf,
}

impl Resolver {
    /// As Docker's does, it says that an answer holds for 600 s, and changes at once.
    fn start(machine: &Machine<'_>, address: &str, folder: &Path, containers: &[(&str, &str)]) -> Self {
        let hosts = folder.join(address);
        std::fs::write(&hosts, lines(containers)).unwrap();
        let mut command = machine.command("/usr/sbin/dnsmasq");
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root"])
            .args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--local-ttl=600", "--local=/#/"])
            .arg(format!("--listen-address={address}"))
            .arg(format!("--addn-hosts={}", hosts.display()));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, hosts }
    }

    fn write(&self, containers: &[(&str, &str)]) {
        std::fs::write(&self.hosts, lines(containers)).unwrap();
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }
}

fn lines(containers: &[(&str, &str)]) -> String {
    containers.iter().map(|(address, service)| [*address, " ", *service, "\n"].concat()).collect()
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(machine: &Machine<'_>, registry: &str, arguments: &[&str]) -> Command {
    let mut command = machine.command(env!("CARGO_BIN_EXE_switchboard"));
    command.args(["--registry", registry]).args(arguments).env("SWITCHBOARD_CONFIG", "/no/such/file");
    command
}

/// Asks again until `accept`: a server may not have read its hosts yet.
fn until(machine: &Machine<'_>, registry: &str, arguments: &[&str], accept: impl Fn(&Said) -> bool) -> Said {
    let begun = Instant::now();
    loop {
        let said = said(command(machine, registry, arguments).output().unwrap());
        if accept(&said) {
            return said;
        }
        assert!(begun.elapsed() < LIMIT, "{said:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A container of Compose: its resolver at 127.0.0.11, and services as plain names.
#[test]
#[ignore = "needs namespaces and dnsmasq"]
fn services_of_compose_are_found_by_their_plain_names_and_followed() {
    let world = World::new();
    let machine = world.bare("container");
    machine.loopback_up();
    let folder = tempfile::tempdir().unwrap();
    let resolv_conf = folder.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 127.0.0.11\noptions ndots:0\n").unwrap();
    let containers = [("172.18.0.2", "orders"), ("172.18.0.3", "orders")];
    let docker = Resolver::start(&machine, "127.0.0.11", folder.path(), &containers);
    let at =
        format!("dns:?port=8080&min_refresh=100ms&max_refresh=300ms&resolv_conf={}", resolv_conf.display());
    let two = |said: &Said| said.out.lines().count() == 2;
    let found = until(&machine, &at, &["instances", "orders", "-o", "name"], two);
    assert_eq!(found.out, "orders/172.18.0.2:8080\norders/172.18.0.3:8080\n");
    let doctor = until(&machine, &at, &["doctor", "orders"], |said| said.code == Some(0)).out;
    assert!(doctor.contains("127.0.0.11:53: A orders.: 2 records, valid for another 10m\n"), "{doctor}");
    assert!(
        doctor.contains("127.0.0.11:53: SRV orders.: the name is there, without such a record\n"),
        "{doctor}"
    );
    let missing = until(&machine, &at, &["doctor", "oders"], |said| said.code == Some(0)).out;
    assert!(missing.contains("127.0.0.11:53: A oders.: there is no such name\n"), "{missing}");
    assert!(missing.contains("oders is not found as oders.\n"), "{missing}");

    let watch = Running::start(command(&machine, &at, &["watch", "orders"]));
    watch.line_with("+ orders/172.18.0.3:8080");
    docker.write(&[("172.18.0.2", "orders"), ("172.18.0.4", "orders")]);
    watch.line_with("172.18.0.4:8080");

    // A laptop that moves: other servers, by the same file.
    let _elsewhere = Resolver::start(&machine, "127.0.0.12", folder.path(), &[("10.9.9.9", "orders")]);
    std::fs::write(&resolv_conf, "nameserver 127.0.0.12\n").unwrap();
    watch.line_with("+ orders/10.9.9.9:8080");
}
