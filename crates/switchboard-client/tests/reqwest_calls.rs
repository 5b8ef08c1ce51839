//! Single requests through the reqwest adapter: their time, their options, and what is tried again.

#![cfg(feature = "reqwest")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use support::http_server::{beneath, client, server, text, tls_server};
use support::servers::{answering, full, hanging, leaving, refusing};
use support::{Frames, Silent, instance, register, selector, standing};
use switchboard_client::reqwest::{Discovery, redirects};
use switchboard_client::{Options, Retry, TimedOut, is_timeout};
use switchboard_core::{Instance, MemoryRegistry, ServiceName};
use switchboard_selector::{ConsistentHash, Filter, Selector};
use switchboard_watcher::Directory;
use tokio::net::TcpListener;

const SHORT: Duration = Duration::from_millis(300);

fn over(plain: reqwest::ClientBuilder, discovery: Discovery) -> ClientWithMiddleware {
    ClientBuilder::new(plain.build().unwrap()).with(discovery).build()
}

/// Which limit ended the request, if it was not the client's own clock.
fn limit(error: &reqwest_middleware::Error) -> TimedOut {
    assert!(is_timeout(error));
    match error {
        reqwest_middleware::Error::Middleware(error) => *error.downcast_ref().unwrap(),
        reqwest_middleware::Error::Reqwest(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn the_time_of_a_request_bounds_all_attempts() {
    let registry = MemoryRegistry::new();
    let servers = [full().await, full().await];
    for (id, server) in ["1", "2"].iter().zip(&servers) {
        register(&registry, &instance("hello", id, &server.address)).await;
    }
    // The first attempt is shorter than the request may take, and the second follows at once.
    let plain = || reqwest::Client::builder().connect_timeout(SHORT * 2);
    let many = || Discovery::new(selector(&registry)).retry(Retry::new().most(20));
    let client = over(plain(), many());
    let error = client.get("http://hello/").timeout(SHORT * 3).send().await.unwrap_err();
    assert!(beneath(&error).is_timeout() && !beneath(&error).is_connect() && is_timeout(&error), "{error:?}");
    let error = client.get("http://hello/").with_extension(Options::new().timeout(SHORT * 3));
    let error = error.send().await.unwrap_err();
    assert!(beneath(&error).is_timeout() && !beneath(&error).is_connect(), "{error:?}");
}

#[tokio::test]
async fn a_request_that_takes_all_the_time_there_is_has_it() {
    let registry = MemoryRegistry::new();
    register(&registry, &instance("hello", "1", &hanging().await)).await;
    // The client's own time is for requests that say nothing.
    let client = over(reqwest::Client::builder().timeout(SHORT / 3), Discovery::new(selector(&registry)));
    let request = client.get("http://hello/").timeout(Duration::MAX).send();
    assert!(tokio::time::timeout(SHORT * 3, request).await.is_err(), "it still waits");
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_request_bounds_waiting_for_a_first_snapshot() {
    let discovery = Discovery::new(Selector::new(Directory::new(Silent)));
    let client = over(reqwest::Client::builder(), discovery.options(Options::new().timeout(SHORT)));
    let began = tokio::time::Instant::now();
    let error = client.get("http://hello/").send().await.unwrap_err();
    assert_eq!(limit(&error), TimedOut::Call(SHORT));
    assert_eq!(began.elapsed(), SHORT);
    let error = client.get("http://hello/").timeout(SHORT / 2).send().await.unwrap_err();
    assert_eq!(limit(&error), TimedOut::Call(SHORT / 2));
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_tried_elsewhere_if_that_does_no_harm() {
    let registry = MemoryRegistry::new();
    let one = server("one").await;
    register(&registry, &instance("hello", "1", &hanging().await)).await;
    register(&registry, &instance("hello", "2", &one.address)).await;
    let selector = selector(&registry);
    let balancer = selector.service("hello").unwrap();
    let long = Duration::from_secs(1);
    let options = Options::new().per_try_timeout(long);
    let client = over(reqwest::Client::builder(), Discovery::new(selector).options(options));
    for _ in 0..2 {
        assert_eq!(text(&client, "http://hello/").await, "one hello /");
    }
    let failures = standing(&balancer)[0].1;
    assert!(failures > 0);
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let sent = client.post("http://hello/").send().await;
        outcomes.push(sent.map(drop).map_err(|error| limit(&error)));
    }
    outcomes.sort_unstable_by_key(Result::is_ok);
    assert_eq!(outcomes, [Err(TimedOut::Try(long)), Ok(())], "not sent twice");
    assert_eq!(standing(&balancer), [(0, failures + 1), (0, 0)]);
}

#[tokio::test]
async fn a_request_says_its_key_its_filters_and_its_retries() {
    let registry = MemoryRegistry::new();
    let mut servers = Vec::new();
    for id in ["a", "b", "c"] {
        let server = server(id).await;
        let instance = Instance::builder("hello").id(id).address(server.address.as_str()).tag(id);
        register(&registry, &instance.build().unwrap()).await;
        servers.push(server);
    }
    let client = client(Discovery::new(selector(&registry)));
    let ask = async |options: &Options| {
        let sent = client.get("http://hello/").with_extension(options.clone()).send().await;
        sent.unwrap().text().await.unwrap()
    };
    let by_key = Options::new().strategy(ConsistentHash);
    for user in 0..10 {
        let options = by_key.clone().key(user.to_string());
        let first = ask(&options).await;
        for _ in 0..5 {
            assert_eq!(ask(&options).await, first);
        }
    }
    let only_b = Options::new().filter(Filter::tag("b"));
    assert_eq!(ask(&only_b).await, "b hello /");

    servers[1].status.store(503, Relaxed);
    let before = servers[1].hits.load(Relaxed);
    ask(&only_b.clone().retries(0)).await;
    assert_eq!(servers[1].hits.load(Relaxed), before + 1);
    ask(&only_b.retries(1)).await;
    assert_eq!(servers[1].hits.load(Relaxed), before + 3);
}

#[tokio::test]
async fn what_the_server_says_it_has_not_worked_on_is_tried_elsewhere() {
    let registry = MemoryRegistry::new();
    let refusing = refusing().await;
    let well = answering().await;
    register(&registry, &instance("refused", "1", &refusing.address)).await;
    register(&registry, &instance("refused", "2", &well.address)).await;
    register(&registry, &instance("left", "1", &leaving().await)).await;
    register(&registry, &instance("left", "2", &well.address)).await;
    let selector = selector(&registry);
    // The client tries again by itself, on the same instance, unless told not to.
    let plain = reqwest::Client::builder().http2_prior_knowledge().retry(reqwest::retry::never());
    let client = over(plain, Discovery::new(selector.clone()));
    for service in ["refused", "left"] {
        for _ in 0..2 {
            let sent = client.post(format!("http://{service}/")).body("x").send().await.unwrap();
            assert!(sent.status().is_success());
        }
        let standing = standing(&selector.service(service).unwrap());
        assert!(standing[0].1 > 0 && standing[1] == (0, 0), "{service}: {standing:?}");
    }
    assert!(!refusing.requests().is_empty());
    assert_eq!(well.requests().len(), 4);
}

#[tokio::test]
async fn a_body_that_breaks_off_on_this_side_says_nothing_of_the_instance() {
    let registry = MemoryRegistry::new();
    register(&registry, &instance("hello", "1", &hanging().await)).await;
    let selector = selector(&registry);
    let balancer = selector.service("hello").unwrap();
    for plain in [reqwest::Client::builder(), reqwest::Client::builder().http2_prior_knowledge()] {
        let client = over(plain, Discovery::new(selector.clone()));
        let broken = Frames::new(["begun"], Some(io::Error::other("my own disk is broken")));
        let error = client.put("http://hello/").body(reqwest::Body::wrap(broken)).send().await.unwrap_err();
        assert!(!beneath(&error).is_timeout() && !is_timeout(&error), "{error:?}");
        assert_eq!(standing(&balancer), [(0, 0)]);
    }
}

/// A server that redirects `/here` to its own `/` and all else to `target`, and tells the `Host` it saw.
async fn redirecting(target: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let host = |headers: HeaderMap| async move { headers[header::HOST].to_str().unwrap().to_owned() };
    let app = Router::new()
        .route("/", get(host))
        .route("/here", get(|| async { (StatusCode::FOUND, [(header::LOCATION, "/")]) }))
        .route("/away", get(|| async move { (StatusCode::FOUND, [(header::LOCATION, target)]) }));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn a_redirect_to_another_server_is_not_the_services() {
    let registry = MemoryRegistry::new();
    let other = server("other").await;
    other.status.store(503, Relaxed);
    let address = redirecting(format!("http://{}/", other.address)).await;
    register(&registry, &instance("hello", "1", &address)).await;

    let plain = reqwest::Client::builder().redirect(redirects());
    let careful = over(plain, Discovery::new(selector(&registry)));
    assert_eq!(text(&careful, "http://hello/here").await, "hello");
    let away = careful.get("http://hello/away").send().await.unwrap();
    assert_eq!(away.status(), 302);
    assert_eq!(other.hits.load(Relaxed), 0, "nobody was told the service's name");

    let selector = selector(&registry);
    let balancer = selector.service("hello").unwrap();
    let careless = over(reqwest::Client::builder(), Discovery::new(selector));
    let away = careless.get("http://hello/away").send().await.unwrap();
    assert_eq!(away.status(), 503);
    assert_eq!(other.hits.load(Relaxed), 1, "it is not tried again");
    assert_eq!(standing(&balancer), [(0, 0)], "it is the other's failure");
}

#[tokio::test]
async fn a_client_that_could_not_be_made_is_made_anew() {
    let registry = MemoryRegistry::new();
    let (address, trusted) = tls_server("secure").await;
    register(&registry, &instance("secure", "1", &address)).await;
    let tried = AtomicUsize::new(0);
    let settings = move |builder: reqwest::ClientBuilder| {
        let builder = builder.tls_certs_only([trusted.clone()]);
        // No header may say this.
        if tried.fetch_add(1, Relaxed) == 0 { builder.user_agent("\n") } else { builder }
    };
    let client = client(Discovery::new(selector(&registry)).tls_by_name(settings));
    let error = client.get("https://secure/").send().await.unwrap_err();
    let why = "the client of tls_by_name cannot be built: builder error: failed to parse header value";
    assert_eq!(error.to_string(), format!("call to service \"secure\" failed: 1 at {address}: {why}"));
    assert_eq!(text(&client, "https://secure/").await, "secure secure");
}

#[tokio::test]
async fn each_name_of_a_service_has_clients_of_its_own() {
    let registry = MemoryRegistry::new();
    let (first, trusted) = tls_server("first").await;
    let (second, trusted_too) = tls_server("second").await;
    let trusted = Arc::new([trusted, trusted_too]);
    register(&registry, &instance("secure", "1", &first)).await;
    register(&registry, &instance("secure", "2", &second)).await;
    let discovery = Discovery::new(selector(&registry))
        .names(|_| ServiceName::new("secure").ok())
        .tls_by_name(move |builder| builder.tls_certs_only(trusted.to_vec()));
    let client = client(discovery);
    // Each name works with its own server, to which a retry brings it.
    for name in ["first", "second", "first", "second"] {
        assert_eq!(text(&client, &format!("https://{name}/")).await, format!("{name} {name}"));
    }
}

/// By default, in time that need not be waited for.
#[tokio::test(start_paused = true)]
async fn an_instance_that_hangs_is_waited_for_15_s_and_another_is_asked() {
    let registry = MemoryRegistry::new();
    register(&registry, &instance("hello", "1", &hanging().await)).await;
    let client = over(reqwest::Client::builder(), Discovery::new(selector(&registry)));
    let began = tokio::time::Instant::now();
    let error = client.post("http://hello/").body("once").send().await.unwrap_err();
    assert_eq!(limit(&error), TimedOut::Try(Duration::from_secs(15)));
    assert_eq!(began.elapsed(), Duration::from_secs(15));

    // As long as it is being sent it may take its time.
    let slow = client.post("http://hello/").body(reqwest::Body::wrap(NeverEnding)).send();
    assert!(tokio::time::timeout(Duration::from_secs(600), slow).await.is_err());
}

struct NeverEnding;

impl http_body::Body for NeverEnding {
    type Data = bytes::Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<http_body::Frame<bytes::Bytes>>>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn a_server_that_takes_no_connection_is_given_up_after_3_s() {
    let registry = MemoryRegistry::new();
    let full = full().await;
    register(&registry, &instance("hello", "1", &full.address)).await;
    let client = Discovery::new(selector(&registry)).options(Options::new().retries(0)).client().unwrap();
    // Nothing will come, so no time need be waited for.
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let error = client.get("http://hello/").send().await.unwrap_err();
    assert!(is_timeout(&error) && beneath(&error).is_connect(), "{error:?}");
    assert_eq!(began.elapsed().as_secs(), 3);
}
