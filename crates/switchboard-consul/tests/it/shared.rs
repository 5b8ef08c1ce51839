//! Two programs with one id at one agent: the agent has the registration that came last, and takes everybody's renewals for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use switchboard_consul::ConsulRegistry;
use switchboard_core::{Error, ErrorKind, Instance, RegisterOptions, Registry, Result};
use tokio::time::{Instant, sleep};

use crate::support::scripted::{Asked, Reply, Server};
use crate::support::{builder, registry, ttl, until, within};
use switchboard_tests::consul::Agent;

/// How long those that die are listed. Who renews looks every 2 s with it.
const TTL: u64 = 6;

fn at(port: u16) -> Instance {
    Instance::builder("web").id("1").address(format!("10.0.0.1:{port}")).build().unwrap()
}

/// Registers it at this port, and dies.
async fn die(agent: &Agent, port: u16, options: &RegisterOptions) {
    let registry = registry(&agent.address());
    registry.register(&at(port), options).await.unwrap();
    // Dropping it would deregister.
    std::mem::forget(registry);
}

async fn entries(agent: &Agent) -> Vec<Value> {
    serde_json::from_str(&agent.get("/v1/health/service/web").await.unwrap()).unwrap()
}

/// The port that clients are led to.
async fn led_to(agent: &Agent) -> Option<u64> {
    let entries = entries(agent).await;
    let passes =
        |entry: &&Value| entry["Checks"].as_array().unwrap().iter().all(|check| check["Status"] == "passing");
    entries.iter().find(passes).map(|entry| entry["Service"]["Port"].as_u64().unwrap())
}

async fn index(agent: &Agent) -> String {
    let answer = agent.client.get(format!("{}/v1/health/service/web", agent.address())).send().await.unwrap();
    answer.headers()["x-consul-index"].to_str().unwrap().to_owned()
}

/// Renews until this is so; what the renewals failed with.
async fn renew_until(
    registry: &ConsulRegistry,
    instance: &Instance,
    options: &RegisterOptions,
    mut is_so: impl AsyncFnMut(&Result<()>) -> bool,
) -> Vec<Error> {
    let mut failed = Vec::new();
    let renewing = async {
        loop {
            let renewed = registry.register(instance, options).await;
            if is_so(&renewed).await {
                return;
            }
            failed.extend(renewed.err());
            sleep(Duration::from_millis(20)).await;
        }
    };
    within("renewing", renewing).await;
    failed
}

fn is_taken(error: &Error, theirs: &str, ours: &str) -> bool {
    let why = format!(
        "instance id \"1\": is that of another program, which has registered it at {theirs} and has not lapsed, and not of \
         this one at {ours}; each needs an id of its own"
    );
    error.kind() == ErrorKind::Invalid && error.message() == why
}

#[tokio::test]
#[ignore = "needs consul"]
async fn who_dies_with_our_id_lapses_and_is_replaced() {
    let agent = Agent::dev().await;
    let one = registry(&agent.address());
    // With and without a TTL of its own.
    for options in [ttl(TTL), RegisterOptions::new()] {
        one.register(&at(1), &options).await.unwrap();
        die(&agent, 2, &ttl(TTL)).await;
        assert_eq!(led_to(&agent).await, Some(2), "who came last");
        let died = Instant::now();
        let failed = renew_until(&one, &at(1), &options, async |_| led_to(&agent).await == Some(1)).await;
        println!("died with a TTL of {TTL} s: replaced after {:?}", died.elapsed());
        assert!(!failed.is_empty() && failed.iter().all(|error| is_taken(error, "10.0.0.1:2", "10.0.0.1:1")));
        one.register(&at(1), &options).await.unwrap();
        assert_eq!(entries(&agent).await.len(), 1);
    }
    one.close().await.unwrap();
    assert!(entries(&agent).await.is_empty());
}

