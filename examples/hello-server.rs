//! A web server that others find by the name `hello`.
//!
//! `hello-server [ADDRESS]` listens on a free port of ADDRESS (default `127.0.0.1`; give your LAN address to be reached
//! from other machines), registers itself where `SWITCHBOARD_REGISTRY` says, and deregisters on Ctrl-C.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;
use std::time::Duration;

use axum::{Router, routing::get};
use switchboard::prelude::*;
use tokio::net::TcpListener;

const TTL: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let host = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1".into());
    let listener = TcpListener::bind((host.as_str(), 0)).await?;
    let address = listener.local_addr()?;

    let registry = switchboard::from_env().await?;
    let instance = Instance::builder("hello").version("1.0.0").address(address).build()?;
    registry.register(&instance, &RegisterOptions::new().ttl(TTL)).await?;
    println!("{} listens on {address}, registered at {registry}; stop it with Ctrl-C", instance.id());

    let greeting = format!("Hello from {}\n", instance.id());
    let app = Router::new().route("/", get(|| async move { greeting }));
    tokio::select! {
        served = axum::serve(listener, app).into_future() => served?,
        stopped = tokio::signal::ctrl_c() => stopped?,
        () = renew(registry.as_ref(), &instance) => {}
    }

    registry.close().await?;
    println!("deregistered");
    Ok(())
}

/// Registers again and again, so that the registration outlives its TTL and an outage of the registry.
async fn renew(registry: &dyn Registry, instance: &Instance) {
    loop {
        tokio::time::sleep(TTL / 3).await;
        if let Err(error) = registry.register(instance, &RegisterOptions::new().ttl(TTL)).await {
            println!("not renewed, will try again: {error}");
        }
    }
}
