//! Picks instances of a service in turn: `random-pick` with one line changed.
//!
//! Registers three instances of `picked` and picks nine times. It uses the registry that `SWITCHBOARD_REGISTRY` names:
//! mDNS if it is not set, Consul with `consul://127.0.0.1:8500`, with nothing changed here.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;

use switchboard::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = switchboard::from_env().await?;
    for port in [8001, 8002, 8003] {
        let id = format!("picked-{port}");
        let instance = Instance::builder("picked").id(id).address(format!("127.0.0.1:{port}")).build()?;
        registry.register(&instance, &RegisterOptions::new()).await?;
    }

    let directory = Directory::new(registry.clone());
    let selector = Selector::builder(directory).strategy(switchboard::selector::RoundRobin).build();
    let mut view = selector.directory().service("picked")?;
    while view.ready().await?.len() < 3 {
        view.changed().await;
    }
    for _ in 0..9 {
        let pick = selector.select("picked").await?;
        println!("{} at {}", pick.id(), pick.address());
        pick.success();
    }
    registry.close().await?;
    Ok(())
}
