//! HTTP by name: `http://hello/` goes to an instance picked for each request, and failed ones are tried elsewhere.
//!
//! `hello-http server` is a server on a free port; run several. `hello-http client [COUNT]` calls `http://hello/` every
//! half second, for ever or COUNT times. Both look where `SWITCHBOARD_REGISTRY` says.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;
use std::time::Duration;

use axum::{Router, routing::get};
use switchboard::client::Options;
use switchboard::client::reqwest::Discovery;
use switchboard::prelude::*;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    match std::env::args().nth(1).as_deref() {
        Some("server") => server().await,
        Some("client") => client().await,
        _ => Err("say `server` or `client`".into()),
    }
}

async fn server() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = switchboard::registrar::advertise(listener.local_addr()?).await?;
    let registry = switchboard::from_env().await?;
    let instance = Instance::builder("hello").address(&address).build()?;
    let greeting = format!("Hello from {}", instance.id());
    let app = Router::new().route("/", get(|| async move { greeting }));

    // New requests stop coming before the server stops taking them.
    let registrar = Registrar::new(registry.clone(), instance).drain(Duration::from_secs(1)).start().await?;
    println!("{} listens on {address}, registered at {registry}", registrar.key());
    tokio::select! {
        served = axum::serve(listener, app).into_future() => served?,
        stopped = async { shutdown_signal().await?; Ok::<_, Box<dyn Error>>(registrar.shutdown().await?) } => stopped?,
    }
    registry.close().await?;
    println!("deregistered, drained and stopped");
    Ok(())
}

async fn client() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().nth(2).map_or(Ok(usize::MAX), |count| count.parse())?;
    let registry = switchboard::from_env().await?;
    let selector = Selector::new(Directory::new(registry));
    // For a whole call, whatever it takes: two retries, too.
    let options = Options::new().timeout(Duration::from_secs(2));
    let client = Discovery::new(selector).options(options).client()?;
    for _ in 0..count {
        match client.get("http://hello/").send().await {
            Ok(response) => println!("{}", response.text().await?),
            Err(error) => println!("failed: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
