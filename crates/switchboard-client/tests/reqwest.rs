//! The reqwest adapter against real servers on loopback.

#![cfg(feature = "reqwest")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use reqwest_middleware::ClientBuilder;
use support::http_server::{beneath, client, server, text, tls_server};
use support::{instance, nowhere, register, selector, standing};
use switchboard_client::reqwest::{Discovery, HostHeader, Resolver};
use switchboard_client::{Options, Retry};
use switchboard_core::{MemoryRegistry, ServiceName};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// A server that takes a request and closes the connection without an answer; how many connections it had.
async fn rude() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let hits = Arc::new(AtomicUsize::new(0));
    let counter = hits.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Relaxed);
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    (address, hits)
}

#[tokio::test]
async fn each_request_goes_to_a_picked_instance_with_the_services_name_as_host() {
    let registry = MemoryRegistry::new();
    let (one, two) = (server("one").await, server("two").await);
    register(&registry, &instance("hello", "1", &one.address)).await;
    register(&registry, &instance("hello", "2", &two.address)).await;

    let by_name = client(Discovery::new(selector(&registry)));
    let mut answers =
        [text(&by_name, "http://hello/a?b=c").await, text(&by_name, "http://hello/a?b=c").await];
    answers.sort();
    assert_eq!(answers, ["one hello /a?b=c", "two hello /a?b=c"]);

    let by_address = client(Discovery::new(selector(&registry)).host_header(HostHeader::Address));
    let answer = text(&by_address, "http://hello/").await;
    assert!([&one.address, &two.address].iter().any(|address| answer.contains(*address)), "{answer}");

    let set = by_name.get("http://hello/").header("host", "mine").send().await.unwrap();
    assert!(set.text().await.unwrap().contains(" mine "));
    assert_eq!(text(&by_name, &format!("http://{}/x", one.address)).await, format!("one {} /x", one.address));
}

#[tokio::test]
async fn a_rule_maps_hosts_to_services() {
    let registry = MemoryRegistry::new();
    let one = server("one").await;
    register(&registry, &instance("go.micro.srv.Greeter", "1", &one.address)).await;
    let discovery = Discovery::new(selector(&registry)).names(|host| {
        let name = host.strip_suffix(".service")?;
        (name == "greeter").then(|| ServiceName::new("go.micro.srv.Greeter").ok()).flatten()
    });
    assert_eq!(text(&client(discovery), "http://greeter.service/").await, "one greeter.service /");
}

/// A resolver that knows no host.
struct Ignorant;

impl reqwest::dns::Resolve for Ignorant {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move { Err(format!("no such host: {}", name.as_str()).into()) })
    }
}

#[tokio::test]
async fn an_unknown_host_that_might_be_a_service_says_how_to_make_it_one() {
    let plain = reqwest::Client::builder().no_proxy().dns_resolver(Arc::new(Ignorant)).build().unwrap();
    let client = ClientBuilder::new(plain).with(Discovery::new(selector(&MemoryRegistry::new()))).build();
    let error = client.get("http://go.micro.orders/").send().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the system's resolver does not know the host \"go.micro.orders\", which is no service by the rule of \
         `Discovery::names`: names with a dot are none by default; if it is one, give `.names(|host| …)` a rule that says so"
    );
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    assert!(causes.last().unwrap().to_string().contains("no such host"), "{error:?}");
    // With a port it is for a host.
    let error = client.get("http://go.micro.orders:80/").send().await.unwrap_err();
    assert!(error.to_string().contains("resolver"), "80 is what a URL leaves out: {error}");
    let error = client.get("http://go.micro.orders:8080/").send().await.unwrap_err();
    assert!(error.is_connect() && !error.to_string().contains("resolver"), "{error}");
}

#[tokio::test]
async fn no_connection_is_tried_elsewhere_for_any_method() {
    let registry = MemoryRegistry::new();
    let one = server("one").await;
    register(&registry, &instance("hello", "1", &nowhere().await)).await;
    register(&registry, &instance("hello", "2", &nowhere().await)).await;
    register(&registry, &instance("hello", "3", &one.address)).await;
    let selector = selector(&registry);
    let client = client(Discovery::new(selector.clone()));
    for _ in 0..6 {
        assert!(client.post("http://hello/").body("x").send().await.unwrap().status().is_success());
    }
    assert_eq!(one.hits.load(Relaxed), 6);
    assert!(standing(&selector.service("hello").unwrap()).iter().all(|(in_flight, _)| *in_flight == 0));
}

#[tokio::test]
async fn a_broken_connection_is_tried_elsewhere_only_if_that_does_no_harm() {
    let registry = MemoryRegistry::new();
    let (address, hits) = rude().await;
    register(&registry, &instance("hello", "1", &address)).await;
    let client = client(Discovery::new(selector(&registry)));

    assert!(client.post("http://hello/").send().await.is_err());
    assert_eq!(hits.load(Relaxed), 1);
    assert!(
        client.get("http://hello/").with_extension(Options::new().idempotent(false)).send().await.is_err()
    );
    assert_eq!(hits.load(Relaxed), 2);
    assert!(client.get("http://hello/").send().await.is_err());
    assert_eq!(hits.load(Relaxed), 5, "two retries");
    assert!(
        client.post("http://hello/").with_extension(Options::new().idempotent(true)).send().await.is_err()
    );
    assert_eq!(hits.load(Relaxed), 8);
}

