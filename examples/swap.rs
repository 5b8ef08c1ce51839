//! The same program on three registries, chosen by a URL alone: `swap [URL…]`.
//!
//! Without arguments it runs on memory and on mDNS on loopback; give `consul://127.0.0.1:8500` for the third.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;
use std::time::{Duration, Instant as Clock};

use switchboard::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut urls: Vec<String> = std::env::args().skip(1).collect();
    if urls.is_empty() {
        urls = vec!["memory:swap".into(), "mdns:?interface=lo".into()];
    }
    for url in urls {
        run(&url).await?;
    }
    Ok(())
}

/// Registers, finds, picks and deregisters; knows nothing of which registry it is.
async fn run(url: &str) -> Result<(), Box<dyn Error>> {
    let started = Clock::now();
    let (server, client) = (switchboard::connect(url).await?, switchboard::connect(url).await?);
    let instance = Instance::builder("swap").version("1.0.0").address("127.0.0.1:9000").build()?;
    let registrar =
        Registrar::new(server.clone(), instance).interval(Duration::from_secs(10)).start().await?;
    let registered = started.elapsed();

    let selector = Selector::new(Directory::new(client.clone()));
    // On a link, where every answer is heard by itself, "nobody there" is only what was heard so far.
    let mut view = selector.directory().service("swap")?;
    let found = async {
        while view.snapshot().is_none_or(|snapshot| snapshot.is_empty()) {
            view.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found).await?;
    selector.service("swap")?.ready().await?;
    let pick = selector.select("swap").await?;
    println!(
        "{url}: registered after {} ms, {} picked at {} after {} ms",
        registered.as_millis(),
        pick.id(),
        pick.address(),
        started.elapsed().as_millis()
    );
    pick.success();

    registrar.shutdown().await?;
    client.close().await?;
    server.close().await?;
    Ok(())
}
