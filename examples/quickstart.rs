//! Service discovery in one run: three servers start, a client finds and calls them, one stops, the client sees it.
//!
//! Ends with 0 when all that happened, and with 1 and the reason when not. It stays on this machine (loopback) unless
//! `SWITCHBOARD_REGISTRY` says otherwise: a demonstration should not announce itself to the whole LAN.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;
use std::time::{Duration, Instant as Clock};

use axum::{Router, routing::get};
use switchboard::prelude::*;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let url =
        std::env::var(switchboard::ENVIRONMENT_VARIABLE).unwrap_or_else(|_| "mdns:?interface=lo".into());

    println!("1. Three servers start and register as \"quickstart\" at {url}");
    let mut servers = Vec::new();
    for number in 1..=3 {
        let server = Server::start(&url, number).await?;
        println!("   {} listens on {}", server.instance.id(), server.instance.address());
        servers.push(server);
    }

    println!("2. A client, which knows only the name, watches it");
    let client = switchboard::connect(&url).await?;
    let mut watch = client.watch(servers[0].instance.service());
    let started = Clock::now();
    let found = wait_for(&mut watch, |snapshot| {
        servers.iter().all(|server| snapshot.get(server.instance.id()).is_some())
    })
    .await?;
    println!("   found {} instances in {} ms", found.len(), started.elapsed().as_millis());

    println!("3. It calls each of them");
    for server in &servers {
        let instance = found.get(server.instance.id()).ok_or("an instance was lost")?;
        let answer =
            reqwest::get(format!("http://{}/", instance.address())).await?.error_for_status()?.text().await?;
        println!("   {} says: {answer}", instance.id());
    }

    println!("4. One server stops");
    let stopped = servers.remove(0);
    let id = stopped.instance.id().clone();
    let started = Clock::now();
    stopped.stop().await?;
    let left = wait_for(&mut watch, |snapshot| snapshot.get(&id).is_none()).await?;
    println!(
        "   after {} ms the client sees that {id} is gone; {} are left",
        started.elapsed().as_millis(),
        left.len()
    );

    for server in servers {
        server.stop().await?;
    }
    client.close().await?;
    println!("Done. Now try it with two terminals: hello-server and hello-client.");
    Ok(())
}

/// The first snapshot that is as `wanted`, or an error when none comes.
async fn wait_for(
    watch: &mut switchboard::SnapshotStream,
    wanted: impl Fn(&Snapshot) -> bool,
) -> Result<Snapshot, Box<dyn Error>> {
    let first = async {
        while let Some(snapshot) = watch.next().await {
            let snapshot = snapshot?;
            if wanted(&snapshot) {
                return Ok(snapshot);
            }
        }
        Err("the watch ended".into())
    };
    timeout(LIMIT, first).await.map_err(|_| format!("saw no such change within {} s", LIMIT.as_secs()))?
}

/// A web server with a registry handle of its own, as if it were a program of its own.
struct Server {
    instance: Instance,
    registry: std::sync::Arc<dyn Registry>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start(url: &str, number: usize) -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let instance = Instance::builder("quickstart").address(listener.local_addr()?).build()?;
        let app =
            Router::new().route("/", get(move || async move { format!("hello, I am number {number}") }));
        let task = tokio::spawn(axum::serve(listener, app).into_future());
        let registry = switchboard::connect(url).await?;
        registry.register(&instance, &RegisterOptions::new()).await?;
        Ok(Self { instance, registry, task })
    }

    /// Deregisters first, so that nobody is sent to a server that has stopped.
    async fn stop(self) -> Result<(), Box<dyn Error>> {
        self.registry.close().await?;
        self.task.abort();
        Ok(())
    }
}
