//! HTTP by name: `http://hello/` goes to an instance picked for each request, and failed ones are tried elsewhere.
//!
//! `hello-http server [ADDRESS]` is a server there or on a free port, with `/ready`; run several. `hello-http client [COUNT]` calls `http://hello/` every
//! half second, for ever or COUNT times. Both look where `SWITCHBOARD_REGISTRY` says.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;
use std::time::Duration;

use axum::{Router, routing::get};
use switchboard::client::Options;
use switchboard::client::reqwest::Discovery;
use switchboard::prelude::*;

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
    let registry = switchboard::from_env().await?;
    let listen = std::env::args().nth(2).unwrap_or_else(|| "127.0.0.1:0".into());
    let server = Serve::bind(&registry, "hello", &*listen).await?;
    let greeting = format!("Hello from {}", server.instance().id());
    println!("{} listens on {}, for {registry}", server.instance().key(), server.instance().address());
    server.axum(Router::new().route("/", get(|| async move { greeting }))).await?;
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
