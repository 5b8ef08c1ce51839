//! What a call lets one see: its error, its span, the instance in its response, its metrics.

#![cfg(all(feature = "reqwest", feature = "tonic", feature = "tower"))]
#![allow(clippy::unwrap_used)] // in helpers of tests too

#[cfg(feature = "metrics")]
#[path = "../../switchboard-watcher/tests/support/recorded.rs"]
mod recorded;
mod support;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use support::health::{ask, check};
use support::http_server::{beneath, client, server, text};
use support::servers::{breaking, hanging};
use support::{Silent, instance, nowhere, register, selector, spans, standing, until};
use switchboard_client::reqwest::Discovery;
use switchboard_client::tonic::Channel;
use switchboard_client::tower::Balance;
use switchboard_client::{Options, Retry, TimedOut, is_timeout};
use switchboard_core::{Instance, MemoryRegistry, Registry};
use switchboard_selector::{PickError, Selector};
use switchboard_watcher::Directory;
use tokio::io::AsyncReadExt;
use tonic_health::pb::health_client::HealthClient;
use tower::{ServiceExt, service_fn};

/// Registers these, called "1", "2" and so on, and says how they are called in turn.
async fn registered(service: &str, addresses: &[&str]) -> MemoryRegistry {
    let registry = MemoryRegistry::new();
    for (number, address) in addresses.iter().enumerate() {
        register(&registry, &instance(service, &(number + 1).to_string(), address)).await;
    }
    registry
}

/// What the system says of who connects there.
async fn refusal(address: &str) -> String {
    tokio::net::TcpStream::connect(address).await.unwrap_err().to_string()
}

/// The attempts of a line that says why a call failed, sorted, as the first may be any.
fn attempts<'a>(line: &'a str, service: &str) -> Vec<&'a str> {
    let attempts = line.strip_prefix(&format!("call to service {service:?} failed: ")).expect(line);
    let mut attempts: Vec<_> = attempts.split("; ").collect();
    attempts.sort_unstable();
    attempts
}

#[tokio::test]
async fn an_error_of_http_names_the_service_those_tried_and_why_each_failed() {
    let (dead, torn, hung) = (nowhere().await, breaking().await, hanging().await);
    let ill = server("ill").await;
    ill.status.store(503, std::sync::atomic::Ordering::Relaxed);
    let registry = registered("hello", &[&dead, &torn, &hung, &ill.address]).await;
    let options = Options::new().per_try_timeout(Duration::from_secs(2));
    let discovery = Discovery::new(selector(&registry)).retry(Retry::new().most(4)).options(options);
    let client = client(discovery);
    // Each is tried, and one again; if that is the one that answers, its answer is the result.
    let error = loop {
        if let Err(error) = client.get("http://hello/").send().await {
            break error;
        }
    };
    let line = error.to_string();
    let mut attempts = attempts(&line, "hello");
    // Five that count, and one that does not if it has reached nobody while there was another.
    assert!((5..=6).contains(&attempts.len()), "{line}");
    attempts.dedup();
    let expected = [
        format!("1 at {dead}: cannot connect: {}", refusal(&dead).await),
        format!("2 at {torn}: connection closed before message completed"),
        format!("3 at {hung}: the attempt is not over after 2s"),
        format!("4 at {}: HTTP 503 Service Unavailable", ill.address),
    ];
    assert_eq!(attempts, expected, "{line}");
    assert!(!line.contains('\n') && error.source().is_some(), "{error:?}");
}

#[tokio::test]
async fn what_a_call_failed_with_is_the_source_of_its_error() {
    let dead = nowhere().await;
    let registry = registered("hello", &[&dead]).await;
    let once = || Discovery::new(selector(&registry)).retry(Retry::never());
    let error = client(once()).get("http://hello/").send().await.unwrap_err();
    assert!(beneath(&error).is_connect());
    let sources = std::iter::successors(error.source(), |&error| error.source());
    assert!(sources.into_iter().any(<dyn Error>::is::<std::io::Error>), "{error:?}");

    let registry = registered("hello", &[&hanging().await]).await;
    let options = Options::new().per_try_timeout(Duration::from_millis(100));
    let discovery = Discovery::new(selector(&registry)).retry(Retry::never()).options(options);
    let error = client(discovery).get("http://hello/").send().await.unwrap_err();
    assert!(is_timeout(&error) && error.source().unwrap().is::<TimedOut>(), "{error:?}");
}

