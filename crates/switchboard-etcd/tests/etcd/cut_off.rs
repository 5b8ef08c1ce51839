//! A client whose link to etcd is down while etcd compacts, each in a network namespace.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use switchboard_core::{Error, Registry, Snapshot};
use switchboard_tests::netns::{Machine, World};
use switchboard_tests::program::Program;
use tempfile::TempDir;

use crate::support::{LIMIT, builder, instance, name};

const COUNT: usize = 10;

/// Set to etcd's address where this is the client in its namespace, not a test.
const CLIENT: &str = "SWITCHBOARD_TEST_ETCD_CUT_OFF";

/// Watches, and looks up again and again; tells of both in JSON lines.
#[tokio::test]
#[ignore = "needs etcd and namespaces"]
async fn client_that_is_cut_off() {
    let Ok(address) = std::env::var(CLIENT) else { return };
    let tell = |what: &str, found: Result<Snapshot, Error>| match found {
        Ok(found) => println!("{}", json!({ what: found.len() })),
        Err(error) => println!("{}", json!({ what: error.to_string() })),
    };
    let registry = builder(&[address]).open().unwrap();
    let mut watch = registry.watch(&name("a"));
    loop {
        tokio::select! {
            told = watch.next() => tell("watch", told.unwrap()),
            found = async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                registry.lookup(&name("a")).await
            } => tell("lookup", found),
        }
    }
}

/// A machine with etcd on it.
struct Etcd<'a> {
    machine: Machine<'a>,
    url: String,
    /// Killed when dropped.
    _program: Program,
    _folder: TempDir,
}

impl<'a> Etcd<'a> {
    fn start(world: &'a World) -> Self {
        let (machine, folder) = (world.machine("etcd", "10.0.0.1/24"), tempfile::tempdir().unwrap());
        let url = "http://10.0.0.1:2379".to_owned();
        let mut command = machine.command("etcd");
        command
            .args(["--log-level", "error", "--data-dir", folder.path().to_str().unwrap()])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .stderr(Stdio::null());
        let program = Program::start("etcd", &mut command);
        let etcd = Self { machine, url, _program: program, _folder: folder };
        let end = Instant::now() + LIMIT;
        while etcd.try_ctl(&["endpoint", "health"]).is_none() {
            assert!(Instant::now() < end, "no etcd");
        }
        etcd
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).unwrap_or_else(|| panic!("etcdctl {arguments:?}"))
    }

    fn try_ctl(&self, arguments: &[&str]) -> Option<String> {
        let mut command: Command = self.machine.command("etcdctl");
        let command = command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.url));
        let output = command.args(arguments).stderr(Stdio::null()).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn put(&self, id: usize) {
        let value = serde_json::to_string(&instance("a", id)).unwrap();
        self.ctl(&["put", &format!("switchboard/a/{id}"), &value]);
    }

    /// Takes three away, adds one, and forgets how all of that came to be.
    fn change_and_compact(&self) {
        for id in 0..3 {
            self.ctl(&["del", &format!("switchboard/a/{id}")]);
        }
        self.put(COUNT);
        // The watch's own revision is now behind the compaction.
        let told = self.ctl(&["get", "switchboard/", "--prefix", "--limit=1", "-w=fields"]);
        let revision = told.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap();
        self.ctl(&["compact", revision]);
    }
}

/// What the client was told by `what`, in order, equal ones once: a number, or an error.
fn story(client: &mut Program, what: &str) -> Vec<Value> {
    let mut told: Vec<Value> = client.log().iter().map(|event| event.value[what].clone()).collect();
    told.retain(|told| !told.is_null());
    told.dedup_by(|one, other| one == other || (one.is_string() && other.is_string()));
    told
}

fn until_told(client: &mut Program, what: &str, count: usize) -> Instant {
    client.until(&format!("{count} by the {what}"), LIMIT, |event| (event[what] == count).then_some(())).1
}

fn until_error(client: &mut Program, what: &str) -> Instant {
    client.until(&format!("an error of the {what}"), LIMIT, |event| event[what].as_str().map(drop)).1
}

/// The link is down until the client has noticed, or is up again before it could.
fn compaction_while_the_link_is_down(noticed: bool) {
    let world = World::new();
    let etcd = Etcd::start(&world);
    (0..COUNT).for_each(|id| etcd.put(id));
    let machine = world.machine("client", "10.0.0.2/24");
    let mut command = machine.command(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture", "cut_off::client_that_is_cut_off"])
        .env(CLIENT, "10.0.0.1:2379");
    let mut client = Program::start("client", &mut command);
    until_told(&mut client, "watch", COUNT);
    until_told(&mut client, "lookup", COUNT);

    machine.ip("link set eth0 down");
    let down = Instant::now();
    etcd.change_and_compact();
    if noticed {
        let told = until_error(&mut client, "watch");
        println!("link down: the watch says so after {:.1?}", told - down);
        until_error(&mut client, "lookup");
        sleep(Duration::from_secs(20).saturating_sub(down.elapsed()));
    }
    machine.ip("link set eth0 up");
    let up = Instant::now();
    let right = until_told(&mut client, "watch", COUNT - 2);
    let (lasted, watch, lookup) = (up - down, story(&mut client, "watch"), story(&mut client, "lookup"));
    println!("link down for {lasted:.1?}, compacted meanwhile: right {:.1?} after it is up", right - up);
    println!("  the watch told {}", json!(watch));
    println!("  lookups told {}", json!(lookup));
    for told in watch.iter().chain(&lookup).filter_map(Value::as_u64) {
        assert!(told >= COUNT as u64 - 3, "told {told}");
    }
    if noticed {
        let [before, error, after] = &watch[..] else { panic!("{watch:?}") };
        assert!(*before == COUNT && error.is_string() && *after == COUNT - 2, "{watch:?}");
    }
    // It follows on.
    etcd.put(COUNT + 1);
    until_told(&mut client, "watch", COUNT - 1);
}

#[test]
#[ignore = "needs etcd and namespaces"]
fn compaction_while_the_link_is_down_is_an_error_and_then_what_there_is() {
    compaction_while_the_link_is_down(true);
}

#[test]
#[ignore = "needs etcd and namespaces"]
fn compaction_while_the_link_is_down_for_a_moment_costs_nothing() {
    compaction_while_the_link_is_down(false);
}
