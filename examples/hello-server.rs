//! A web server that others find by the name `hello`.
//!
//! `hello-server [ADDRESS]` listens on a free port of ADDRESS (default `127.0.0.1`; `0.0.0.0` to be reached from other
//! machines), registers itself where `SWITCHBOARD_REGISTRY` says, and deregisters on Ctrl-C.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;
use std::time::Duration;

use axum::{Router, routing::get};
use switchboard::prelude::*;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let host = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1".into());
    let registry = switchboard::from_env().await?;
    let listener = TcpListener::bind((host.as_str(), 0)).await?;
    let address = switchboard::registrar::advertise_on(&registry, listener.local_addr()?).await?;

    let instance = Instance::builder("hello").version("1.0.0").address(&address).build()?;
    let id = instance.id().clone();
    let registrar =
        Registrar::new(registry.clone(), instance).interval(Duration::from_secs(10)).start().await?;
    println!("{id} listens on {address}, registered at {registry}; stop it with Ctrl-C");

    let greeting = format!("Hello from {id}\n");
    let app = Router::new().route("/", get(|| async move { greeting }));
    tokio::select! {
        served = axum::serve(listener, app).into_future() => served?,
        stopped = shutdown_signal() => stopped?,
    }

    registrar.shutdown().await?;
    registry.close().await?;
    println!("deregistered");
    Ok(())
}