#[tokio::test]
async fn a_call_that_ends_between_attempts_says_what_it_ended_with() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let registry = registered("hello", &[&address]).await;
    let selector = selector(&registry);
    let balancer = selector.service("hello").unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        // It leaves while it is called.
        registry.deregister(&instance("hello", "1", "h:1").key()).await.unwrap();
        until("nobody is left", || balancer.pick().is_err()).await;
    });
    let error = client(Discovery::new(selector)).get("http://hello/").send().await.unwrap_err();
    let why = "connection closed before message completed";
    let nobody = "nothing known of service \"hello\": the registry has no instance of it";
    let expected = format!("call to service \"hello\" failed: 1 at {address}: {why}; then {nobody}");
    assert_eq!(error.to_string(), expected);
    assert!(matches!(&error, reqwest_middleware::Error::Middleware(error) if error.is::<PickError>()));
}

#[tokio::test]
async fn a_status_names_the_service_those_tried_and_why_each_failed() {
    let (dead, torn) = (nowhere().await, breaking().await);
    let registry = registered("health", &[&dead, &torn]).await;
    let balancer = selector(&registry).service("health").unwrap();
    let channel = Channel::builder(balancer).idempotent(|_| true).build();
    let status = check(&channel, "").await.unwrap_err();
    let tried = attempts(status.message(), "health");
    // Three that count, and one that does not if it has reached nobody while there was another.
    assert!((3..=4).contains(&tried.len()), "{status}");
    let refused = format!("1 at {dead}: cannot connect: {}", refusal(&dead).await);
    assert!(tried.contains(&&*refused), "{status}");
    assert!(tried.iter().any(|tried| tried.starts_with(&format!("2 at {torn}: "))), "{status}");
    assert!(status.source().is_some());
}

#[tokio::test]
async fn a_status_keeps_its_source_and_names_the_service_also_when_nothing_was_tried() {
    let channel = Channel::new(&Selector::new(Directory::new(Silent)), "health").unwrap();
    let mut request = tonic::Request::new(ask(""));
    request.set_timeout(Duration::from_millis(100));
    let status = HealthClient::new(channel).check(request).await.unwrap_err();
    assert_eq!(status.message(), "call to service \"health\" failed: the call is not over after 100ms");
    assert!(status.source().unwrap().is::<TimedOut>());

    let hung = hanging().await;
    let registry = registered("health", &[&hung]).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    let mut request = tonic::Request::new(ask(""));
    request.set_timeout(Duration::from_secs(1));
    let status = HealthClient::new(channel).check(request).await.unwrap_err();
    let why = "the call is not over after 1s";
    assert_eq!(status.message(), format!("call to service \"health\" failed: 1 at {hung}: {why}"));
    assert!(status.source().unwrap().is::<TimedOut>());
}

#[tokio::test]
async fn a_response_says_which_instance_it_is_of() {
    let one = server("one").await;
    let registry = registered("hello", &[&nowhere().await, &one.address]).await;
    let client = client(Discovery::new(selector(&registry)));
    for _ in 0..2 {
        let response = client.get("http://hello/").send().await.unwrap();
        assert_eq!(response.extensions().get::<Arc<Instance>>().unwrap().id().as_str(), "2");
    }

    let serving = support::health::server("one").await;
    let registry = registered("health", &[&serving.address]).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    let response = HealthClient::new(channel).check(ask("one")).await.unwrap();
    assert_eq!(response.extensions().get::<Arc<Instance>>().unwrap().id().as_str(), "1");

    let make =
        |_: &Instance| service_fn(async |_: &'static str| Ok::<_, std::io::Error>(http::Response::new(())));
    let service = Balance::new(selector(&registry).service("health").unwrap(), make);
    let response = service.clone().oneshot("hello").await.unwrap();
    assert!(response.extensions().get::<Arc<Instance>>().is_none(), "it was not asked for");
    let response = service.instance_in_extensions().oneshot("hello").await.unwrap();
    assert_eq!(response.extensions().get::<Arc<Instance>>().unwrap().id().as_str(), "1");
}

/// The span of a call to 127.0.0.1 that came to this; the fields sorted by name.
fn span(service: &str, address: &str, id: &str, attempts: u32, outcome: &str) -> String {
    let port = address.rsplit_once(':').unwrap().1;
    let (error, status) = if outcome == "success" {
        (String::new(), "")
    } else {
        (format!("error.type={outcome} "), "otel.status_code=ERROR ")
    };
    format!(
        "{error}otel.kind=client otel.name=call {service} {status}server.address=127.0.0.1 server.port={port} \
         service.peer.name={service} switchboard.attempts={attempts} switchboard.instance.id={id} \
         switchboard.outcome={outcome}"
    )
}

#[tokio::test]
async fn each_call_over_http_has_a_span() {
    spans::listen();
    let (dead, one) = (nowhere().await, server("one").await);
    let registry = registered("hello", &[&dead, &one.address]).await;
    let client = client(Discovery::new(selector(&registry)));
    text(&client, "http://hello/").await;
    text(&client, "http://hello/").await;
    // The second call begins with the dead one, whatever the first did.
    assert_eq!(spans::calls()[1], span("hello", &one.address, "2", 2, "success"));

    one.status.store(500, std::sync::atomic::Ordering::Relaxed);
    while text(&client, "http://hello/").await.is_empty() {}
    let told = spans::calls();
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("switchboard.outcome=response"), "{told:?}");

    client.get("http://nobody/").send().await.unwrap_err();
    let expected = "error.type=not_picked otel.kind=client otel.name=call nobody otel.status_code=ERROR \
                    service.peer.name=nobody switchboard.attempts=0 switchboard.outcome=not_picked";
    assert_eq!(spans::calls(), [expected]);

    let hung = hanging().await;
    let registry = registered("hello", &[&hung]).await;
    let selector = selector(&registry);
    let balancer = selector.service("hello").unwrap();
    balancer.ready().await.unwrap();
    let client = support::http_server::client(Discovery::new(selector));
    let sending = tokio::spawn(client.get("http://hello/").send());
    until("it is in flight", || standing(&balancer)[0].0 == 1).await;
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    assert_eq!(spans::calls(), [span("hello", &hung, "1", 1, "abandoned")]);
}