#[tokio::test]
#[ignore = "needs consul"]
async fn of_two_that_live_the_last_has_the_id_and_nothing_goes_to_and_fro() {
    let agent = Agent::dev().await;
    let (one, two) = (registry(&agent.address()), registry(&agent.address()));
    one.register(&at(1), &ttl(TTL)).await.unwrap();
    two.register(&at(2), &ttl(TTL)).await.unwrap();
    let before = index(&agent).await;
    let mut refused = 0;
    // Past the time in which either would lapse.
    for _ in 0..TTL * 20 {
        if let Err(error) = one.register(&at(1), &ttl(TTL)).await {
            assert!(is_taken(&error, "10.0.0.1:2", "10.0.0.1:1"), "{error}");
            refused += 1;
        }
        two.register(&at(2), &ttl(TTL)).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    assert!(refused > 0);
    assert_eq!((led_to(&agent).await, index(&agent).await), (Some(2), before), "nothing was written");

    // The one that waits leaves the other's alone, and takes the place of one that has left.
    one.deregister(&at(1).key()).await.unwrap();
    assert_eq!(led_to(&agent).await, Some(2));
    one.register(&at(1), &ttl(TTL)).await.unwrap();
    renew_until(&two, &at(2), &ttl(TTL), async |renewed| renewed.is_err()).await;
    one.close().await.unwrap();
    renew_until(&two, &at(2), &ttl(TTL), async |renewed| renewed.is_ok()).await;
    assert_eq!(led_to(&agent).await, Some(2));
}

#[tokio::test]
#[ignore = "needs consul"]
async fn without_a_ttl_the_last_has_the_id_until_it_leaves() {
    let agent = Agent::dev().await;
    let (one, two, options) =
        (registry(&agent.address()), registry(&agent.address()), RegisterOptions::new());
    one.register(&at(1), &options).await.unwrap();
    two.register(&at(2), &options).await.unwrap();
    for _ in 0..3 {
        let error = one.register(&at(1), &options).await.unwrap_err();
        assert!(is_taken(&error, "10.0.0.1:2", "10.0.0.1:1"), "{error}");
        two.register(&at(2), &options).await.unwrap();
    }
    // Of one without a TTL nobody knows whether it lives, and one with a TTL does.
    let three = registry(&agent.address());
    three.register(&at(3), &ttl(TTL)).await.unwrap();
    two.register(&at(2), &options).await.unwrap_err();
    die(&agent, 4, &options).await;
    renew_until(&three, &at(3), &ttl(TTL), async |_| led_to(&agent).await == Some(3)).await;
    three.close().await.unwrap();
    two.register(&at(2), &options).await.unwrap();
    one.register(&at(1), &options).await.unwrap_err();
    assert_eq!(led_to(&agent).await, Some(2));
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_service_that_has_got_our_id_is_neither_renewed_nor_replaced() {
    let agent = Agent::dev().await;
    let one = registry(&agent.address());
    one.register(&at(1), &ttl(TTL)).await.unwrap();
    let other = r#"{"ID":"1","Name":"other","Address":"10.0.0.1","Port":1}"#;
    agent.put("/v1/agent/service/register", other).await;
    let lapsed = || async {
        let checks: Value =
            serde_json::from_str(&agent.get("/v1/health/checks/other").await.unwrap()).unwrap();
        checks[0]["Status"] == "critical"
    };
    let failed = renew_until(&one, &at(1), &ttl(TTL), async |_| lapsed().await).await;
    let why = "instance id \"1\": is that of an instance of \"other\" there; to a Consul agent ids are one over all services";
    assert!(failed.iter().all(|error| error.kind() == ErrorKind::Invalid && error.message() == why));
    one.register(&at(1), &ttl(TTL)).await.unwrap_err();
    agent.put("/v1/agent/service/deregister/1", "").await;
    one.register(&at(1), &ttl(TTL)).await.unwrap();
    assert_eq!(led_to(&agent).await, Some(1));
}

#[tokio::test]
#[ignore = "needs consul"]
async fn what_an_operator_changes_and_a_program_that_moves_stay() {
    let agent = Agent::dev().await;
    let (one, two) = (registry(&agent.address()), registry(&agent.address()));
    one.register(&at(1), &ttl(TTL)).await.unwrap();
    let body = r#"{"ID":"1","Name":"web","Address":"10.0.0.1","Port":1,"Tags":["slow"],"Weights":{"Passing":9,"Warning":1}}"#;
    agent.put("/v1/agent/service/register", body).await;
    let before = index(&agent).await;
    for _ in 0..TTL * 20 {
        one.register(&at(1), &ttl(TTL)).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((led_to(&agent).await, index(&agent).await), (Some(1), before));
    assert_eq!(entries(&agent).await[0]["Service"]["Tags"], serde_json::json!(["slow"]));

    // It moves by the same handle, and by another.
    one.register(&at(2), &ttl(TTL)).await.unwrap();
    one.register(&at(2), &ttl(TTL)).await.unwrap();
    assert_eq!(led_to(&agent).await, Some(2));
    two.register(&at(3), &ttl(TTL)).await.unwrap();
    one.close().await.unwrap();
    assert_eq!(led_to(&agent).await, Some(3));
    for _ in 0..TTL * 10 {
        two.register(&at(3), &ttl(TTL)).await.unwrap();
        assert_eq!(led_to(&agent).await, Some(3));
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
#[ignore = "needs consul"]
async fn who_may_not_see_the_catalog_finds_it_out_too() {
    let agent = Agent::acl().await;
    let policy = serde_json::json!({ "Name": "web", "Rules": r#"service "web" { policy = "write" }"# });
    agent.put("/v1/acl/policy", &policy.to_string()).await;
    let token = agent.put("/v1/acl/token", r#"{"Policies":[{"Name":"web"}]}"#).await;
    let token: Value = serde_json::from_str(&token).unwrap();
    let one = builder(&agent.address()).token(token["SecretID"].as_str().unwrap()).build().unwrap();
    one.register(&at(1), &ttl(TTL)).await.unwrap();
    let two = builder(&agent.address()).token("root").build().unwrap();
    two.register(&at(2), &ttl(TTL)).await.unwrap();
    std::mem::forget(two);
    let failed = renew_until(&one, &at(1), &ttl(TTL), async |_| led_to(&agent).await == Some(1)).await;
    assert!(failed.iter().any(|error| is_taken(error, "10.0.0.1:2", "10.0.0.1:1")));
}

#[tokio::test]
#[ignore = "needs consul"]
async fn another_library_that_lives_keeps_the_id_however_its_checks_are_named() {
    let agent = Agent::dev().await;
    let one = registry(&agent.address());
    one.register(&at(1), &ttl(TTL)).await.unwrap();
    // Of two checks the agent makes the names, and ours is gone: the next renewal does not find it.
    let theirs = r#"{"ID": "1", "Name": "web", "Address": "10.0.0.1", "Port": 2,
        "Checks": [{"TTL": "60s", "Status": "passing"}, {"TTL": "60s", "Status": "passing"}]}"#;
    agent.put("/v1/agent/service/register?replace-existing-checks=true", theirs).await;
    for _ in 0..2 {
        let error = one.register(&at(1), &ttl(TTL)).await.unwrap_err();
        assert!(is_taken(&error, "10.0.0.1:2", "10.0.0.1:1"), "{error}");
    }
    assert_eq!(led_to(&agent).await, Some(2));
    agent.put("/v1/agent/service/deregister/1", "").await;
    one.register(&at(1), &ttl(TTL)).await.unwrap();
    assert_eq!(led_to(&agent).await, Some(1));
}

/// A service as an agent and the catalog put it.
fn entry(port: u16) -> String {
    format!(r#"{{"ID":"1","Service":"web","Address":"10.0.0.1","Port":{port}}}"#)
}

/// What an agent says of it, and of its check.
fn health(port: u16) -> String {
    let check = r#"{"CheckID":"service:1","Node":"n","ServiceID":"1","Status":"passing"}"#;
    format!(r#"{{"Service":{},"Checks":[{check}]}}"#, entry(port))
}

/// What an agent and the catalog say of `web`, at the ports given; 403 for port 0.
async fn scripted(agent: &Arc<AtomicU16>, catalog: &Arc<AtomicU16>) -> Server {
    let (agent, catalog) = (agent.clone(), catalog.clone());
    Server::start(move |_, asked| {
        let port = |port: &AtomicU16| Some(port.load(Ordering::SeqCst)).filter(|port| *port != 0);
        let said = if asked.target.contains("/agent/health/") {
            port(&agent).map(health)
        } else if asked.target.contains("/node-services/") {
            port(&catalog).map(|port| format!(r#"{{"Services":[{}]}}"#, entry(port)))
        } else {
            Some(String::new())
        };
        said.map_or(Reply::status(403, "Permission denied"), |said| Reply::status(200, &said))
    })
    .await
}

/// Renews until the catalog was looked at; what was asked for that renewal.
async fn look(server: &Server, registry: &ConsulRegistry) -> (Vec<String>, Result<()>) {
    until("a look", || async {
        let before = server.asked().len();
        let renewed = registry.register(&at(1), &ttl(TTL)).await;
        let what = |asked: &Asked| {
            let end = asked.target.find("/n?").map_or(asked.target.len(), |end| end + 2);
            format!("{} {}", asked.method, &asked.target["/v1".len()..end])
        };
        let asked: Vec<_> = server.asked()[before..].iter().map(what).collect();
        let looked = asked.iter().any(|asked| asked.contains("catalog"));
        assert!(looked || asked == [PASS], "{asked:?}");
        looked.then_some((asked, renewed))
    })
    .await
}

const PASS: &str = "PUT /agent/check/pass/service%3A1";
const CATALOG: &str = "GET /catalog/node-services/n";
const AGENT: &str = "GET /agent/health/service/id/1";

#[tokio::test]
async fn a_look_asks_the_agent_only_if_the_catalog_tells_of_another() {
    let (agent, catalog) = (Arc::new(AtomicU16::new(1)), Arc::new(AtomicU16::new(1)));
    let server = scripted(&agent, &catalog).await;
    let registry = registry(&server.address);
    registry.register(&at(1), &ttl(TTL)).await.unwrap();

    let (asked, renewed) = look(&server, &registry).await;
    assert_eq!((asked, renewed.is_ok()), (vec![CATALOG.into(), PASS.into()], true));
    // The catalog is behind, or the agent may not be asked: renewing goes on.
    catalog.store(2, Ordering::SeqCst);
    for port in [1, 0] {
        agent.store(port, Ordering::SeqCst);
        let (asked, renewed) = look(&server, &registry).await;
        assert_eq!((asked, renewed.is_ok()), (vec![CATALOG.into(), AGENT.into(), PASS.into()], true));
    }
    agent.store(2, Ordering::SeqCst);
    let (asked, renewed) = look(&server, &registry).await;
    assert!(is_taken(&renewed.unwrap_err(), "10.0.0.1:2", "10.0.0.1:1"));
    assert_eq!(asked, [CATALOG, AGENT]);
    // Waiting costs one request.
    let before = server.asked().len();
    registry.register(&at(1), &ttl(TTL)).await.unwrap_err();
    assert_eq!(server.asked()[before..].len(), 1);
}

#[tokio::test]
async fn what_an_agent_has_lost_is_registered_when_it_says_that_nobody_has_the_id() {
    // Whether the check is lost, and what the agent then says of the id: port 0 for nothing, 1 for an error.
    let (lost, holder) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU16::new(1)));
    let (is_lost, has) = (lost.clone(), holder.clone());
    let server = Server::start(move |_, asked| {
        let lost = is_lost.load(Ordering::SeqCst);
        let of = |port: u16| Reply::status(200, &health(port));
        if asked.target.contains("/agent/health/") && lost {
            return match has.load(Ordering::SeqCst) {
                0 => Reply::status(404, ""),
                1 => Reply::status(500, "not now"),
                port => of(port),
            };
        }
        if asked.target.ends_with("/service/register") {
            is_lost.store(false, Ordering::SeqCst);
        }
        let passes = asked.target.contains("/check/pass/");
        if passes && lost { Reply::status(404, "Unknown check ID") } else { of(1) }
    })
    .await;
    let registry = registry(&server.address);
    let register = async || {
        let before = server.asked().len();
        let done = registry.register(&at(1), &ttl(90)).await;
        (done, server.asked()[before..].iter().any(|asked| asked.target.ends_with("/service/register")))
    };
    assert!(matches!(register().await, (Ok(()), true)));
    lost.store(true, Ordering::SeqCst);
    // Whoever cannot be asked may have it.
    for _ in 0..2 {
        let (failed, registered) = register().await;
        assert_eq!((failed.unwrap_err().kind(), registered), (ErrorKind::Unavailable, false));
    }
    holder.store(2, Ordering::SeqCst);
    let (failed, registered) = register().await;
    assert!(is_taken(&failed.unwrap_err(), "10.0.0.1:2", "10.0.0.1:1") && !registered);
    holder.store(0, Ordering::SeqCst);
    assert!(matches!(register().await, (Ok(()), true)));
}
