//! What a program gets.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use switchboard::{Change, Health, HealthReason, Instance, MemoryRegistry, RegisterOptions, Registry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, advance, timeout};

use super::super::board::Board;
use super::super::events;
use super::super::routes::STREAMS;
use super::{LIMIT, Served, instance};
use crate::network::Event;
use crate::world::World;

fn client() -> Client {
    Client::builder().no_proxy().redirect(Policy::none()).timeout(LIMIT).build().unwrap()
}

impl Served {
    async fn get(&self, path: &str) -> Response {
        client().get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> (u16, Value) {
        let response = self.get(path).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        (response.status().as_u16(), serde_json::from_str(&response.text().await.unwrap()).unwrap())
    }

    /// Asks again until `accept`.
    async fn json_until(&self, path: &str, accept: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + LIMIT;
        loop {
            let (_, value) = self.json(path).await;
            if accept(&value) {
                return value;
            }
            assert!(Instant::now() < end, "{path}: {value}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn events(&self) -> Events {
        let response = self.get("/events").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { response, text: String::new() }
    }
}

/// An open stream of events.
struct Events {
    response: Response,
    text: String,
}

impl Events {
    /// The next event, without those that only say that the connection stands.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (name, data) = event.split_once('\n').unwrap();
                let name = name.strip_prefix("event: ").unwrap().to_owned();
                let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
                self.text = rest.into();
                if name != "alive" {
                    return Some((name, data));
                }
            } else {
                let chunk = timeout(LIMIT, self.response.chunk()).await.expect("an event").unwrap()?;
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        }
    }

    /// The next state with this in it.
    async fn state(&mut self, accept: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (name, data) = self.next().await.expect("another event");
            assert_eq!(name, "state");
            if accept(&data) {
                return data;
            }
        }
    }
}

fn has(value: &Value, id: &str) -> bool {
    value["instances"].as_array().unwrap().iter().any(|instance| instance["id"] == id)
}

