//! Settings of discovery in a program's own configuration file, read by the crate `config`.
//!
//! `configured [FILE]` reads `examples/configured.toml` unless it is told another file. The environment counts before the file:
//! `APP__DISCOVERY__SELECTOR__STRATEGY=round-robin`, `APP__DISCOVERY__REGISTRY=memory:`.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;

use config::{Config, Environment, File};
use switchboard::prelude::*;
use switchboard::settings::Settings;

#[derive(serde::Deserialize)]
struct Configuration {
    greeting: String,
    discovery: Settings,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "examples/configured.toml".into());
    let configuration: Configuration = Config::builder()
        .add_source(File::with_name(&file))
        .add_source(Environment::with_prefix("APP").separator("__"))
        .build()?
        .try_deserialize()?;
    let discovery = configuration.discovery;

    let registry = discovery.connect().await?;
    let instance = Instance::builder("greeter").address("127.0.0.1:8080").build()?;
    let running = discovery.registrar(&registry, instance).start().await?;
    let balancer = discovery.selector(&registry).service("greeter")?;
    balancer.ready().await?;
    let pick = balancer.pick()?;
    println!("{} from {} at {registry}", configuration.greeting, pick.instance());
    pick.success();

    running.shutdown().await?;
    registry.close().await?;
    Ok(())
}
