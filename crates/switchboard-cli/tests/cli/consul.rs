//! The same on Consul.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::agent::Agent;
use crate::support::{Running, golden, run, switchboard, until, untimed};

#[test]
#[ignore = "needs consul"]
fn what_curl_puts_there_shows_with_all_its_parts() {
    let agent = Agent::dev();
    let legacy = r#"{"ID":"legacy-1","Name":"legacy","Address":"10.1.2.3","Port":9000,"Tags":["blue","v2"],
        "Meta":{"version":"2.0","zone":"b"},"Weights":{"Passing":5,"Warning":2},
        "Check":{"TTL":"600s","Status":"warning"}}"#;
    agent.put("/v1/agent/service/register", legacy);
    let json = ["instances", "legacy", "--json"];
    golden("legacy.json", &until(&agent.url(), &json, |said| said.out.contains("legacy-1")).out, &[]);
    golden("legacy.txt", &run(&agent.url(), &["instances", "legacy"]).out, &[]);
}

#[test]
#[ignore = "needs consul"]
fn a_registration_is_passing_and_gone_after_sigterm() {
    let agent = Agent::dev();
    let hello =
        ["register", "hello", "127.0.0.1:8080", "--id", "h1", "--version", "1.2.0", "--meta", "zone=a"];
    let hello = Running::start(switchboard(&agent.url(), &hello));
    hello.line_with("registered hello/h1");
    let path = "/v1/health/service/hello?passing";
    agent.until(path, |answer| answer.contains("\"ID\":\"h1\"") || answer.contains("\"ID\": \"h1\""));
    let watch = Running::start(switchboard(&agent.url(), &["watch", "hello"]));
    assert_eq!(untimed(&watch.line()), "+ hello/h1 at 127.0.0.1:8080 version 1.2.0 passing");
    hello.signal(Signal::TERM);
    assert_eq!(hello.end().0.code(), Some(0));
    assert_eq!(untimed(&watch.line()), "- hello/h1");
    agent.until("/v1/agent/services", |answer| answer.trim_end().ends_with("{}"));
}

