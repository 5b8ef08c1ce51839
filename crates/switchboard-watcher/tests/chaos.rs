//! A directory on a registry with bad days, from fixed seeds.

#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use support::{instance, name, settle};
use switchboard_conformance::Chaos;
use switchboard_core::{MemoryRegistry, RegisterOptions, Registry};
use switchboard_watcher::{Cached, Directory, View};
use tokio::time::advance;

const SERVICES: usize = 5;
/// The longest that a view may take to hear of the end of all trouble: a rest after an error, what was late already, and
/// what was kept back by the decorator.
const RECOVERY: Duration = Duration::from_secs(4);

fn trouble(chaos: &Chaos<Arc<MemoryRegistry>>) {
    chaos.delay(Duration::from_millis(500));
    chaos.failures(0.3);
    chaos.losses(0.3);
    chaos.repeats(0.3);
}

fn service(index: usize) -> String {
    format!("s{index}")
}

async fn pass(time: Duration) {
    advance(time).await;
    settle().await;
}

/// Registers and deregisters at random, but for one instance of each service, through good days and bad.
async fn live(
    world: &MemoryRegistry,
    chaos: &Chaos<Arc<MemoryRegistry>>,
    dice: &mut fastrand::Rng,
    seen: &[View],
) {
    for _ in 0..300 {
        let changed = instance(&service(dice.usize(..SERVICES)), &dice.u32(1..6).to_string());
        if dice.bool() {
            world.register(&changed, &RegisterOptions::new()).await.unwrap();
        } else {
            world.deregister(&changed.key()).await.unwrap();
        }
        match dice.u32(..20) {
            0 => chaos.outage(),
            1 => chaos.heal(),
            2 => chaos.calm(),
            3 => trouble(chaos),
            _ => {}
        }
        pass(Duration::from_millis(dice.u64(..400))).await;
        for view in seen {
            let stays = view.snapshot().unwrap().get(&"0".parse().unwrap()).is_some();
            assert!(stays, "what is always there is always seen: {view:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_views_end_up_fresh_and_right() {
    for seed in 0..20 {
        let world = Arc::new(MemoryRegistry::new());
        for index in 0..SERVICES {
            world.register(&instance(&service(index), "0"), &RegisterOptions::new()).await.unwrap();
        }
        let chaos = Arc::new(Chaos::new(world.clone()).seed(seed));
        let directory = Directory::builder(chaos.clone()).build();
        let cached = Cached::new(chaos.clone());
        let views: Vec<_> = (0..SERVICES).map(|index| directory.service(service(index)).unwrap()).collect();
        let mut watch = cached.watch(&name("s0"));
        for view in &views {
            view.ready().await.unwrap();
        }
        trouble(&chaos);
        live(&world, &chaos, &mut fastrand::Rng::with_seed(seed), &views).await;

        chaos.calm();
        for _ in 0..RECOVERY.as_millis() / 100 {
            pass(Duration::from_millis(100)).await;
        }
        for view in &views {
            let right = world.lookup(view.service()).await.unwrap();
            assert_eq!(view.snapshot(), Some(right), "seed {seed}");
            assert!(view.status().is_fresh(), "seed {seed}: {view:?}");
        }
        let mut told = None;
        while let Some(Some(item)) = futures::FutureExt::now_or_never(watch.next()) {
            told = Some(item);
        }
        assert_eq!(told.unwrap().unwrap(), world.lookup(&name("s0")).await.unwrap(), "seed {seed}");
        assert_eq!(cached.lookup(&name("s1")).await.unwrap(), world.lookup(&name("s1")).await.unwrap());
    }
}
