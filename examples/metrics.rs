//! A gateway whose metrics Prometheus can scrape: it calls `http://hello/` every half second, and answers at `/metrics`.
//!
//! `metrics [ADDRESS]`, by default 127.0.0.1:9464; beside it run `hello-http server`, twice. It looks where
//! `SWITCHBOARD_REGISTRY` says. docs/observability.md tells what is measured.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;
use std::future::ready;
use std::time::Duration;

use axum::{Router, routing::get};
use metrics_exporter_prometheus::PrometheusBuilder;
use switchboard::client::Options;
use switchboard::client::reqwest::Discovery;
use switchboard::prelude::*;

/// As OpenTelemetry advises for durations of HTTP, in seconds.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    // First of all: what is made before it stays without metrics.
    let metrics =
        PrometheusBuilder::new().with_recommended_naming(true).set_buckets(&BUCKETS)?.install_recorder()?;
    let registry = switchboard::from_env().await?;
    tokio::spawn(call(Selector::new(Directory::new(&registry))));

    let upkeep = metrics.clone();
    tokio::spawn(async move {
        // Histograms would grow while nobody scrapes.
        let mut every = tokio::time::interval(Duration::from_secs(5));
        loop {
            every.tick().await;
            upkeep.run_upkeep();
        }
    });
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9464".into());
    println!("http://{address}/metrics");
    let app = Router::new().route("/metrics", get(move || ready(metrics.render())));
    Serve::bind(&registry, "gateway", address).await?.axum(app).await?;
    registry.close().await?;
    Ok(())
}

async fn call(selector: Selector) {
    let client = Discovery::new(selector).options(Options::new().timeout(Duration::from_secs(2))).client();
    let Ok(client) = client.inspect_err(|error| println!("no client: {error}")) else { return };
    loop {
        if let Err(error) = client.get("http://hello/").send().await {
            println!("{error}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
