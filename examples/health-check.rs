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

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let flag = std::env::args().nth(1).unwrap_or_else(|| "maintenance".into());
    let registry = switchboard::from_env().await?;
    let server = Serve::bind(&registry, "hello", "127.0.0.1:0").await?;
    let address = server.instance().address();
    println!("http://{address}/ready tells how it stands at {registry}; `touch {flag}` takes it out");

    let server = server.registrar(|registrar| {
        registrar.check_interval(Duration::from_secs(2)).unhealthy_after(2).check(move || {
            let flag = flag.clone();
            async move {
                let out = tokio::fs::try_exists(&flag).await?;
                if out { Err(io::Error::other(format!("the file {flag} exists"))) } else { Ok(()) }
            }
        })
    });
    server.axum(Router::new().route("/", get(|| async { "hello" }))).await?;
    registry.close().await?;
    Ok(())
}
