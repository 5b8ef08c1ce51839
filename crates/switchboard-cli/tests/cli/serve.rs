//! `serve` as a program: where it listens, whom it lets in, and how it ends. What it answers is tested beside it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::{LIMIT, Running, mdns, run, switchboard};

/// The server, and the port it has chosen.
pub(crate) fn serve(registry: &str, arguments: &[&str]) -> (Running, u16, Value) {
    let serve = Running::start(switchboard(registry, &[&["serve", "--json"], arguments].concat()));
    let said: Value = serde_json::from_str(&serve.line_with("serving")).unwrap();
    let url = said["url"].as_str().unwrap().strip_prefix("http://").unwrap();
    let port = url.split_once('/').unwrap().0.rsplit_once(':').unwrap().1.parse().unwrap();
    (serve, port, said)
}

fn ask(port: u16, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").unwrap();
    stream
}

/// The code and the body.
fn get(port: u16, path: &str, headers: &str) -> (u16, String) {
    let mut answer = String::new();
    ask(port, path, &format!("{headers}Connection: close\r\n")).read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn until(port: u16, path: &str, accept: impl Fn(&str) -> bool) {
    let end = Instant::now() + LIMIT;
    loop {
        let (_, body) = get(port, path, "");
        if accept(&body) {
            return;
        }
        assert!(Instant::now() < end, "{path}: {body}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_shows_what_comes_and_ends_on_a_signal_though_somebody_listens() {
    let registry = mdns();
    let (serve, port, said) = serve(&registry, &["--listen", "127.0.0.1:0"]);
    assert!(said.get("token").is_none(), "{said}");
    until(port, "/api/services", |body| body.contains("\"services\":[]"));
    let mut events = BufReader::new(ask(port, "/events", "")).lines().map_while(Result::ok);
    assert!(events.any(|line| line == "event: state"));
    let register = ["register", "web", "127.0.0.1:8080", "--id", "1", "--meta", "zone=a"];
    let _web = Running::start(switchboard(&registry, &register));
    assert!(events.any(|line| line.contains("\"service\":\"web\",\"id\":\"1\"")));
    until(port, "/api/services/web", |body| body.contains("\"metadata\":{\"zone\":\"a\"}"));
    let target = "[{\"targets\":[\"127.0.0.1:8080\"],\"labels\":{";
    until(port, "/http_sd", |body| body.starts_with(target));
    until(port, "/metrics", |body| {
        body.contains("\nswitchboard_serve_instances{service=\"web\",health=\"passing\"} 1\n")
            && body.contains("\nswitchboard_mdns_restarts_total 0\n")
    });
    assert!(get(port, "/", "").1.contains("<title>Switchboard</title>"));

    serve.signal(Signal::TERM);
    assert!(events.any(|line| line == "event: end"));
    let (status, rest) = serve.end();
    assert_eq!((status.code(), rest), (Some(0), vec![]));
}

#[test]
fn beyond_loopback_it_makes_up_a_token_and_prints_it() {
    let (_serve, port, said) = serve("memory:", &["--listen", "0.0.0.0:0"]);
    let token = said["token"].as_str().unwrap();
    assert_eq!(token.len(), 32);
    assert!(said["url"].as_str().unwrap().ends_with(&format!("/?token={token}")), "{said}");
    assert_eq!(get(port, "/api/services", "").0, 401);
    assert_eq!(get(port, "/", "").0, 401);
    let bearer = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(get(port, "/", &bearer).0, 200);

    let (_other, _, other) = serve("memory:", &["--listen", "0.0.0.0:0"]);
    assert_ne!(other["token"], said["token"]);
}

#[test]
fn a_token_in_a_file_is_asked_for_and_not_printed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let path = file.to_str().unwrap();
    for (text, code, why) in [
        (None, 1, "cannot be read: No such file or directory"),
        (Some("short"), 2, "is shorter than 16 characters"),
        (Some("hunter2; hunter2 hunter2"), 2, "has other characters than"),
    ] {
        text.inspect(|text| std::fs::write(&file, text).unwrap());
        let said = run("memory:", &["serve", "--listen", "127.0.0.1:0", "--token-file", path]);
        assert_eq!((said.code, said.out.as_str(), said.err.lines().count()), (Some(code), "", 1), "{said:?}");
        assert!(said.err.contains(why) && !said.err.contains("hunter2"), "{said:?}");
    }
    std::fs::write(&file, "hunter2hunter2hunter2\n").unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--token-file", path];
    let serve = Running::start(switchboard("memory:", &arguments));
    let said = [serve.line(), serve.line()];
    assert!(said.iter().any(|line| line.starts_with("serving http://127.0.0.1:")), "{said:?}");
    assert!(said.iter().any(|line| line.contains("open it once with ?token=TOKEN")), "{said:?}");
    assert!(!said.concat().contains("hunter2"), "{said:?}");
    let serving = said.iter().find(|line| line.starts_with("serving")).unwrap();
    let port = serving.trim_end_matches('/').rsplit_once(':').unwrap().1.parse().unwrap();
    assert_eq!(get(port, "/", "").0, 401);
    assert_eq!(get(port, "/", "Authorization: Bearer hunter2hunter2hunter2\r\n").0, 200);
}

#[test]
fn a_port_that_is_taken_is_said_in_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = run("memory:", &["serve", "--listen", &address]);
    let expected = format!(
        "switchboard: cannot listen on {address} (--listen says where else, port 0 a free one): Address already in use"
    );
    assert_eq!((said.code, said.out.as_str(), said.err.lines().count()), (Some(1), "", 1), "{said:?}");
    assert!(said.err.starts_with(&expected), "{said:?}");
}

#[test]
#[ignore = "needs consul"]
fn consul_is_lost_and_heard_again() {
    let mut agent = Agent::dev();
    let body = r#"{"ID":"1","Name":"web","Address":"10.0.0.1","Port":80,"Check":{"Name":"disk","TTL":"1h"}}"#;
    agent.put("/v1/agent/service/register", body);
    agent.put("/v1/agent/check/fail/service:1?note=full", "");
    let (_serve, port, _) = serve(&agent.url(), &["--listen", "127.0.0.1:0"]);
    until(port, "/api/services/web", |body| {
        body.contains("\"not_picked\":\"not used: critical\"") && body.contains("\"check\":\"disk\"")
    });
    agent.kill();
    until(port, "/api/services", |body| body.contains("\"outage\":{") && body.contains("\"name\":\"web\""));
    until(port, "/metrics", |body| body.contains("\nswitchboard_consul_requests_total{"));
    agent.start();
    until(port, "/api/services", |body| body.contains("\"outage\":null"));
}
