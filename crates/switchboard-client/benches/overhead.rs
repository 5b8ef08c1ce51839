//! What a call through each adapter costs over a call by the bare client, side by side on loopback.
//!
//! `cargo bench -p switchboard-client --all-features`. Bare and adapted calls alternate one by one, so that both meet the
//! same noise; client and server share one thread. Ten instances, the default strategy.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // it prints its result, and ends if anything is wrong

use std::convert::Infallible;
use std::time::{Duration, Instant as Clock};

use axum::Router;
use reqwest_middleware::ClientBuilder;
use switchboard_client::reqwest::Discovery;
use switchboard_client::tonic::Channel;
use switchboard_client::tower::Balance;
use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
use switchboard_selector::Selector;
use switchboard_watcher::Directory;
use tokio::net::TcpListener;
use tonic::transport::{Endpoint, Server, server::TcpIncoming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{ServiceExt, service_fn};

const CALLS: usize = 20_000;
const WARM: usize = 1_000;
const INSTANCES: usize = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo test --benches` only wants to know whether it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("median of {CALLS} calls      bare   adapter  overhead");
    let registry = MemoryRegistry::new();
    let http = serve_http().await;
    let grpc = serve_grpc().await;
    for (service, address) in [("http", &http), ("grpc", &grpc), ("tower", &http)] {
        for number in 0..INSTANCES {
            let instance =
                Instance::builder(service).id(number.to_string()).address(address.as_str()).build().unwrap();
            registry.register(&instance, &RegisterOptions::new()).await.unwrap();
        }
    }
    let selector = Selector::builder(Directory::new(registry)).without_slow_start().build();
    tower(&selector).await;
    reqwest(&selector, &http).await;
    tonic(&selector, &grpc).await;
}

async fn tower(selector: &Selector) {
    let echo = |_: &Instance| service_fn(|request: u64| async move { Ok::<_, Infallible>(request) });
    let nobody = Instance::builder("tower").address("127.0.0.1:1").build().unwrap();
    let bare = echo(&nobody);
    let adapter = Balance::new(selector.service("tower").unwrap(), echo);
    let bare = async || assert_eq!(bare.oneshot(1).await.unwrap(), 1);
    let adapter = async || assert_eq!(adapter.clone().oneshot(1).await.unwrap(), 1);
    compare("tower", bare, adapter).await;
}

async fn reqwest(selector: &Selector, address: &str) {
    let client = reqwest::Client::new();
    let adapted = ClientBuilder::new(client.clone()).with(Discovery::new(selector.clone())).build();
    let url = format!("http://{address}/");
    let bare = async || drop(client.get(&url).send().await.unwrap().bytes().await.unwrap());
    let adapter = async || drop(adapted.get("http://http/").send().await.unwrap().bytes().await.unwrap());
    compare("reqwest", bare, adapter).await;
}

async fn tonic(selector: &Selector, address: &str) {
    let bare = Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap();
    let bare = HealthClient::new(bare);
    let adapter = HealthClient::new(Channel::new(selector, "grpc").unwrap());
    let bare = async || drop(bare.clone().check(HealthCheckRequest::default()).await.unwrap());
    let adapter = async || drop(adapter.clone().check(HealthCheckRequest::default()).await.unwrap());
    compare("tonic", bare, adapter).await;
}

/// Calls both in turn and prints the medians.
async fn compare(what: &str, bare: impl AsyncFn(), adapter: impl AsyncFn()) {
    let (mut without, mut with) = (Vec::with_capacity(CALLS), Vec::with_capacity(CALLS));
    for number in 0..WARM + CALLS {
        let first = timed(&bare).await;
        let second = timed(&adapter).await;
        if number >= WARM {
            without.push(first);
            with.push(second);
        }
    }
    let (without, with) = (median(without), median(with));
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let overhead = micros(with) - micros(without);
    println!("{what:<20} {:>8.2} {:>9.2} {overhead:>9.2} µs", micros(without), micros(with));
}

async fn timed(call: &impl AsyncFn()) -> Duration {
    let started = Clock::now();
    call().await;
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

async fn serve_http() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let app = Router::new().fallback(|| async { "hello" });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn serve_grpc() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder().add_service(health).serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
    address
}
