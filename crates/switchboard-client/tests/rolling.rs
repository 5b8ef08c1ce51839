//! Ten server processes are restarted one by one under a steady load on loopback: no request may fail.
//!
//! Each server answers over HTTP and over gRPC; the load goes through both adapters at the same time.

#![cfg(all(feature = "reqwest", feature = "tonic"))]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // in helpers of tests too; the server tells its ports

mod support;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use futures::future::{BoxFuture, join_all};
use reqwest_middleware::ClientBuilder;
use rustix::process::{Pid, Signal, kill_process};
use support::{LIMIT, instance, register, until};
use switchboard_client::reqwest::Discovery;
use switchboard_client::tonic::Channel;
use switchboard_core::{Instance, MemoryRegistry, Registry};
use switchboard_selector::{Balancer, Selector, Standing};
use switchboard_watcher::Directory;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const SERVERS: usize = 10;
const REQUESTS: usize = 20_000;
/// For each adapter; each sends at most 500 requests a second.
const WORKERS: usize = 4;
const PACE: Duration = Duration::from_millis(2);
/// What a registrar would be told to wait between deregistering and stopping.
const DRAIN: Duration = Duration::from_millis(100);

/// Tells this program, started by itself, to be a server.
const SERVE: &str = "SWITCHBOARD_TEST_SERVE";

/// Not a test: the server process. Ends on SIGTERM, gracefully, and when whoever started it is gone.
#[test]
#[ignore = "needs to be started by the tests beside it"]
fn server() {
    if std::env::var_os(SERVE).is_some() {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve());
    }
}

async fn serve() {
    let (http, grpc) = (listen().await, listen().await);
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let (stop, stopping) = watch::channel(false);
    let stopped = |mut stopping: watch::Receiver<bool>| async move {
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    println!("ports {} {}", port(&http), port(&grpc));

    let app = Router::new().fallback(|| async { "hello" });
    let http = axum::serve(http, app).with_graceful_shutdown(stopped(stopping.clone()));
    let (_, health) = tonic_health::server::health_reporter();
    let grpc = tonic::transport::Server::builder()
        .add_service(health)
        .serve_with_incoming_shutdown(TcpIncoming::from(grpc), stopped(stopping));
    let told = async {
        let (mut input, mut orphaned) = (tokio::io::stdin(), [0]);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = input.read(&mut orphaned) => std::process::exit(0),
        }
        stop.send_replace(true);
    };
    let (http, grpc, ()) = tokio::join!(http, grpc, told);
    http.unwrap();
    grpc.unwrap();
    // A read of stdin cannot be taken back and would hold up the end.
    std::process::exit(0);
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

/// A server process and its two registrations.
struct Server {
    process: Child,
    /// Held open: the test harness in the process says so when a test takes a minute, and ends if it cannot.
    _output: Lines<BufReader<ChildStdout>>,
    registered: [Instance; 2],
}

impl Server {
    async fn start(registry: &MemoryRegistry) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);

        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["server", "--exact", "--ignored", "--nocapture"])
            .env(SERVE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ports = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                // The test harness may have begun the line.
                if let Some((_, ports)) = line.split_once("ports ") {
                    return ports.split_once(' ').map(|(a, b)| [a.to_owned(), b.to_owned()]).unwrap();
                }
            }
            panic!("the server ended without a word");
        };
        let [http, grpc] = tokio::time::timeout(LIMIT, ports).await.unwrap();
        let id = format!("{:03}", NEXT.fetch_add(1, Relaxed));
        let registered = [("http", http), ("grpc", grpc)]
            .map(|(service, port)| instance(service, &id, &format!("127.0.0.1:{port}")));
        for instance in &registered {
            register(registry, instance).await;
        }
        Self { process, _output: lines, registered }
    }

    async fn deregister(&self, registry: &MemoryRegistry) {
        for instance in &self.registered {
            registry.deregister(&instance.key()).await.unwrap();
        }
    }

    /// As the registrar does it: deregister, let what is in flight drain, stop.
    async fn stop(mut self, registry: &MemoryRegistry) {
        self.deregister(registry).await;
        tokio::time::sleep(DRAIN).await;
        let id = self.process.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())).unwrap();
        kill_process(id, Signal::TERM).unwrap();
        tokio::time::timeout(LIMIT, self.process.wait()).await.unwrap().unwrap();
    }
}

/// A steady load through one adapter.
#[derive(Default)]
struct Load {
    sent: AtomicUsize,
    failed: AtomicUsize,
    stop: AtomicBool,
}

type Call = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

