//! A client that finds `hello` by its name, calls it every second, and says what it sees come and go.
//!
//! `hello-client [NAME]` runs until Ctrl-C. It looks where `SWITCHBOARD_REGISTRY` says.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;
use std::time::Duration;

use switchboard::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let service = ServiceName::new(std::env::args().nth(1).unwrap_or_else(|| "hello".into()))?;
    let registry = switchboard::from_env().await?;
    println!("looking for {service} at {registry}; stop with Ctrl-C");

    let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
    let mut watch = registry.watch(&service);
    let mut known = Snapshot::empty(service);
    let mut calls = tokio::time::interval(Duration::from_secs(1));
    let mut turn = 0;
    loop {
        tokio::select! {
            Some(news) = watch.next() => match news {
                Ok(snapshot) => {
                    show(&snapshot, &known);
                    known = snapshot;
                    calls.reset_immediately();
                }
                Err(error) => println!("  (still going by what was known: {error})"),
            },
            _ = calls.tick() => {
                let healthy: Vec<_> = known.healthy().cloned().collect();
                if !healthy.is_empty() {
                    call(&http, registry.as_ref(), &healthy[turn % healthy.len()]).await;
                    turn += 1;
                }
            }
            stopped = tokio::signal::ctrl_c() => {
                stopped?;
                registry.close().await?;
                return Ok(());
            }
        }
    }
}

fn show(snapshot: &Snapshot, known: &Snapshot) {
    if snapshot.is_empty() && known.is_empty() {
        println!("nobody there yet; start hello-server in another terminal");
    }
    for change in snapshot.diff(known) {
        match change {
            Change::Added(instance) => println!("+ {} at {}", instance.id(), instance.address()),
            Change::Updated { new, .. } => println!("~ {} at {}", new.id(), new.address()),
            Change::Removed(instance) => println!("- {} is gone", instance.id()),
        }
    }
}

async fn call(http: &reqwest::Client, registry: &dyn Registry, instance: &Instance) {
    match greeting(http, instance).await {
        Ok(greeting) => print!("  {greeting}"),
        Err(error) => {
            println!("  {} did not answer: {error}", instance.id());
            // Tells the registry to make sure; a server that died without a goodbye is soon gone.
            registry.suspect(&instance.key()).await;
        }
    }
}

async fn greeting(http: &reqwest::Client, instance: &Instance) -> reqwest::Result<String> {
    http.get(format!("http://{}/", instance.address())).send().await?.error_for_status()?.text().await
}
