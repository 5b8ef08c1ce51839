//! Finding and registering on multicast DNS, between processes.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::support::{Running, golden, mdns, switchboard, until, untimed, untimed_json};

const FIRST: [&str; 16] = [
    "register",
    "hello",
    "127.0.0.1:8080",
    "--id",
    "h1",
    "--version",
    "1.2.0",
    "--meta",
    "zone=a",
    "--tag",
    "blue",
    "--weight",
    "3",
    "--endpoint",
    "Hello.Say",
    "--interval=60s",
];

#[test]
fn what_one_registers_another_finds_and_watches() {
    let at = mdns();
    let first = Running::start(switchboard(&at, &FIRST));
    assert_eq!(first.line(), "registered hello/h1 at 127.0.0.1:8080");
    let second = ["register", "hello", "127.0.0.1:8081", "--id", "h2", "--json"];
    let second = Running::start(switchboard(&at, &second));
    golden("register.json", &format!("{}\n", second.line()), &[]);

    let both = |arguments: &[&str]| {
        until(&at, arguments, |said| said.out.contains("h1") && said.out.contains("h2")).out
    };
    golden("instances.txt", &both(&["instances", "hello"]), &[]);
    golden("instances.json", &both(&["instances", "hello", "--json"]), &[]);
    let counted = |arguments: &[&str]| until(&at, arguments, |said| said.out.contains('2')).out;
    golden("services.txt", &counted(&["services"]), &[]);
    golden("services.json", &counted(&["services", "--json"]), &[]);

    // What was multicast a moment ago is not repeated within a second, so an answer may come late.
    let filtered = |filter: &[&str], count: usize| {
        let arguments = [&["instances", "hello", "--json"], filter].concat();
        until(&at, &arguments, |said| said.out.matches("\"id\"").count() == count)
    };
    for filter in [&["--version", "1.2.0"][..], &["--tag", "blue"], &["--meta", "zone=a"]] {
        assert!(filtered(filter, 1).out.contains("h1"));
    }
    filtered(&["--healthy"], 2);
    filtered(&["--tag", "green"], 0);

    let text = Running::start(switchboard(&at, &["watch", "hello"]));
    let json = Running::start(switchboard(&at, &["watch", "--json"]));
    // The two instances may be heard in either order.
    let mut added = [untimed(&text.line()), untimed(&text.line())];
    added.sort();
    let mut added_json = [untimed_json(&json.line()), untimed_json(&json.line())];
    added_json.sort();
    first.signal(Signal::INT);
    let (status, rest) = first.end();
    assert_eq!((status.code(), rest), (Some(0), vec!["deregistered hello/h1 at 127.0.0.1:8080".into()]));
    golden("watch.txt", &format!("{}\n{}\n", added.join("\n"), untimed(&text.line())), &[]);
    golden("watch.json", &format!("{}\n{}\n", added_json.join("\n"), untimed_json(&json.line())), &[]);

    second.signal(Signal::TERM);
    let (status, rest) = second.end();
    assert_eq!(status.code(), Some(0));
    assert!(rest[0].contains("\"status\":\"deregistered\""), "{rest:?}");
    json.line_with("\"change\":\"removed\"");
}

#[test]
fn picks_are_shown_with_their_shares() {
    let at = mdns();
    let first = Running::start(switchboard(&at, &FIRST));
    let second = Running::start(switchboard(&at, &["register", "hello", "127.0.0.1:8081", "--id", "h2"]));
    first.line();
    second.line();
    until(&at, &["instances", "hello"], |said| said.out.contains("h1") && said.out.contains("h2"));

    let many = ["pick", "hello", "-n", "400", "--strategy", "round-robin"];
    let both = |more: &[&str]| {
        let arguments = [&many[..], more].concat();
        until(&at, &arguments, |said| said.out.contains("h1") && said.out.contains("h2")).out
    };
    golden("pick.txt", &both(&[]), &[]);
    golden("pick.json", &both(&["--json"]), &[]);
    let one = ["pick", "hello", "--version", "1.2.0"];
    golden("pick-one.txt", &until(&at, &one, |said| said.code == Some(0)).out, &[]);
    let key = ["pick", "hello", "-n", "50", "--key", "a"];
    assert_eq!(until(&at, &key, |said| said.code == Some(0)).out.lines().count(), 2, "one of them gets all");

    let green = ["pick", "hello", "--tag", "green"];
    let none = until(&at, &green, |said| said.err.contains("of the 2"));
    assert_eq!(none.code, Some(1));
    golden("pick-none.txt", &none.err, &[]);
}

#[test]
fn a_failing_check_withdraws_until_it_passes() {
    let at = mdns();
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("well");
    std::fs::write(&flag, "").unwrap();
    let check = format!("test -e {}", flag.display());
    let arguments = [
        "register",
        "a",
        "127.0.0.1:1",
        "--id",
        "a1",
        "--check-interval=200ms",
        "--unhealthy-after=2",
        "--healthy-after=2",
        "--check-cmd",
        &check,
    ];
    let registered = Running::start(switchboard(&at, &arguments));
    registered.line_with("registered");
    std::fs::remove_file(&flag).unwrap();
    let failing = registered.line_with("check failing");
    assert_eq!(
        failing,
        "check failing a/a1 at 127.0.0.1:1: 1 of 2: the check command failed: exit status: 1"
    );
    let withdrawn = registered.line_with("withdrawn");
    assert_eq!(withdrawn, "withdrawn a/a1 at 127.0.0.1:1: the check command failed: exit status: 1");
    std::fs::write(&flag, "").unwrap();
    registered.line_with("registered");
}

#[test]
fn a_check_by_http_withdraws_while_the_answer_is_no_success() {
    let (at, server) = (mdns(), Server::start());
    let address = format!("127.0.0.1:{}", server.port);
    let check = ["--check-interval=200ms", "--check-http", "http://{host}:{port}/up"];
    let registered =
        Running::start(switchboard(&at, &[&["register", "a", &address, "--id", "a1"][..], &check].concat()));
    registered.line_with("registered");
    server.answer("503 Service Unavailable");
    let withdrawn = registered.line_with("withdrawn");
    let why = format!("withdrawn a/a1 at {address}: http://{address}/up answered 503 Service Unavailable");
    assert_eq!(withdrawn, why);
    server.answer("204 No Content");
    registered.line_with("registered");
}

/// Answers every request with the same status; its thread ends with the test binary.
pub(crate) struct Server {
    pub(crate) port: u16,
    status: Arc<Mutex<&'static str>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let status = Arc::new(Mutex::new("200 OK"));
        let now = status.clone();
        std::thread::spawn(move || {
            for mut caller in listener.incoming().map_while(Result::ok) {
                // The request fits into one read, or the rest of it does not matter.
                let _ = caller.read(&mut [0; 4096]);
                let status = *now.lock().unwrap();
                let _ = write!(caller, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            }
        });
        Self { port, status }
    }

    pub(crate) fn answer(&self, status: &'static str) {
        *self.status.lock().unwrap() = status;
    }
}