impl Load {
    async fn run(&self, call: Call) {
        let worker = async || {
            let mut pace = tokio::time::interval(PACE);
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !(self.stop.load(Relaxed) && self.sent.load(Relaxed) >= REQUESTS) {
                pace.tick().await;
                if let Err(error) = call().await {
                    eprintln!("failed: {error}");
                    self.failed.fetch_add(1, Relaxed);
                }
                self.sent.fetch_add(1, Relaxed);
            }
        };
        join_all((0..WORKERS).map(|_| worker())).await;
    }
}

/// What both tests need: the servers, the two adapters, and their loads running.
struct Scene {
    registry: MemoryRegistry,
    servers: Vec<Server>,
    balancers: [Balancer; 2],
    loads: [Arc<Load>; 2],
    running: Vec<tokio::task::JoinHandle<()>>,
}

impl Scene {
    async fn new() -> Self {
        let registry = MemoryRegistry::new();
        let servers = join_all((0..SERVERS).map(|_| Server::start(&registry))).await;
        let selector = Selector::new(Directory::new(registry.handle()));
        let balancers = ["http", "grpc"].map(|service| selector.service(service).unwrap());

        let plain = reqwest::Client::builder().timeout(LIMIT).build().unwrap();
        let client = ClientBuilder::new(plain).with(Discovery::new(selector)).build();
        let http: Call = Arc::new(move || {
            let request = client.get("http://http/").send();
            Box::pin(async move {
                let response = request.await.map_err(|error| format!("{error:?}"))?;
                let text = response.text().await.map_err(|error| format!("{error:?}"))?;
                if text == "hello" { Ok(()) } else { Err(text) }
            })
        });
        let channel = Channel::builder(balancers[1].clone()).idempotent(|_| true).build();
        let health = HealthClient::new(channel);
        let grpc: Call = Arc::new(move || {
            let mut health = health.clone();
            Box::pin(async move {
                let answer = health.check(HealthCheckRequest::default()).await;
                answer.map(drop).map_err(|status| format!("{status:?}"))
            })
        });
        let loads = [Arc::new(Load::default()), Arc::new(Load::default())];
        let start = |(load, call): (&Arc<Load>, Call)| {
            let load = load.clone();
            tokio::spawn(async move { load.run(call).await })
        };
        let running = loads.iter().zip([http, grpc]).map(start).collect();
        Self { registry, servers, balancers, loads, running }
    }

    fn sent(&self) -> [usize; 2] {
        [self.loads[0].sent.load(Relaxed), self.loads[1].sent.load(Relaxed)]
    }

    /// Waits until each adapter has had so many more requests.
    async fn more(&self, requests: usize) {
        let before = self.sent();
        until("the load goes on", || self.sent().iter().zip(before).all(|(now, old)| *now >= old + requests))
            .await;
    }

    async fn finish(self) {
        for load in &self.loads {
            load.stop.store(true, Relaxed);
        }
        for running in self.running {
            tokio::time::timeout(Duration::from_secs(600), running).await.unwrap().unwrap();
        }
        for (name, load) in ["reqwest", "tonic"].iter().zip(&self.loads) {
            let (sent, failed) = (load.sent.load(Relaxed), load.failed.load(Relaxed));
            println!("{name}: {failed} of {sent} requests failed");
            assert!(sent >= REQUESTS);
            assert_eq!(failed, 0, "{name}");
        }
    }
}

/// One load at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn graceful() {
    let _alone = ALONE.lock().await;
    let mut scene = Scene::new().await;
    for _ in 0..SERVERS {
        scene.more(200).await;
        let server = scene.servers.remove(0);
        server.stop(&scene.registry).await;
        let next = Server::start(&scene.registry).await;
        scene.servers.push(next);
    }
    scene.finish().await;
}

#[tokio::test]
async fn by_sigkill() {
    let _alone = ALONE.lock().await;
    let mut scene = Scene::new().await;
    for _ in 0..SERVERS {
        scene.more(200).await;
        let mut server = scene.servers.remove(0);
        server.process.kill().await.unwrap();

        // The registry does not know; the clients find out.
        for (balancer, dead) in scene.balancers.iter().zip(&server.registered) {
            let report = || {
                let report = balancer.report();
                report.into_iter().find(|report| report.instance.id() == dead.id()).unwrap()
            };
            until("the dead one is ejected", || {
                matches!(report().standing, Standing::Ejected { .. }) && report().in_flight == 0
            })
            .await;
            let failures = report().consecutive_failures;
            scene.more(200).await;
            assert_eq!(report().consecutive_failures, failures, "it is not picked any more");
        }
        let next = Server::start(&scene.registry).await;
        scene.servers.push(next);
        // Its TTL lapses.
        server.deregister(&scene.registry).await;
    }
    scene.finish().await;
}
