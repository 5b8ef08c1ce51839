//! A service that takes itself out for maintenance and comes back: checked every 2 s, out after two failures.
//!
//! It is in maintenance while the file `maintenance` exists in the current directory (another name is the first
//! argument): `touch maintenance`, wait up to 4 s, `rm maintenance`. It registers where `SWITCHBOARD_REGISTRY` says and
//! runs until Ctrl-C.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;
use std::io;
use std::time::Duration;

use axum::{Router, routing::get};
use switchboard::prelude::*;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let flag = std::env::args().nth(1).unwrap_or_else(|| "maintenance".into());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let registry = switchboard::from_env().await?;
    let instance = Instance::builder("hello").address(listener.local_addr()?).build()?;
    println!("{} registers at {registry}; `touch {flag}` takes it out", instance.key());

    let registrar = Registrar::new(registry.clone(), instance)
        .check_interval(Duration::from_secs(2))
        .unhealthy_after(2)
        .check(move || {
            let flag = flag.clone();
            async move {
                let out = tokio::fs::try_exists(&flag).await?;
                if out { Err(io::Error::other(format!("the file {flag} exists"))) } else { Ok(()) }
            }
        })
        .start()
        .await?;

    // The readiness endpoint shows what the registrar knows.
    let mut status = registrar.watch_status();
    let shown = status.clone();
    let ready = move || async move { shown.borrow().to_string() };
    let app = Router::new().route("/", get(|| async { "hello" })).route("/ready", get(ready));
    let serve = axum::serve(listener, app).into_future();
    let tell = async {
        loop {
            println!("{}", *status.borrow_and_update());
            if status.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        served = serve => served?,
        () = tell => {}
        stopped = shutdown_signal() => stopped?,
    }
    registrar.shutdown().await?;
    registry.close().await?;
    Ok(())
}
