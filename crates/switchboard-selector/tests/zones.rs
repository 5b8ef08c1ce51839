//! A preferred zone, and whom its calls go to when it has too few instances.

#![allow(clippy::unwrap_used)] // in helpers of tests too

#[path = "../../switchboard-watcher/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::{Scripted, instance, name, settle};
use switchboard_core::{Health, Instance, InstanceId, Snapshot};
use switchboard_selector::{
    Balancer, ConsistentHash, FailureKind, Filter, OutlierDetection, Request, Selector, SelectorBuilder,
    Standing,
};
use switchboard_watcher::Directory;
use tokio::time::advance;

/// Three instances in the zone "near", seventeen in "far".
fn twenty() -> Vec<Instance> {
    let zone = |at: u32| if at < 3 { "near" } else { "far" };
    (0..20)
        .map(|at| instance("a", &format!("{at:02}")).to_builder().metadata("zone", zone(at)).build().unwrap())
        .collect()
}

async fn balancer(settings: impl FnOnce(SelectorBuilder) -> SelectorBuilder) -> (Balancer, Scripted) {
    fastrand::seed(3);
    let registry = Scripted::new();
    registry.say(Ok(Snapshot::new(name("a"), twenty())));
    let detection = OutlierDetection::new().max_ejected(1.0);
    let builder = Selector::builder(Directory::new(registry.clone()));
    let selector = settings(builder.filter(Filter::prefer_zone("near")).outlier_detection(detection)).build();
    let balancer = selector.service("a").unwrap();
    balancer.ready().await.unwrap();
    (balancer, registry)
}

async fn eject(balancer: &Balancer, ids: std::ops::Range<u32>) {
    for id in ids {
        let id = InstanceId::new(format!("{id:02}")).unwrap();
        for _ in 0..5 {
            balancer.mark(&id, Err(FailureKind::Response));
        }
        settle().await;
    }
}

fn counts(balancer: &Balancer, picks: u32) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..picks {
        *counts.entry(balancer.pick().unwrap().id().to_string()).or_default() += 1;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn a_whole_zone_gets_all_and_one_with_too_few_what_it_can_take() {
    let (balancer, _registry) = balancer(|builder| builder).await;
    assert_eq!(counts(&balancer, 1_000).len(), 3);

    // Two thirds are left, and 1.4 times that is 93 %.
    eject(&balancer, 0..1).await;
    let two = counts(&balancer, 10_000);
    assert!((9_200..9_460).contains(&(two["01"] + two["02"])), "{two:?}");

    eject(&balancer, 1..2).await;
    let one = counts(&balancer, 10_000);
    assert!((4_500..4_840).contains(&one["02"]), "{one:?}");
    assert_eq!((one.len(), one.get("00"), one.get("01")), (18, None, None), "the ejected get nothing");
    let others: Vec<u32> = one.iter().filter(|(id, _)| *id != "02").map(|(_, &count)| count).collect();
    assert!(others.iter().all(|count| (230..400).contains(count)), "evenly: {others:?}");

    eject(&balancer, 2..3).await;
    assert_eq!(counts(&balancer, 5_000).len(), 17);
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_calls_unhealthy_counts_as_missing_too() {
    let (balancer, registry) = balancer(|builder| builder).await;
    let mut instances = twenty();
    for ill in &mut instances[..2] {
        *ill = ill.clone().with_health(Health::Critical);
    }
    registry.say(Ok(Snapshot::new(name("a"), instances)));
    settle().await;
    let one = counts(&balancer, 10_000);
    assert!((4_500..4_840).contains(&one["02"]), "{one:?}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_leaves_the_zone_rather_than_try_the_same_again() {
    let (balancer, _registry) = balancer(|builder| builder).await;
    eject(&balancer, 0..2).await;
    let tried = [InstanceId::new("02").unwrap()];
    for _ in 0..200 {
        assert_ne!(balancer.pick_for(&Request::new().avoid(&tried)).unwrap().id(), &tried[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_key_stay_together() {
    let (balancer, _registry) = balancer(|builder| builder.strategy(ConsistentHash)).await;
    eject(&balancer, 0..2).await;
    let find = |key: u32| {
        let pick = balancer.pick_for(&Request::new().key(key.to_le_bytes())).unwrap();
        pick.id().clone()
    };
    let found: Vec<InstanceId> = (0..2_000).map(find).collect();
    assert_eq!(found, (0..2_000).map(find).collect::<Vec<_>>());
    let near = found.iter().filter(|id| id.as_str() == "02").count();
    assert!((850..1_020).contains(&near), "{near}");
}

#[tokio::test(start_paused = true)]
async fn panic_is_judged_over_all_zones() {
    let (balancer, _registry) = balancer(|builder| builder).await;
    eject(&balancer, 0..3).await;
    let report = balancer.report();
    assert_eq!(report.iter().filter(|report| report.standing.is_in_use()).count(), 17);
    // Eleven of twenty is more than half.
    eject(&balancer, 3..11).await;
    assert_eq!(balancer.report().iter().filter(|report| report.standing.is_in_use()).count(), 3);
    assert_eq!(counts(&balancer, 1_000).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn one_on_trial_gets_one_call_at_a_time_also_alone_in_its_zone() {
    let (balancer, registry) = balancer(|builder| builder).await;
    // The other two of the zone are gone.
    registry.say(Ok(Snapshot::new(name("a"), twenty().split_off(2))));
    settle().await;
    eject(&balancer, 2..3).await;
    advance(Duration::from_secs(31)).await;
    settle().await;
    let in_flight = || balancer.report()[0].in_flight;
    let held: Vec<_> = (0..500).map(|_| balancer.pick().unwrap()).collect();
    assert_eq!((in_flight(), &balancer.report()[0].standing), (1, &Standing::OnTrial));
    drop(held);
    let pick = loop {
        let pick = balancer.pick().unwrap();
        if pick.id().as_str() == "02" {
            break pick;
        }
    };
    pick.success();
    settle().await;
    // A slow start, to the advantage of the other zone.
    let held: Vec<_> = (0..1_000).map(|_| balancer.pick().unwrap()).collect();
    assert!((50..250).contains(&in_flight()), "{}", in_flight());
    drop(held);
    advance(Duration::from_secs(31)).await;
    settle().await;
    assert_eq!(counts(&balancer, 100).len(), 1, "it has the zone to itself again");
}
