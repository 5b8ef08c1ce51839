//! A strategy of one's own: always the instance with the highest weight, as long as it is usable.
//!
//! It needs no network: registry and instances are in memory.
#![allow(clippy::print_stdout, reason = "it is a program to look at")]

use std::error::Error;

use switchboard::MemoryRegistry;
use switchboard::prelude::*;
use switchboard::selector::{Candidate, Context, Picker, Strategy};

/// The settings of the strategy; this one has none.
#[derive(Debug)]
struct Heaviest;

/// What it makes of the instances there are, once for each change of them.
struct Place(usize);

impl Strategy for Heaviest {
    fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker> {
        let heaviest = (0..candidates.len()).max_by_key(|&at| candidates[at].weight());
        Box::new(Place(heaviest.unwrap_or_default()))
    }

    /// A share of its traffic would go to the others.
    fn allows_slow_start(&self) -> bool {
        false
    }
}

impl Picker for Place {
    fn pick(&self, _: &[Candidate], _: &Context<'_>) -> usize {
        self.0
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = MemoryRegistry::new();
    for (id, weight) in [("small", 1), ("big", 10), ("middle", 5)] {
        let instance = Instance::builder("store").id(id).address("127.0.0.1:9000").weight(weight).build()?;
        registry.register(&instance, &RegisterOptions::new()).await?;
    }

    let selector = Selector::builder(Directory::new(registry.handle())).strategy(Heaviest).build();
    let pick = selector.select("store").await?;
    println!("of three, {} is picked", pick.id());

    let balancer = selector.service("store")?;
    let mut view = balancer.view().clone();
    registry.deregister(&pick.key()).await?;
    pick.success();
    while view.snapshot().is_none_or(|snapshot| snapshot.len() > 2) {
        view.changed().await;
    }
    // The balancer hears of it at the same time as this view.
    balancer.ready().await?;
    println!("without it, {} is picked", selector.select("store").await?.id());
    Ok(())
}