#[tokio::test]
async fn chosen_statuses_are_tried_elsewhere_and_server_errors_are_failures() {
    let registry = MemoryRegistry::new();
    let (one, two) = (server("one").await, server("two").await);
    one.status.store(503, Relaxed);
    register(&registry, &instance("hello", "1", &one.address)).await;
    register(&registry, &instance("hello", "2", &two.address)).await;
    let selector = selector(&registry);
    let balancer = selector.service("hello").unwrap();
    let client = client(Discovery::new(selector));
    for _ in 0..4 {
        assert!(text(&client, "http://hello/").await.starts_with("two"));
    }
    let failures = u32::try_from(one.hits.load(Relaxed)).unwrap();
    assert!(failures >= 2);
    assert_eq!(standing(&balancer), [(0, failures), (0, 0)]);

    // What is left over is the last answer; 500 is not on the list.
    two.status.store(503, Relaxed);
    assert_eq!(client.get("http://hello/").send().await.unwrap().status(), 503);
    one.status.store(500, Relaxed);
    two.status.store(500, Relaxed);
    let before = one.hits.load(Relaxed) + two.hits.load(Relaxed);
    assert_eq!(client.get("http://hello/").send().await.unwrap().status(), 500);
    assert_eq!(one.hits.load(Relaxed) + two.hits.load(Relaxed), before + 1);
    // A client's mistake is no failure of the instance.
    one.status.store(404, Relaxed);
    two.status.store(404, Relaxed);
    for _ in 0..100 {
        client.get("http://hello/").send().await.unwrap();
        if standing(&balancer) == [(0, 0), (0, 0)] {
            return;
        }
    }
    panic!("{:?}", standing(&balancer));
}

#[tokio::test]
async fn the_budget_bounds_what_a_bad_service_costs() {
    let registry = MemoryRegistry::new();
    let one = server("one").await;
    one.status.store(503, Relaxed);
    register(&registry, &instance("hello", "1", &one.address)).await;
    let retry = Retry::new().most(1).budget(0.2, 0);
    let client = client(Discovery::new(selector(&registry)).retry(retry));
    for _ in 0..100 {
        assert_eq!(client.get("http://hello/").send().await.unwrap().status(), 503);
    }
    let hits = one.hits.load(Relaxed);
    assert!((110..=120).contains(&hits), "{hits} instead of 100 and a fifth");
}

#[tokio::test]
async fn a_cancelled_request_says_nothing_and_is_in_flight_no_more() {
    let registry = MemoryRegistry::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    register(&registry, &instance("hello", "1", &listener.local_addr().unwrap().to_string())).await;
    let selector = selector(&registry);
    let balancer = selector.service("hello").unwrap();
    let client = client(Discovery::new(selector));
    let call = tokio::spawn(async move { client.get("http://hello/").send().await });
    let (_held, _) = listener.accept().await.unwrap();
    assert_eq!(standing(&balancer), [(1, 0)]);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(standing(&balancer), [(0, 0)]);
}

#[tokio::test]
async fn a_plain_client_resolves_services_and_falls_back_to_other_instances() {
    let registry = MemoryRegistry::new();
    let one = server("one").await;
    register(&registry, &instance("hello", "1", &nowhere().await)).await;
    register(&registry, &instance("hello", "2", &one.address)).await;
    let plain = reqwest::Client::builder().dns_resolver(Resolver::new(selector(&registry))).build().unwrap();
    for _ in 0..3 {
        let answer = plain.get("http://hello/x").send().await.unwrap().text().await.unwrap();
        assert_eq!(answer, "one hello /x");
    }
    let port = one.address.rsplit_once(':').unwrap().1;
    let system = plain.get(format!("http://localhost:{port}/")).send().await.unwrap();
    assert!(system.status().is_success());
    assert!(plain.get("http://nobody/").send().await.unwrap_err().is_connect());
}

#[tokio::test]
async fn https_can_keep_the_name_for_tls() {
    let registry = MemoryRegistry::new();
    let (address, trusted) = tls_server("secure").await;
    register(&registry, &instance("secure", "1", &address)).await;
    let settings = move |builder: reqwest::ClientBuilder| builder.tls_certs_only([trusted.clone()]);

    let by_address = ClientBuilder::new(settings(reqwest::Client::builder()).build().unwrap())
        .with(Discovery::new(selector(&registry)).retry(Retry::never()))
        .build();
    let error = by_address.get("https://secure/").send().await.unwrap_err();
    assert!(beneath(&error).is_connect(), "the certificate is for the name: {error}");

    let by_name = client(Discovery::new(selector(&registry)).tls_by_name(settings.clone()));
    assert_eq!(text(&by_name, "https://secure/").await, "secure secure");
    let by_name = Discovery::new(selector(&registry)).tls_by_name(settings).host_header(HostHeader::Address);
    assert_eq!(text(&client(by_name), "https://secure/").await, format!("secure {address}"));
}