#[tokio::test]
async fn the_same_as_json_with_why_one_is_not_picked() {
    let served = Served::new().await;
    served.register(instance("a/b", "1", 1)).await;
    let two = Instance::builder("a/b").id("2").address("h:2").version("1.2").metadata("zone", "a");
    served.register(two.build().unwrap()).await;
    let reason = HealthReason::new("http", Health::Critical).output("refused");
    served.fail_check("a/b", "1", reason);
    let services = served.json_until("/api/services", |all| all["services"][0]["healthy"] == 1).await;
    let expected = json!({
        "registry": "memory:", "outage": null, "alone": null,
        "services": [{"name": "a/b", "instances": 2, "healthy": 1}],
    });
    assert_eq!(services, expected);
    for path in ["/api/services/a/b", "/api/services/a%2Fb"] {
        let (code, service) = served.json(path).await;
        assert_eq!((code, &service["service"], &service["outage"]), (200, &json!("a/b"), &Value::Null));
        let [first, second] = &service["instances"].as_array().unwrap()[..] else { panic!("{service}") };
        assert_eq!(
            (&first["health"], &first["not_picked"]),
            (&json!("critical"), &json!("not used: critical"))
        );
        let reasons = json!([{"check": "http", "health": "critical", "output": "refused", "notes": ""}]);
        assert_eq!(first["health_reasons"], reasons);
        let expected = json!({
            "service": "a/b", "id": "2", "version": "1.2", "addresses": ["h:2"], "tags": [],
            "metadata": {"zone": "a"}, "endpoints": [], "weight": 1, "health": "passing", "not_picked": null,
        });
        assert_eq!(second, &expected);
    }
    let (code, missing) = served.json("/api/services/c").await;
    assert_eq!((code, missing), (404, json!({"error": "no service \"c\" is known at memory:"})));
    let (code, bad) = served.json("/api/services/%00").await;
    assert_eq!(code, 400, "{bad}");
    let (code, bad) = served.json("/api/services/%ff").await;
    assert!(code == 400 && bad["error"].is_string(), "{bad}");
    let lost = served.get("/nothing").await;
    assert_eq!(lost.status(), StatusCode::NOT_FOUND);
    assert!(lost.text().await.unwrap().contains("/api/services/NAME"));
    let posted = client().post(format!("{}/api/services", served.url)).send().await.unwrap();
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn what_is_known_stands_through_an_outage_and_nothing_known_is_an_error() {
    let served = Served::new().await;
    served.register(instance("a", "1", 1)).await;
    served.json_until("/api/services", |all| all["services"][0]["name"] == "a").await;
    served.fail();
    let out = served.json_until("/api/services", |all| !all["outage"].is_null()).await;
    assert!(out["outage"]["why"].as_str().unwrap().contains("no route to it"), "{out}");
    assert_eq!(
        (&out["services"][0]["name"], served.get("/http_sd").await.status()),
        (&json!("a"), StatusCode::OK)
    );
    served.seen.heal();
    served.json_until("/api/services", |all| all["outage"].is_null()).await;

    // From the beginning.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut served = Served::held(listener, MemoryRegistry::new(), None, &[]);
    assert_eq!(served.json("/api/services").await, (503, json!({"error": "memory: has not been heard yet"})));
    served.fail();
    served.hold = None;
    let out = served
        .json_until("/api/services", |all| all["error"].as_str().is_some_and(|why| why.contains("no route")))
        .await;
    assert!(out["error"].as_str().unwrap().starts_with("memory: has not been heard yet: memory"), "{out}");
    for path in ["/api/services/a", "/http_sd"] {
        assert_eq!(served.json(path).await.0, 503, "{path}");
    }
    served.seen.heal();
    served.json_until("/api/services", |all| all["services"] == json!([])).await;
    assert_eq!(served.json("/http_sd").await, (200, json!([])));
}

#[tokio::test]
async fn prometheus_finds_its_targets() {
    let served = Served::new().await;
    let full = Instance::builder("web").id("1").address("10.0.0.7:8080").address("h:1").version("2");
    let full = full.tag("blue").tag("edge").metadata("a.zone", "é").build().unwrap();
    served.register(full).await;
    served.register(Instance::builder("db").id("x").address("[::1]:5432").build().unwrap()).await;
    let all = served.json_until("/http_sd", |all| all.as_array().is_some_and(|all| all.len() == 2)).await;
    let web = json!({"targets": ["10.0.0.7:8080"], "labels": {
        "__meta_switchboard_service": "web", "__meta_switchboard_id": "1", "__meta_switchboard_version": "2",
        "__meta_switchboard_health": "passing", "__meta_switchboard_tags": ",blue,edge,",
        "__meta_switchboard_metadata_a_zone": "é",
    }});
    let db = json!({"targets": ["[::1]:5432"], "labels": {
        "__meta_switchboard_service": "db", "__meta_switchboard_id": "x", "__meta_switchboard_health": "passing",
    }});
    assert_eq!(all, json!([db, web]));
    assert_eq!(served.json("/http_sd?service=web&service=c").await, (200, json!([web])));
}

#[tokio::test]
async fn events_tell_all_first_and_then_what_is_different() {
    let served = Served::new().await;
    served.register(instance("a", "1", 1)).await;
    served.register(instance("b", "1", 1)).await;
    served.json_until("/http_sd", |all| all.as_array().is_some_and(|all| all.len() == 2)).await;
    let mut events = served.events().await;
    let first = events.state(|_| true).await;
    assert_eq!((&first["whole"], &first["heard"]), (&json!(true), &json!(true)));
    assert_eq!(first["instances"].as_array().unwrap().len(), 2, "{first}");
    served.set_health("a", "1", Health::Critical);
    let critical = events.state(|state| has(state, "1")).await;
    assert_eq!((&critical["whole"], critical["instances"].as_array().unwrap().len()), (&json!(false), 1));
    assert_eq!(critical["instances"][0]["not_picked"], "not used: critical");
    assert_eq!(critical["news"].as_array().unwrap().len(), 1, "{critical}");
    assert_eq!(critical["news"][0]["text"], "~ a/1: passing -> critical");
    served.deregister("b", "1").await;
    let gone = events.state(|state| state["gone"] != json!([])).await;
    assert_eq!((&gone["gone"], &gone["instances"]), (&json!([["b", "1"]]), &json!([])));

    served.fail();
    let out = events.state(|state| !state["outage"].is_null()).await;
    assert_eq!((&out["news"][0]["look"], &out["gone"]), (&json!("bad"), &json!([])));
    served.seen.heal();
    let back = events.state(|state| state["outage"].is_null()).await;
    assert!(back["news"][0]["text"].as_str().unwrap().starts_with("* heard again"), "{back}");

    // One that comes later knows nothing.
    let late = served.events().await.state(|_| true).await;
    assert_eq!((&late["whole"], late["instances"].as_array().unwrap().len()), (&json!(true), 1));
    assert!(late["news"].as_array().unwrap().len() >= 6, "{late}");

    served.end().await;
    let mut last = String::new();
    while let Some((name, _)) = events.next().await {
        last = name;
    }
    assert_eq!(last, "end");
}

#[tokio::test]
async fn a_part_is_not_taken_for_the_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut served = Served::held(listener, MemoryRegistry::new(), None, &[]);
    served.register(instance("a", "1", 1)).await;
    served.register(instance("slow", "1", 1)).await;
    served.hold = None;
    let mut events = served.events().await;
    let part = events.state(|state| has(state, "1")).await;
    assert_eq!((&part["heard"], part["instances"].as_array().unwrap().len()), (&json!(false), 1));
    for path in ["/api/services", "/api/services/a", "/http_sd"] {
        assert_eq!(served.json(path).await.0, 503, "{path}");
    }
    served.slow.send_replace(true);
    events.state(|state| state["heard"] == true).await;
    assert_eq!(served.json("/http_sd").await.1.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_slow_reader_is_told_the_newest_state_and_keeps_no_other() {
    let mut world = World::new("memory:".into());
    let states = watch::Sender::new(Arc::new(world.clone()));
    let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
    let mut slow = events::stream(states.subscribe(), place).into_data_stream();
    let mut next = async || {
        let event = timeout(LIMIT, slow.next()).await.unwrap().unwrap().unwrap();
        let event = String::from_utf8(event.to_vec()).unwrap();
        let data = event.strip_prefix("event: state\ndata: ").expect(&event);
        serde_json::from_str::<Value>(data).unwrap()
    };
    assert_eq!(next().await["whole"], true);
    let mut before = Vec::new();
    for turn in 0..1000 {
        let one = Arc::new(instance("a", &turn.to_string(), 1));
        world.take(Event::Changed(Change::Added(one)));
        let state = Arc::new(world.clone());
        before.push(Arc::downgrade(&state));
        states.send_replace(state);
    }
    let kept = || before.iter().filter(|state| state.strong_count() > 0).count();
    assert_eq!(kept(), 1, "the newest only");
    let all = next().await;
    assert_eq!((&all["whole"], all["instances"].as_array().unwrap().len()), (&json!(false), 1000));
    world.take(Event::Changed(Change::Removed(Arc::new(instance("a", "7", 1)))));
    states.send_replace(Arc::new(world.clone()));
    let last = next().await;
    assert_eq!((&last["gone"], &last["instances"]), (&json!([["a", "7"]]), &json!([])));
    assert_eq!(last["news"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn so_many_streams_and_no_more() {
    let served = Served::new().await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(served.events().await);
    }
    let refused = served.get("/events").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.text().await.unwrap().contains("64 follow the changes already"));
    let text = served.get("/metrics").await.text().await.unwrap();
    assert!(text.contains("\nswitchboard_serve_event_streams 64\n"), "{text}");
    streams.pop();
    let end = Instant::now() + LIMIT;
    while served.get("/events").await.status() != StatusCode::OK {
        assert!(Instant::now() < end, "the place is not free again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn metrics_are_of_what_is_there() {
    let served = Served::new().await;
    served.register(instance("a", "1", 1)).await;
    served.register(instance("b", "1", 1)).await;
    served.set_health("b", "1", Health::Maintenance);
    served.json_until("/api/services/b", |b| b["instances"][0]["health"] == "maintenance").await;
    let response = served.get("/metrics").await;
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text().await.unwrap();
    for line in [
        "# TYPE switchboard_serve_services gauge",
        "switchboard_serve_services 2",
        "switchboard_serve_instances{service=\"a\",health=\"passing\"} 1",
        "switchboard_serve_instances{service=\"b\",health=\"passing\"} 0",
        "switchboard_serve_instances{service=\"b\",health=\"maintenance\"} 1",
        "switchboard_serve_stale_since_seconds 0",
    ] {
        assert!(text.lines().any(|said| said == line), "{line}: {text}");
    }
    served.deregister("b", "1").await;
    served.fail();
    served.json_until("/api/services", |all| !all["outage"].is_null()).await;
    let text = served.get("/metrics").await.text().await.unwrap();
    assert!(text.contains("\nswitchboard_serve_stale_since_seconds 1"), "{text}");
    served.seen.heal();
    served.json_until("/api/services/b", |b| !b["error"].is_null()).await;
    let text = served.get("/metrics").await.text().await.unwrap();
    assert!(!text.contains("\"b\""), "it is gone: {text}");
}

#[tokio::test]
async fn nobody_gets_in_without_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "correct-horse-battery\n").unwrap();
    let served = Served::with(Some(&file), &[]).await;
    served.register(instance("a", "1", 1)).await;
    let mut heard = StatusCode::NOT_FOUND;
    while heard != StatusCode::OK {
        let request = client().get(format!("{}/api/services/a", served.url));
        heard = request.bearer_auth("correct-horse-battery").send().await.unwrap().status();
    }
    let ask = |path: &str, headers: &[(&'static str, &str)]| {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        client().get(format!("{}{path}", served.url)).headers(headers).send()
    };
    let port = served.url.rsplit_once(':').unwrap().1;
    let cookie = |token: &str| format!("other=1; switchboard-{port}={token}");
    for path in ["/", "/page.js", "/events", "/api/services", "/api/services/a", "/http_sd", "/metrics", "/x"]
    {
        for (headers, code) in [
            (vec![], 401),
            (vec![("authorization", "Bearer correct-horse-batterz")], 401),
            (vec![("authorization", "Bearer correct-horse-battery-2")], 401),
            (vec![("authorization", "Bearer ")], 401),
            (vec![("authorization", "Basic correct-horse-battery")], 401),
            (vec![("cookie", "switchboard=correct-horse-battery")], 401),
            (vec![("authorization", "bearer correct-horse-battery")], 200),
        ] {
            let response = ask(path, &headers).await.unwrap();
            let code = if path == "/x" && code == 200 { 404 } else { code };
            assert_eq!(response.status().as_u16(), code, "{path} {headers:?}");
            if code == 401 {
                assert_eq!(response.headers()["www-authenticate"], "Bearer");
            }
        }
    }
    assert_eq!(
        ask("/", &[("cookie", &cookie("correct-horse-battery"))]).await.unwrap().status(),
        StatusCode::OK
    );
    assert_eq!(ask("/", &[("cookie", &cookie("wrong"))]).await.unwrap().status(), StatusCode::UNAUTHORIZED);

    let wrong = ask("/?token=wrong", &[]).await.unwrap();
    assert_eq!((wrong.status(), wrong.headers().get("set-cookie")), (StatusCode::UNAUTHORIZED, None));
    for (path, to) in [
        ("/?token=correct-horse-battery", "/"),
        ("/http_sd?service=a%26b&token=correct-horse-battery", "/http_sd?service=a%26b"),
        ("//evil.example/?token=correct-horse-battery", "/evil.example/"),
        ("/\\evil.example?token=correct-horse-battery", "/evil.example"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = raw(&served, &request).await;
        assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
        assert!(answer.contains(&format!("\r\nlocation: {to}\r\n")), "{path}: {answer}");
        let cookie = format!(
            "\r\nset-cookie: switchboard-{port}=correct-horse-battery; Path=/; HttpOnly; SameSite=Lax\r\n"
        );
        assert!(answer.contains(&cookie), "{answer}");
    }
}

async fn raw(served: &Served, request: &str) -> String {
    let mut stream = TcpStream::connect(served.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn a_name_of_somebody_elses_leads_nowhere() {
    let served = Served::with(None, &["Dash.Example".into()]).await;
    let ask = async |host: &str| {
        let request = format!("GET /api/services HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        raw(&served, &request).await.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    served.json_until("/api/services", |all| all["services"] == json!([])).await;
    for host in [
        "localhost",
        "LOCALHOST:1234",
        "127.0.0.1:80",
        "[::1]:80",
        "10.1.2.3",
        "x.localhost",
        "dash.example.:80",
    ] {
        assert_eq!(ask(&format!("Host: {host}\r\n")).await, 200, "{host}");
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
        "xlocalhost",
        "dash.example.evil",
    ] {
        assert_eq!(ask(&format!("Host: {host}\r\n")).await, 421, "{host}");
    }
    for host in ["", "Host: \r\n", "Host: a b\r\n", "Host: localhost\r\nHost: evil.example\r\n"] {
        assert_eq!(ask(host).await, 400, "{host:?}");
    }
    let absolute = "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(raw(&served, absolute).await.starts_with("HTTP/1.1 421"));
    let refused = raw(&served, "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert!(refused.contains("say --allow-host evil.example"), "{refused}");
}

#[tokio::test]
async fn every_answer_keeps_others_out() {
    let served = Served::new().await;
    for path in ["/", "/page.js", "/events", "/api/services", "/nothing"] {
        let request = client().get(format!("{}{path}", served.url)).header("origin", "http://evil.example");
        let headers = request.send().await.unwrap().headers().clone();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        assert!(
            !headers.keys().any(|name| name.as_str().starts_with("access-control")),
            "{path}: {headers:?}"
        );
    }
    let page = served.get("/").await.text().await.unwrap();
    assert!(!page.contains("://"), "something from outside");
}

#[tokio::test(start_paused = true)]
async fn states_come_at_once_after_quiet_and_at_a_pace_in_a_storm() {
    let registry = MemoryRegistry::new();
    let board = Board::new(registry.to_string());
    let mut states = board.states();
    let seen = registry.handle();
    let following = tokio::spawn(async move { board.follow(&seen, || None, std::future::pending()).await });
    advance(Duration::from_secs(10)).await;
    let begun = Instant::now();
    let mut shown = Vec::new();
    while states.borrow_and_update().told < 1000 {
        if registry.lookup(&"a".try_into().unwrap()).await.unwrap().len() < 1000 {
            let id = (begun.elapsed().as_millis() / 10).to_string();
            registry.register(&instance("a", &id, 1), &RegisterOptions::new()).await.unwrap();
        }
        advance(Duration::from_millis(10)).await;
        tokio::task::yield_now().await;
        if let Some(changed) = states.changed().now_or_never() {
            changed.unwrap();
            shown.push(begun.elapsed().as_millis());
        }
    }
    assert!(shown[0] <= 20, "{shown:?}");
    assert!((38..=42).contains(&shown.len()), "{shown:?}");
    following.abort();
}