#[tokio::test]
async fn each_call_over_grpc_has_a_span_that_ends_with_its_response() {
    spans::listen();
    let serving = support::health::server("one").await;
    let registry = registered("health", &[&serving.address]).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    check(&channel, "one").await.unwrap();
    assert_eq!(spans::calls(), [span("health", &serving.address, "1", 1, "success")]);

    let mut client = HealthClient::new(channel.clone());
    let mut stream = client.watch(ask("one")).await.unwrap().into_inner();
    stream.message().await.unwrap();
    assert_eq!(spans::calls(), [] as [String; 0], "it goes on");
    drop(stream);
    assert_eq!(spans::calls(), [span("health", &serving.address, "1", 1, "abandoned")]);

    let dead = nowhere().await;
    let registry = registered("health", &[&dead]).await;
    let channel = Channel::new(&selector(&registry), "health").unwrap();
    check(&channel, "one").await.unwrap_err();
    assert_eq!(spans::calls(), [span("health", &dead, "1", 3, "connection")]);
}

#[tokio::test]
async fn each_call_over_tower_has_a_span() {
    spans::listen();
    let registry = registered("hello", &["127.0.0.1:1"]).await;
    let make = |_: &Instance| {
        service_fn(async |request: &'static str| {
            if request == "hang" {
                std::future::pending::<()>().await;
            }
            if request == "fail" { Err("no") } else { Ok("yes") }
        })
    };
    let service = Balance::new(selector(&registry).service("hello").unwrap(), make);
    service.clone().oneshot("ask").await.unwrap();
    service.clone().oneshot("fail").await.unwrap_err();
    assert!(service.clone().oneshot("hang").now_or_never().is_none());
    let outcomes = ["success", "connection", "abandoned"];
    assert_eq!(spans::calls(), outcomes.map(|outcome| span("hello", "127.0.0.1:1", "1", 1, outcome)));
}

#[cfg(feature = "metrics")]
#[test]
fn retries_and_those_that_the_budget_refuses_are_told() {
    use recorded::Told::Count;
    use recorded::{expected, recorded};

    recorded("switchboard.client.", async |mut heard| {
        // By the clock of the machine: there are sockets.
        tokio::time::resume();
        let registry = registered("hello", &[&breaking().await]).await;
        let discovery = |retry| Discovery::new(selector(&registry)).retry(retry);
        let two = client(discovery(Retry::new()));
        two.get("http://hello/").send().await.unwrap_err();
        assert_eq!(heard.all(), expected([("retries hello", Count(2))]));
        let none = client(discovery(Retry::new().budget(0.0, 0)));
        none.get("http://hello/").send().await.unwrap_err();
        assert_eq!(heard.all(), expected([("retries_refused hello", Count(1))]));
    });
}
