//! Instances that come and go, and registries that are not always heard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use switchboard_conformance::Chaos;
use switchboard_core::{Instance, Registry};
use switchboard_registrar::{Registrar, Running};
use switchboard_selector::Selector;
use switchboard_watcher::Directory;
use tokio::time::{Instant, sleep};

use crate::each_seed;
use crate::fleet::{Called, Fleet, Load, Manner, SERVICE};

/// How long a registration or its end may take to be seen, in a registry without delay.
const SEEN: Duration = Duration::from_millis(50);

#[test]
fn rolling_restarts_leave_no_call_without_an_instance_and_none_to_one_that_is_gone() {
    each_seed(|mut random| async move {
        let fleet = Fleet::new();
        // One that stays, as without it there might be nobody.
        fleet.add("stays", 1, Manner::good(Duration::from_millis(5))).await;
        let balancer = fleet.balancer(|builder| builder).await;
        let (caller, mut rates) = (fleet.clone(), random.fork());
        let load =
            Load { per_second: 200.0, time: Duration::from_secs(120), patience: Duration::from_secs(1) };
        let calls = tokio::task::spawn_local(async move { caller.call(&balancer, load, &mut rates).await });

        let registry: Arc<dyn Registry> = Arc::new(fleet.registry.handle());
        let mut running: BTreeMap<String, Running> = BTreeMap::new();
        let mut gone: BTreeMap<String, Instant> = BTreeMap::new();
        let end = Instant::now() + Duration::from_secs(120);
        let mut next = 0;
        while Instant::now() < end {
            if running.len() < 5 && random.bool() {
                next += 1;
                let id = format!("{next:04}");
                fleet.set(&id, Manner::good(Duration::from_millis(5)));
                let port = 1_000 + next;
                let instance = Instance::builder(SERVICE).id(&*id).address(format!("10.0.0.2:{port}"));
                let registrar = Registrar::new(registry.clone(), instance.build().unwrap());
                let interval = Duration::from_millis(random.u64(100..5_000));
                running.insert(id, registrar.interval(interval).start().await.unwrap());
            } else if let Some((id, one)) = running.pop_first() {
                one.shutdown().await.unwrap();
                gone.insert(id, Instant::now());
            }
            sleep(Duration::from_millis(random.u64(1..3_000))).await;
        }
        for one in running.into_values() {
            one.shutdown().await.unwrap();
        }
        let called: Vec<Called> = calls.await.unwrap();
        for call in &called {
            let id = call.id.as_ref().expect("there was always one");
            let late = gone.get(id).is_some_and(|&gone| call.at > gone + SEEN);
            assert!(!late, "{id} was called {:?} after it had gone", call.at - gone[id]);
        }
        let left = registry.lookup(&SERVICE.parse().unwrap()).await.unwrap();
        assert_eq!(left.len(), 1, "nothing is registered after its deregistration: {left:?}");
    });
}

/// How long after the end of an outage a view is fresh again: the longest rest of a watch, and the delay of the registry.
const RECOVERED: Duration = Duration::from_secs(4);

#[test]
fn a_registry_with_bad_days_never_means_an_empty_set_and_is_fresh_again_in_time() {
    each_seed(|mut random| async move {
        let fleet = Fleet::new();
        for at in 0..10 {
            fleet.add(&format!("{at:02}"), 1, Manner::good(Duration::from_millis(5))).await;
        }
        let chaos = Arc::new(Chaos::new(fleet.registry.handle()).seed(random.u64(..)));
        let directory = Directory::builder(chaos.clone())
            .linger(Duration::ZERO)
            .max_age(Duration::from_secs(600))
            .build();
        let balancer = Selector::new(directory).service(SERVICE).unwrap();
        balancer.ready().await.unwrap();
        let (view, caller, mut rates) = (balancer.view().clone(), fleet.clone(), random.fork());
        let load =
            Load { per_second: 20.0, time: Duration::from_secs(3_000), patience: Duration::from_secs(1) };
        let calls = tokio::task::spawn_local(async move { caller.call(&balancer, load, &mut rates).await });

        // Half of the time nothing has changed: only what is told after an outage says that it is over.
        let end = Instant::now() + load.time;
        while Instant::now() + Duration::from_secs(300) < end {
            chaos.delay(Duration::from_millis(random.u64(0..1_000)));
            chaos.repeats(random.f64() * 0.5);
            chaos.losses(random.f64() * 0.5);
            if random.bool() {
                let instance = format!("{:02}", random.usize(1..10));
                fleet.add(&instance, random.u16(1..5), Manner::good(Duration::from_millis(5))).await;
            }
            chaos.outage();
            sleep(Duration::from_millis(random.u64(1..120_000))).await;
            chaos.heal();
            sleep(RECOVERED).await;
            assert!(view.status().is_fresh(), "{:?}", view.status());
            sleep(Duration::from_millis(random.u64(1..60_000))).await;
        }
        chaos.calm();
        sleep(RECOVERED).await;
        let now = chaos.lookup(view.service()).await.unwrap();
        assert_eq!(view.snapshot(), Some(now), "the last state is never missed");
        for call in calls.await.unwrap() {
            assert!(call.id.is_ok(), "{:?}", call.id);
        }
    });
}
