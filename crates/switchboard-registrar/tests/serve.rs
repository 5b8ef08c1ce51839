//! Servers in one call, on loopback.

#![cfg(all(feature = "axum", feature = "tonic"))]
#![allow(clippy::unwrap_used)] // in helpers of tests too

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use switchboard_core::{Error, ErrorKind, Instance, MemoryRegistry, Registry, Result, ServiceName};
use switchboard_registrar::Serve;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[path = "registrar/support.rs"]
#[allow(dead_code)] // the other tests need the rest
mod support;

const LIMIT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(10);

async fn bound(registry: &MemoryRegistry) -> (Serve, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel();
    let serve = Serve::bind(registry.handle(), "hello", "127.0.0.1:0").await.unwrap();
    let stopped = async {
        let _ = stopped.await;
    };
    (serve.until(stopped).registrar(|registrar| registrar.drain(Duration::ZERO)), stop)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

/// Waits until so many are registered.
async fn registered(registry: &MemoryRegistry, count: usize) {
    let service = ServiceName::new("hello").unwrap();
    within(async {
        while registry.lookup(&service).await.unwrap().len() != count {
            tokio::time::sleep(SOON).await;
        }
    })
    .await;
}

async fn get_from(instance: &Instance, path: &str) -> (u16, String) {
    let response = within(reqwest::get(format!("http://{}{path}", instance.address()))).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn over(server: JoinHandle<Result<()>>) -> Result<()> {
    within(server).await.unwrap()
}

#[tokio::test]
async fn serves_says_whether_it_is_registered_and_ends_in_order() {
    let registry = MemoryRegistry::new();
    let (serve, stop) = bound(&registry).await;
    let well = Arc::new(AtomicBool::new(true));
    let (check, begun, go_on) = (well.clone(), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let serve = serve.describe(|instance| instance.version("1.2.3")).unwrap().registrar(move |registrar| {
        registrar.check_interval(SOON).unhealthy_after(1).check(move || {
            let well = check.load(Relaxed);
            async move { if well { Ok(()) } else { Err("no disk") } }
        })
    });
    let instance = serve.instance().clone();
    let slow = (begun.clone(), go_on.clone());
    let app = Router::new()
        .route(
            "/",
            get(|ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>| async move { peer.ip().to_string() }),
        )
        .route("/ready", get(|| async { "never" }))
        .route(
            "/slow",
            get(move || async move {
                slow.0.notify_one();
                slow.1.notified().await;
                "at last"
            }),
        );
    let server = tokio::spawn(serve.axum(app));
    registered(&registry, 1).await;
    let found = registry.lookup(&ServiceName::new("hello").unwrap()).await.unwrap();
    assert_eq!((found.all()[0].version(), found.all()[0].id()), (Some("1.2.3"), instance.id()));
    assert_eq!(get_from(&instance, "/").await, (200, "127.0.0.1".to_owned()));
    let (code, said) = get_from(&instance, "/ready").await;
    assert!(code == 200 && said.starts_with("registered for "), "{said}");
    assert_eq!(get_from(&instance, "/nowhere").await.0, 404);

    well.store(false, Relaxed);
    registered(&registry, 0).await;
    let (code, said) = get_from(&instance, "/ready").await;
    assert!(code == 503 && said.contains("no disk"), "{said}");
    well.store(true, Relaxed);
    registered(&registry, 1).await;

    // What is in flight is finished, and only then is it over.
    let request = instance.clone();
    let in_flight = tokio::spawn(async move { get_from(&request, "/slow").await });
    within(begun.notified()).await;
    stop.send(()).unwrap();
    registered(&registry, 0).await;
    assert!(!server.is_finished());
    go_on.notify_one();
    assert_eq!(within(in_flight).await.unwrap().1, "at last");
    over(server).await.unwrap();
    assert!(reqwest::get(format!("http://{}/", instance.address())).await.is_err());
}

#[tokio::test]
async fn where_the_platform_registers_it_is_ready_while_its_check_passes() {
    let registry = support::Scripted::new();
    registry.set(support::Mood::ReadOnly);
    let (stop, stopped) = oneshot::channel::<()>();
    let well = Arc::new(AtomicBool::new(true));
    let check = well.clone();
    let serve = Serve::bind(&(registry as Arc<dyn Registry>), "hello", "127.0.0.1:0").await.unwrap();
    let instance = serve.instance().clone();
    let serve = serve.until(async move { drop(stopped.await) }).registrar(move |registrar| {
        registrar.drain(Duration::ZERO).check_interval(SOON).unhealthy_after(1).check(move || {
            let well = check.load(Relaxed);
            async move { if well { Ok(()) } else { Err("no disk") } }
        })
    });
    let server = tokio::spawn(serve.axum(Router::new()));
    let answers = async |wanted: u16, words: &str| {
        within(async {
            loop {
                let (code, said) = get_from(&instance, "/ready").await;
                if code == wanted && said.contains(words) {
                    return;
                }
                tokio::time::sleep(SOON).await;
            }
        })
        .await;
    };
    answers(200, "the platform registers").await;
    well.store(false, Relaxed);
    answers(503, "no disk").await;
    well.store(true, Relaxed);
    answers(200, "the platform registers").await;
    stop.send(()).unwrap();
    over(server).await.unwrap();
}

#[tokio::test]
async fn while_it_drains_it_serves_and_is_not_ready() {
    let registry = MemoryRegistry::new();
    let (serve, stop) = bound(&registry).await;
    let instance = serve.instance().clone();
    let serve = serve.registrar(|registrar| registrar.drain(LIMIT * 10));
    let server = tokio::spawn(serve.axum(Router::new().route("/", get(|| async { "hello" }))));
    registered(&registry, 1).await;
    stop.send(()).unwrap();
    registered(&registry, 0).await;
    within(async {
        while get_from(&instance, "/ready").await.0 != 503 {
            tokio::time::sleep(SOON).await;
        }
    })
    .await;
    assert_eq!(get_from(&instance, "/").await, (200, "hello".to_owned()));
    server.abort();
}

#[tokio::test]
async fn what_never_ends_is_cut_off() {
    let registry = MemoryRegistry::new();
    let (serve, stop) = bound(&registry).await;
    let instance = serve.instance().clone();
    let begun = Arc::new(Notify::new());
    let begins = begun.clone();
    let app = Router::new().route(
        "/",
        get(move || async move {
            begins.notify_one();
            pending::<()>().await;
        }),
    );
    let server = tokio::spawn(serve.grace(SOON).axum(app));
    registered(&registry, 1).await;
    let request = tokio::spawn(reqwest::get(format!("http://{}/", instance.address())));
    within(begun.notified()).await;
    stop.send(()).unwrap();
    over(server).await.unwrap();
    request.abort();
}

#[tokio::test]
async fn what_cannot_be_bound_or_registered_is_an_error() {
    let registry = MemoryRegistry::new();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let error = Serve::bind(&Arc::new(registry.handle()), "hello", address).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().starts_with(&format!("cannot listen on {address}: ")), "{error}");
    let error = Serve::bind(registry.handle(), "hello", "127.0.0.1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.message(),
        r#"address "127.0.0.1" has no port; write 127.0.0.1:8080, or 127.0.0.1:0 for a free one"#
    );
    let error = Serve::bind(registry.handle(), "", "127.0.0.1:0").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);

    let handle = registry.handle();
    handle.close().await.unwrap();
    let closed = Serve::bind(handle, "hello", "127.0.0.1:0").await.unwrap();
    let instance = closed.instance().clone();
    let error = within(closed.axum(Router::new())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(reqwest::get(format!("http://{}/", instance.address())).await.is_err());
}

#[tokio::test]
async fn it_can_be_ended_before_it_is_registered() {
    let registry = MemoryRegistry::new();
    let (serve, stop) = bound(&registry).await;
    // The first check never passes, nor fails.
    let serve = serve.registrar(|registrar| {
        registrar.check_timeout(Duration::MAX).start_limit(Duration::MAX).check(pending::<Result<()>>)
    });
    let instance = serve.instance().clone();
    let server = tokio::spawn(serve.axum(Router::new()));
    assert_eq!(get_from(&instance, "/ready").await.0, 503, "it serves while it waits for its check");
    stop.send(()).unwrap();
    over(server).await.unwrap();
}

async fn status(channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.into() };
    within(HealthClient::new(channel.clone()).check(request)).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn grpc_tells_its_health_and_ends_in_order() {
    let registry = MemoryRegistry::new();
    let (serve, stop) = bound(&registry).await;
    let well = Arc::new(AtomicBool::new(true));
    let check = well.clone();
    let serve = serve.registrar(move |registrar| {
        registrar.drain(LIMIT * 10).check_interval(SOON).unhealthy_after(1).check(move || {
            let well = check.load(Relaxed);
            async move { if well { Ok(()) } else { Err("no disk") } }
        })
    });
    let instance = serve.instance().clone();
    let endpoint = Endpoint::from_shared(format!("http://{}", instance.address())).unwrap();
    let routes = Server::builder().add_routes(tonic::service::Routes::default());
    let server = tokio::spawn(serve.tonic(routes));
    registered(&registry, 1).await;
    let channel = within(endpoint.connect()).await.unwrap();
    let until = async |service: &str, expected| {
        within(async {
            while status(&channel, service).await != expected {
                tokio::time::sleep(SOON).await;
            }
        })
        .await;
    };
    for service in ["", "hello"] {
        until(service, ServingStatus::Serving).await;
    }
    well.store(false, Relaxed);
    until("hello", ServingStatus::NotServing).await;
    well.store(true, Relaxed);
    until("", ServingStatus::Serving).await;

    stop.send(()).unwrap();
    registered(&registry, 0).await;
    until("", ServingStatus::NotServing).await;
    server.abort();
}

#[tokio::test]
async fn a_registration_that_lapses_is_told_when_it_does() {
    let registry = Arc::new(MemoryRegistry::new());
    let serve = Serve::bind(&registry, "hello", "127.0.0.1:0").await.unwrap().until(pending());
    // Registered once: nothing happens at that moment but that time passes.
    let gate = Arc::new(Notify::new());
    let opened = gate.clone();
    let serve = serve.registrar(move |registrar| {
        let registrar = registrar.interval(Duration::ZERO).ttl(Duration::from_secs(3));
        registrar.check_timeout(Duration::MAX).check(move || {
            let gate = opened.clone();
            async move {
                gate.notified().await;
                Ok::<_, Error>(())
            }
        })
    });
    let instance = serve.instance().clone();
    let server = tokio::spawn(serve.tonic(Server::builder().add_routes(tonic::service::Routes::default())));
    let endpoint = Endpoint::from_shared(format!("http://{}", instance.address())).unwrap();
    let channel = within(endpoint.connect()).await.unwrap();
    let request = HealthCheckRequest { service: "hello".into() };
    let mut told = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    let mut until = async |expected| {
        within(async { while told.message().await.unwrap().unwrap().status() != expected {} }).await;
    };
    until(ServingStatus::NotServing).await;
    gate.notify_one();
    until(ServingStatus::Serving).await;
    until(ServingStatus::NotServing).await;
    server.abort();
}