#[test]
#[ignore = "needs consul"]
fn doctor_names_a_refused_token_and_a_missing_leader() {
    let doctor = |url: &str, name: &str, port: u16| {
        let said = run(url, &["doctor"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        golden(name, &said.out, &[(&port.to_string(), "PORT")]);
    };
    let none = Agent::without_leader();
    doctor(&none.url(), "doctor-leader.txt", none.port());

    let acl = Agent::acl();
    let said = until(&format!("{}?token=wrong", acl.url()), &["doctor"], |said| said.out.contains("refuses"));
    assert_eq!(said.code, Some(1), "{said:?}");
    // 1.22 adds words of its own in between.
    let refused = |line: &str| {
        line.starts_with("PROBLEM  token       Consul refuses the token: ") && line.ends_with("ACL not found")
    };
    assert!(said.out.lines().any(refused), "{said:?}");
    let said = until(&format!("{}?token=root", acl.url()), &["doctor", "web"], |said| said.code == Some(0));
    assert!(said.out.contains("service \"web\" can be found and registered"), "{said:?}");
    // The rights are those of the name that it has in the registry.
    let said = run(&format!("{}?token=root&namespace=alice", acl.url()), &["doctor", "web"]);
    assert!(said.out.contains("service \"alice--web\" can be found and registered"), "{said:?}");
}

#[test]
#[ignore = "needs consul"]
fn watch_tells_an_outage_and_its_end_though_a_service_vanished_in_it() {
    let mut agent = Agent::dev();
    agent.put("/v1/agent/service/register", r#"{"ID":"1","Name":"web","Address":"10.0.0.1","Port":80}"#);
    let at = format!("{}?rejoin_grace=0s", agent.url());
    let watch = Running::start(switchboard(&at, &["watch", "--json"]));
    watch.line_with("\"id\":\"1\"");
    agent.kill();
    let outage = watch.line_with("\"change\":\"outage\"");
    assert!(outage.contains("\"why\":\"consul: "), "{outage}");
    agent.start();
    let before = watch.lines_before("\"change\":\"recovery\"");
    // It is one outage, though a service and the list of services are not heard.
    assert!(!before.iter().any(|line| line.contains("\"change\":\"outage\"")), "{before:?}");
}

#[test]
#[ignore = "needs consul"]
fn leaving_a_registry_that_hangs_takes_no_longer_than_the_timeout_and_says_so() {
    let agent = Agent::dev();
    let arguments = ["register", "web", "127.0.0.1:1", "--id", "1", "--timeout", "3s"];
    let running = Running::start(switchboard(&agent.url(), &arguments));
    running.line_with("registered");
    let pid = Pid::from_raw(i32::try_from(agent.pid()).unwrap()).unwrap();
    stop(pid);
    let begun = Instant::now();
    running.signal(Signal::TERM);
    let (status, rest) = running.end();
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(status.code(), Some(1), "{rest:?}");
    // The registrar or the command itself may be the first to give up.
    assert!(
        rest.iter().any(|line| line.contains("did not answer") || line.contains("within 3s")),
        "{rest:?}"
    );
    // Closing a registry that hangs has 15 s of its own, which are not to be added.
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

#[test]
#[ignore = "needs consul"]
fn it_says_why_an_instance_is_not_passing() {
    let agent = Agent::dev();
    let check = r#"{"CheckID":"ttl","Name":"disk","Notes":"ask storage","TTL":"1h","Status":"passing"}"#;
    let body = format!(r#"{{"ID":"1","Name":"web","Address":"10.0.0.1","Port":80,"Check":{check}}}"#);
    agent.put("/v1/agent/service/register", &body);
    agent.put("/v1/agent/check/update/ttl", r#"{"Status":"critical","Output":"97 % full\nof 1 TB"}"#);
    agent.until("/v1/health/service/web", |answer| answer.contains("97 % full"));
    let said = run(&agent.url(), &["instances", "web"]);
    assert!(said.out.contains("disk: 97 % full\n"), "{said:?}");
    let said = run(&agent.url(), &["instances", "web", "--json"]);
    let reasons = r#""health_reasons":[{"check":"disk","health":"critical","output":"97 % full\nof 1 TB","notes":"ask storage"}]"#;
    assert!(said.out.contains(reasons), "{said:?}");
    let watch = Running::start(switchboard(&agent.url(), &["watch", "web"]));
    assert_eq!(untimed(&watch.line()), "+ web/1 at 10.0.0.1:80 critical, disk: 97 % full");
    let said = run(&agent.url(), &["services", "--json"]);
    assert!(said.out.contains(r#"{"name":"web","instances":1,"healthy":0}"#), "{said:?}");
}

/// Stops a process, and waits until the last of its threads has.
fn stop(pid: Pid) {
    kill_process(pid, Signal::STOP).unwrap();
    let stopped = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|state| state.starts_with('T'))
    };
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    let end = Instant::now() + crate::support::LIMIT;
    while !std::fs::read_dir(&tasks).unwrap().all(stopped) {
        assert!(Instant::now() < end, "it does not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs consul"]
fn describe_tells_what_the_checks_put_out_and_wait_why_it_waits() {
    let agent = Agent::dev();
    let check = r#"{"CheckID":"ttl","Name":"disk","Notes":"ask storage","TTL":"1h","Status":"passing"}"#;
    let weights = r#"{"Passing":5,"Warning":2}"#;
    let body = format!(
        r#"{{"ID":"1","Name":"web","Address":"10.0.0.1","Port":80,"Weights":{weights},"Check":{check}}}"#
    );
    agent.put("/v1/agent/service/register", &body);
    agent.put("/v1/agent/check/update/ttl", r#"{"Status":"critical","Output":"97 % full\nof 1 TB"}"#);
    agent.until("/v1/health/service/web", |answer| answer.contains("97 % full"));
    let port = agent.port().to_string();
    golden("describe-checks.txt", &run(&agent.url(), &["describe", "web", "1"]).out, &[(&port, "PORT")]);
    let late = run(&agent.url(), &["wait", "web", "--timeout", "1s"]);
    let why = "switchboard: web: not within 1s: 0 of 1 healthy; 1 is critical, disk: 97 % full\n";
    assert_eq!((late.code, late.err.as_str()), (Some(1), why));

    let wait = Running::start(switchboard(&agent.url(), &["wait", "web", "--timeout", "30s"]));
    agent.put("/v1/agent/check/update/ttl", r#"{"Status":"warning","Output":"96 %"}"#);
    assert_eq!(wait.line(), "web: 1 healthy");
    let sorted = run(&agent.url(), &["instances", "-A", "-o", "template={{ service }} {{ weight }}"]);
    assert!(sorted.out.lines().any(|line| line == "web 5"), "{sorted:?}");
}
