//! Picks, verdicts and errors, on a paused clock.

#![allow(clippy::unwrap_used)] // in helpers of tests too

#[path = "../../switchboard-watcher/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use support::{Scripted, instance, name, settle, snapshot, unavailable};
use switchboard_core::{Health, Instance, InstanceId, Result, Snapshot};
use switchboard_selector::{
    Balancer, CallOptions, Candidate, ConsistentHash, FailureKind, Filter, LeastRequest, PeakEwma, Pick,
    PickError, Picker, Random, Request, RoundRobin, Selector, SelectorBuilder, Standing, Strategy,
};
use switchboard_watcher::{Backoff, Directory};
use tokio::time::{Instant, advance};

/// A balancer on `instances`, and the registry to change them.
async fn balancer(
    instances: impl IntoIterator<Item = Instance>,
    settings: impl FnOnce(SelectorBuilder) -> SelectorBuilder,
) -> (Balancer, Scripted) {
    let registry = Scripted::new();
    registry.say(Ok(Snapshot::new(name("a"), instances)));
    let selector = settings(Selector::builder(Directory::new(registry.clone()))).build();
    let balancer = selector.service("a").unwrap();
    balancer.ready().await.unwrap();
    (balancer, registry)
}

fn of(ids: &[&str]) -> Vec<Instance> {
    ids.iter().map(|id| instance("a", id)).collect()
}

fn weighted(weights: &[(&str, u16)]) -> Vec<Instance> {
    weights
        .iter()
        .map(|&(id, weight)| instance("a", id).to_builder().weight(weight).build().unwrap())
        .collect()
}

fn id(pick: Result<Pick, PickError>) -> String {
    pick.unwrap().id().to_string()
}

fn counts(balancer: &Balancer, picks: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..picks {
        *counts.entry(id(balancer.pick())).or_default() += 1;
    }
    counts
}

/// Whether counts fit expectations: Pearson's statistic within five of its standard deviations.
#[allow(clippy::cast_precision_loss)]
fn assert_fits(counts: &BTreeMap<String, usize>, shares: &[(&str, f64)]) {
    let total = counts.values().sum::<usize>() as f64;
    let whole: f64 = shares.iter().map(|(_, share)| share).sum();
    let statistic: f64 = shares
        .iter()
        .map(|(id, share)| {
            let expected = total * share / whole;
            (counts.get(*id).copied().unwrap_or(0) as f64 - expected).powi(2) / expected
        })
        .sum();
    let freedom = (shares.len() - 1) as f64;
    assert!(statistic < freedom + 5.0 * (2.0 * freedom).sqrt(), "{statistic}: {counts:?}");
    assert!(counts.keys().all(|id| shares.iter().any(|(known, _)| known == id)), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_known_and_none_usable_are_different() {
    let registry = Scripted::new();
    let selector = Selector::builder(Directory::new(registry.clone())).filter(Filter::version("2")).build();
    let balancer = selector.service("a").unwrap();
    assert!(matches!(balancer.pick(), Err(PickError::NotHeard { .. })));
    registry.say(Ok(snapshot("a", &[])));
    settle().await;
    assert!(matches!(balancer.pick(), Err(PickError::NotFound { .. })));
    let critical = instance("a", "1").with_health(Health::Critical);
    registry.say(Ok(Snapshot::new(name("a"), [critical, instance("a", "2"), instance("a", "3")])));
    settle().await;
    let error = balancer.pick().unwrap_err();
    let said = "none of the 3 known instances of service \"a\" is usable: 1 unhealthy, 2 filtered out";
    assert_eq!((error.to_string(), error.is_nothing_known()), (said.into(), false));
    let standings: Vec<String> =
        balancer.report().into_iter().map(|report| report.standing.to_string()).collect();
    let left_out = "left out by the filter \"version 2\"";
    assert_eq!(standings, ["not used: critical", left_out, left_out]);
}

#[tokio::test(start_paused = true)]
async fn select_waits_for_the_first_snapshot_and_no_longer_than_its_limit() {
    let registry = Scripted::new();
    let selector = Selector::new(Directory::new(registry.clone()));
    let started = Instant::now();
    assert!(matches!(selector.select("a").await, Err(PickError::Registry(_))));
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    assert!(matches!(selector.select("a").await, Err(PickError::Registry(_))));
    assert_eq!(started.elapsed(), Duration::from_secs(5), "not each call waits");
    let selector = Selector::new(Directory::new(registry.clone()));
    let speak = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        registry.say(Ok(snapshot("a", &["1"])));
    };
    let (picked, ()) = futures::join!(selector.select("a"), speak);
    assert_eq!(id(picked), "1");
    assert!(matches!(selector.select("").await, Err(PickError::Registry(_))));
}

#[tokio::test(start_paused = true)]
async fn the_default_follows_the_weights_however_extreme() {
    fastrand::seed(7);
    let build = |builder: SelectorBuilder| builder;
    let (even, _registry) = balancer(weighted(&[("a", 5), ("b", 1), ("c", 2)]), build).await;
    assert_fits(&counts(&even, 40_000), &[("a", 5.0), ("b", 1.0), ("c", 2.0)]);
    let (extreme, _registry) = balancer(weighted(&[("a", 65_535), ("b", 1)]), build).await;
    let counts = counts(&extreme, 655_360);
    assert!((1..40).contains(&counts["b"]), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn shares_follow_the_weights_when_load_says_nothing() {
    for (weights, expected) in [([("a", 100), ("b", 99)], 99.0 / 199.0), ([("a", 9), ("b", 1)], 0.1)] {
        fastrand::seed(7);
        let settings = |builder: SelectorBuilder| builder.strategy(LeastRequest);
        let (balancer, _registry) = balancer(weighted(&weights), settings).await;
        let counts = counts(&balancer, 10_000);
        let share = f64::from(u32::try_from(counts["b"]).unwrap()) / 1e4;
        assert!((share - expected).abs() < 0.015, "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_stay_counted_when_the_registration_changes() {
    let (balancer, registry) = balancer(of(&["a", "b"]), |builder| builder.strategy(LeastRequest)).await;
    let held: Vec<Pick> = (0..10).map(|_| balancer.pick().unwrap()).collect();
    registry.say(Ok(Snapshot::new(name("a"), weighted(&[("a", 7), ("b", 7)]))));
    settle().await;
    let in_flight = || balancer.report().iter().map(|report| report.in_flight).collect::<Vec<_>>();
    assert_eq!(in_flight(), [5, 5]);
    drop(held);
    assert_eq!(in_flight(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn round_robin_goes_round_across_snapshots() {
    let (balancer, registry) = balancer(of(&["a", "b", "c"]), |builder| builder.strategy(RoundRobin)).await;
    let next = || id(balancer.pick());
    let first: Vec<String> = (0..6).map(|_| next()).collect();
    assert_eq!(first[..3], first[3..]);
    let mut sorted = first[..3].to_vec();
    sorted.sort();
    assert_eq!(sorted, ["a", "b", "c"]);
    // Health comes and goes ten times; over all, nobody is ahead by more than one place per change.
    let mut all = BTreeMap::<String, usize>::new();
    for round in 0..10 {
        let other = if round % 2 == 0 { &["a", "b", "c", "d"][..] } else { &["a", "b", "c"] };
        registry.say(Ok(snapshot("a", other)));
        settle().await;
        balancer.reset();
        for _ in 0..other.len() * 10 {
            *all.entry(next()).or_default() += 1;
        }
    }
    assert_eq!(all["a"], 100);
    assert_eq!(all["b"], 100);
    assert_eq!(all["d"], 50);
}

#[tokio::test(start_paused = true)]
async fn smooth_weighted_round_robin_spreads_the_heavy_one() {
    let weights = weighted(&[("a", 5), ("b", 1), ("c", 1)]);
    let (balancer, _registry) = balancer(weights, |builder| builder.strategy(RoundRobin)).await;
    let picked: String = (0..14).map(|_| id(balancer.pick())).collect();
    let round = "aaabcaa";
    assert!(round.repeat(3).contains(&picked), "{picked} is no turn of {round}");
}

#[tokio::test(start_paused = true)]
async fn least_request_leaves_the_busy_one_and_heeds_weights() {
    let (balancer, _registry) =
        balancer(weighted(&[("a", 1), ("b", 1), ("c", 4)]), |builder| builder.strategy(LeastRequest)).await;
    let held: Vec<Pick> = (0..600).map(|_| balancer.pick().unwrap()).collect();
    let in_flight: Vec<u32> = balancer.report().iter().map(|report| report.in_flight).collect();
    assert_eq!(in_flight.iter().sum::<u32>(), 600);
    for (count, expected) in in_flight.iter().zip([100_u32, 100, 400]) {
        assert!(count.abs_diff(expected) < 40, "{in_flight:?}");
    }
    drop(held);
    assert!(balancer.report().iter().all(|report| report.in_flight == 0));
}

#[tokio::test(start_paused = true)]
async fn peak_ewma_leaves_the_slow_one_within_a_call() {
    fastrand::seed(7);
    let (balancer, _registry) = balancer(of(&["a", "b", "slow"]), |builder| builder.strategy(PeakEwma)).await;
    let call = async || {
        let pick = balancer.pick().unwrap();
        let slow = pick.id().as_str() == "slow";
        advance(Duration::from_millis(if slow { 500 } else { 1 })).await;
        pick.success();
        slow
    };
    let mut slow = 0;
    for _ in 0..1_000 {
        slow += usize::from(call().await);
    }
    assert!((1..=2).contains(&slow), "{slow}");
    let report = balancer.report();
    assert!(report[2].latency > Some(Duration::from_millis(100)), "{report:?}");
    assert!(report[0].latency < Some(Duration::from_millis(2)), "{report:?}");
}

/// How many of these calls, so long apart, go to the slow half of so many instances: 200 ms instead of 5.
async fn slow_share(instances: u32, apart: Duration, calls: u32) -> f64 {
    fastrand::seed(7);
    let ids: Vec<String> = (0..instances).map(|index| format!("i{index:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let (balancer, _registry) = balancer(of(&ids), |builder| builder.strategy(PeakEwma)).await;
    let is_slow = |pick: &Pick| pick.id().as_str()[1..].parse::<u32>().unwrap() * 2 >= instances;
    let mut slow = 0;
    for _ in 0..calls {
        let pick = balancer.pick().unwrap();
        let is_slow = is_slow(&pick);
        slow += u32::from(is_slow);
        advance(Duration::from_millis(if is_slow { 200 } else { 5 })).await;
        pick.success();
        advance(apart).await;
        settle().await;
    }
    f64::from(slow) / f64::from(calls)
}

#[tokio::test(start_paused = true)]
async fn peak_ewma_leaves_the_slow_one_at_any_rate() {
    for apart in
        [Duration::from_millis(1), Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60)]
    {
        let share = slow_share(2, apart, 1_000).await;
        assert!(
            (0.0005..0.06).contains(&share),
            "{share} of calls {apart:?} apart: a few, to see how it is now"
        );
    }
    // Of two drawn from a half-slow hundred, both are slow in a quarter of the cases.
    let share = slow_share(100, Duration::from_millis(200), 5_000).await;
    assert!((0.22..0.32).contains(&share), "{share}");
}

#[tokio::test(start_paused = true)]
async fn peak_ewma_weighs_calls_in_flight_by_latency_and_weight() {
    // Where a call takes 1 ms, or for the same weight 2, a call more costs half as much.
    for (weights, times) in [([1, 1], [1, 2]), ([2, 1], [1, 1])] {
        fastrand::seed(7);
        let [a, b] = weights;
        let (balancer, _registry) =
            balancer(weighted(&[("a", a), ("b", b)]), |builder| builder.strategy(PeakEwma)).await;
        for _ in 0..20 {
            let pick = balancer.pick().unwrap();
            advance(Duration::from_millis(times[usize::from(pick.id().as_str() == "b")])).await;
            pick.success();
        }
        let open: Vec<Pick> = (0..300).map(|_| balancer.pick().unwrap()).collect();
        let on_a = open.iter().filter(|pick| pick.id().as_str() == "a").count();
        assert!((190..=210).contains(&on_a), "{on_a} of 300, {weights:?} {times:?}");
        open.into_iter().for_each(Pick::forget);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_has_heard_from_gets_one_call_to_begin_with() {
    let (balancer, _registry) = balancer(of(&["a", "b"]), |builder| builder.strategy(PeakEwma)).await;
    let first = balancer.pick().unwrap();
    let known = first.id().clone();
    advance(Duration::from_millis(10)).await;
    first.success();
    let open: Vec<Pick> = (0..20).map(|_| balancer.pick().unwrap()).collect();
    let on_known = open.iter().filter(|pick| *pick.id() == known).count();
    assert_eq!(on_known, 19, "the other is tried once, and then waited for");
    open.into_iter().for_each(Pick::forget);
}

#[tokio::test(start_paused = true)]
async fn peak_ewma_comes_back_to_one_that_has_recovered() {
    fastrand::seed(7);
    let (balancer, _registry) = balancer(of(&["a", "was slow"]), |builder| builder.strategy(PeakEwma)).await;
    let call = async |millis: u64| {
        let pick = balancer.pick().unwrap();
        let slow = pick.id().as_str() != "a";
        advance(Duration::from_millis(if slow { millis } else { 5 })).await;
        pick.success();
        settle().await;
        usize::from(slow)
    };
    for _ in 0..100 {
        call(200).await;
    }
    let started = Instant::now();
    let mut of_last = 0;
    while of_last < 400 {
        assert!(started.elapsed() < Duration::from_secs(300), "{:?}", balancer.report());
        of_last = 0;
        for _ in 0..1_000 {
            of_last += call(1).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_life_of_a_stream_is_no_latency() {
    let (balancer, _registry) = balancer(of(&["a", "b"]), |builder| builder.strategy(PeakEwma)).await;
    for end in [true, false] {
        for _ in 0..10 {
            let mut pick = balancer.pick().unwrap();
            advance(Duration::from_millis(5)).await;
            pick.responded();
            advance(Duration::from_secs(3_600)).await;
            pick.responded();
            if end { pick.success() } else { drop(pick) }
        }
        let report = balancer.report();
        assert!(report.iter().all(|report| report.latency < Some(Duration::from_millis(6))), "{report:?}");
        assert!(report.iter().all(|report| report.consecutive_failures == 0), "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_does_not_look_fast() {
    let (balancer, _registry) =
        balancer(of(&["bad", "good"]), |builder| builder.strategy(PeakEwma).without_outlier_detection())
            .await;
    for _ in 0..10 {
        let pick = balancer.pick().unwrap();
        let bad = pick.id().as_str() == "bad";
        advance(Duration::from_millis(if bad { 1 } else { 50 })).await;
        if bad { pick.failure(FailureKind::Response) } else { pick.success() }
    }
    let before = counts(&balancer, 100);
    assert_eq!(before.get("bad"), None, "{before:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_costs_more_than_the_slowest_success_however_slow_that_is() {
    let slow = Duration::from_secs(20);
    let settings = |builder: SelectorBuilder| builder.strategy(PeakEwma).without_outlier_detection();
    let (balancer, _registry) = balancer(of(&["bad", "good"]), settings).await;
    let mut good = balancer.pick().unwrap();
    while good.id().as_str() != "good" {
        good = balancer.pick().unwrap();
    }
    advance(slow).await;
    good.success();
    assert!(balancer.mark(&InstanceId::new("bad").unwrap(), Err(FailureKind::Response)));
    let report = balancer.report();
    assert_eq!(report[0].latency, Some(slow * 2), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn consistent_hash_keeps_keys_and_moves_few() {
    let ids: Vec<String> = (0..10).map(|index| format!("i{index}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let (balancer, registry) = balancer(of(&ids), |builder| builder.strategy(ConsistentHash)).await;
    let find = |key: usize| id(balancer.pick_for(&Request::new().key(key.to_le_bytes())));
    let before: Vec<String> = (0..20_000).map(find).collect();
    assert_eq!(before, (0..20_000).map(find).collect::<Vec<_>>());
    registry.say(Ok(snapshot("a", &ids[1..])));
    settle().await;
    let after: Vec<String> = (0..20_000).map(find).collect();
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert!((1_800..2_400).contains(&moved), "{moved} of 20000");
    let tried = [InstanceId::new(&after[0]).unwrap()];
    let retry = Request::new().key(0_usize.to_le_bytes()).avoid(&tried);
    let second = id(balancer.pick_for(&retry));
    assert_ne!(second, after[0]);
    assert_eq!(second, id(balancer.pick_for(&retry)), "a retry keeps its place too");
    // Without a key, anybody.
    let shares: Vec<(&str, f64)> = ids[1..].iter().map(|id| (*id, 1.0)).collect();
    assert_fits(&counts(&balancer, 10_000), &shares);
}

#[tokio::test(start_paused = true)]
async fn one_all_equal_and_none_work_for_every_strategy() {
    let one = |strategy: fn(SelectorBuilder) -> SelectorBuilder| async move {
        let (balancer, registry) = balancer(of(&["only"]), strategy).await;
        assert!((0..100).all(|_| id(balancer.pick()) == "only"));
        registry.say(Ok(Snapshot::new(name("a"), [instance("a", "only").with_health(Health::Maintenance)])));
        settle().await;
        assert!(matches!(balancer.pick(), Err(PickError::NoneUsable { unhealthy: 1, .. })));
    };
    one(|builder| builder.strategy(Random)).await;
    one(|builder| builder.strategy(RoundRobin)).await;
    one(|builder| builder.strategy(LeastRequest)).await;
    one(|builder| builder.strategy(PeakEwma)).await;
    one(|builder| builder.strategy(ConsistentHash)).await;
}

#[tokio::test(start_paused = true)]
async fn a_warning_counts_by_its_own_weight() {
    let warning = |id: &str, weight| {
        instance("a", id)
            .to_builder()
            .weight(8)
            .warning_weight(weight)
            .health(Health::Warning)
            .build()
            .unwrap()
    };
    let instances = [weighted(&[("a", 8)]), vec![warning("b", 2), warning("c", 0)]].concat();
    let (balancer, _registry) = balancer(instances, |builder| builder.strategy(RoundRobin)).await;
    let counts = counts(&balancer, 500);
    assert_eq!((counts["a"], counts["b"], counts.get("c")), (400, 100, None));
    assert_eq!(balancer.report()[2].standing.to_string(), "not used: warning, with a weight of 0");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_an_unchanged_instance_outlives_a_snapshot() {
    let (balancer, registry) = balancer(of(&["a", "b"]), |builder| builder.strategy(PeakEwma)).await;
    let held = balancer.pick().unwrap();
    let other = balancer.pick().unwrap();
    advance(Duration::from_millis(300)).await;
    let learned = other.id().clone();
    other.success();
    // Others come and go, and even a change of its own metadata keeps what is known.
    let tagged = |id: &str| instance("a", id).to_builder().tag("new").build().unwrap();
    for instances in [of(&["a", "b", "c"]), of(&["a", "b"]), vec![tagged("a"), tagged("b")]] {
        registry.say(Ok(Snapshot::new(name("a"), instances)));
        settle().await;
        let report = balancer.report();
        let known = report.iter().find(|report| *report.instance.id() == learned).unwrap();
        assert!(known.latency > Some(Duration::from_millis(290)), "{report:?}");
    }
    drop(held);
    // At another address it is another server.
    let moved =
        instance("a", learned.as_str()).to_builder().clear_addresses().address("h:1").build().unwrap();
    registry.say(Ok(Snapshot::new(name("a"), [moved])));
    settle().await;
    assert_eq!(balancer.report()[0].latency, None);
}

#[tokio::test(start_paused = true)]
async fn a_quick_drop_is_no_verdict_and_marks_are() {
    let (balancer, _registry) = balancer(of(&["a", "b"]), |builder| builder).await;
    for _ in 0..100 {
        drop(balancer.pick().unwrap());
    }
    assert!(balancer.report().iter().all(|report| report.consecutive_failures == 0 && report.in_flight == 0));
    let a = InstanceId::new("a").unwrap();
    assert!(balancer.mark(&a, Err(FailureKind::Timeout)));
    assert!(balancer.mark(&a, Err(FailureKind::Timeout)));
    assert_eq!(balancer.report()[0].consecutive_failures, 2);
    assert!(balancer.mark(&a, Ok(())));
    assert_eq!(balancer.report()[0].consecutive_failures, 0);
    assert!(!balancer.mark(&InstanceId::new("z").unwrap(), Ok(())));
}

#[tokio::test]
async fn a_retry_finds_the_only_one_of_many_that_was_not_tried() {
    let ids: Vec<String> = (0..100).map(|number| format!("i{number}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let (balancer, _registry) = balancer(of(&ids), |builder| builder).await;
    let tried: Vec<InstanceId> = ids[1..].iter().map(|id| InstanceId::new(*id).unwrap()).collect();
    for _ in 0..100 {
        assert_eq!(id(balancer.pick_for(&Request::new().avoid(&tried))), "i0");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_avoids_the_tried_as_long_as_there_is_another() {
    let ids = ["a", "b", "c"].map(|id| InstanceId::new(id).unwrap());
    for strategy in
        [CallOptions::new(), CallOptions::new().strategy(RoundRobin), CallOptions::new().strategy(PeakEwma)]
    {
        let (base, _registry) = balancer(of(&["a", "b", "c"]), |builder| builder).await;
        let balancer = base.with(&strategy);
        for _ in 0..200 {
            assert_eq!(id(balancer.pick_for(&Request::new().avoid(&ids[..2]))), "c");
            assert!(balancer.pick_for(&Request::new().avoid(&ids)).is_ok());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn filters_choose_by_what_is_registered() {
    let built = |id: &str, version: &str, zone: &str| {
        instance("a", id)
            .to_builder()
            .version(version)
            .metadata("zone", zone)
            .metadata("protocol", "grpc")
            .tag(format!("t{version}"))
            .endpoint("Greeter.Hello")
            .build()
            .unwrap()
    };
    let instances = [built("a", "1", "x"), built("b", "2", "x"), built("c", "2", "y"), instance("a", "d")];
    let (balancer, registry) = balancer(instances, |builder| builder).await;
    let left = |filters: &[Filter]| {
        let options = filters.iter().cloned().fold(CallOptions::new(), CallOptions::filter);
        let in_use = |report: &switchboard_selector::InstanceReport| report.standing.is_in_use();
        let report = balancer.with(&options).report();
        report
            .iter()
            .filter(|report| in_use(report))
            .map(|report| report.instance.id().to_string())
            .collect::<String>()
    };
    assert_eq!(left(&[Filter::version("2")]), "bc");
    assert_eq!(left(&[Filter::tag("t1")]), "a");
    assert_eq!(left(&[Filter::label("zone", "x")]), "ab");
    assert_eq!(left(&[Filter::endpoint("Greeter.Hello")]), "abc");
    assert_eq!(left(&[Filter::protocol("grpc"), Filter::version("1")]), "a");
    assert_eq!(left(&[Filter::prefer_zone("y")]), "c");
    assert_eq!(left(&[Filter::prefer_zone("nowhere")]), "abcd");
    for (without, others) in [("b", "acd"), ("c", "abd")] {
        let filter = Filter::custom("one of them", move |instance| instance.id().as_str() != without);
        assert_eq!(left(&[filter]), others, "what it says counts, not what it is called");
    }
    assert_eq!(left(&[Filter::subset(2)]).len(), 2);
    assert_eq!(left(&[Filter::subset(2)]), left(&[Filter::subset(2)]));
    assert_eq!(left(&[Filter::subset(9)]), "abcd");
    registry.say(Ok(Snapshot::new(name("a"), [built("a", "1", "y"), built("b", "2", "x")])));
    settle().await;
    assert_eq!(left(&[Filter::prefer_zone("y")]), "a", "they run again with each snapshot");
}

#[tokio::test(start_paused = true)]
async fn subsets_are_even_over_clients_and_change_by_one() {
    let ids: Vec<String> = (0..20).map(|index| format!("i{index:02}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let (all, _registry) = balancer(of(&ids), |builder| builder).await;
    let (fewer, _registry) = balancer(of(&ids[1..]), |builder| builder).await;
    let subset = |balancer: &Balancer, client: usize| -> Vec<String> {
        let client = InstanceId::new(client.to_string()).unwrap();
        let options = CallOptions::new().filter(Filter::subset_as(&client, 5));
        let report = balancer.with(&options).report();
        let chosen = report.iter().filter(|report| report.standing == Standing::InUse);
        chosen.map(|report| report.instance.id().to_string()).collect()
    };
    let mut counts = BTreeMap::new();
    for client in 0..400 {
        let before = subset(&all, client);
        let after = subset(&fewer, client);
        assert!(before.iter().filter(|id| !after.contains(id)).count() <= 1);
        for id in before {
            *counts.entry(id).or_default() += 1;
        }
    }
    let shares: Vec<(&str, f64)> = ids.iter().map(|id| (*id, 1.0)).collect();
    assert_fits(&counts, &shares);
}

#[derive(Debug)]
struct Counting(Arc<AtomicUsize>);

impl Strategy for Counting {
    fn picker(&self, _: &[Candidate]) -> Box<dyn Picker> {
        self.0.fetch_add(1, Relaxed);
        Box::new(Last)
    }
}

/// Out of range on purpose.
struct Last;

impl Picker for Last {
    fn pick(&self, candidates: &[Candidate], _: &switchboard_selector::Context<'_>) -> usize {
        candidates.len() * 2 - 1
    }
}

#[tokio::test(start_paused = true)]
async fn options_for_a_call_cost_no_rebuild_the_second_time() {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &["a", "b", "c"])));
    let selector = Selector::new(Directory::new(registry.clone()));
    let built = Arc::new(AtomicUsize::new(0));
    let options =
        CallOptions::new().strategy(Counting(built.clone())).filter(Filter::custom("any", |_| true));
    for _ in 0..100 {
        assert_eq!(id(selector.select_with("a", &options).await), "c");
    }
    assert_eq!(built.load(Relaxed), 1);
    registry.say(Ok(snapshot("a", &["a", "b"])));
    settle().await;
    assert_eq!(id(selector.select_with("a", &options).await), "b");
    assert_eq!(built.load(Relaxed), 2);
    // Go round though the options are made anew each time: the place is kept.
    let round = || CallOptions::new().strategy(RoundRobin).filter(Filter::label("no", "such"));
    assert!(matches!(
        selector.select_with("a", &round()).await,
        Err(PickError::NoneUsable { filtered: 2, .. })
    ));
    let round = || CallOptions::new().strategy(RoundRobin);
    let mut picked = Vec::new();
    for _ in 0..4 {
        picked.push(id(selector.select_with("a", &round()).await));
    }
    assert_eq!(picked[..2], picked[2..]);
    assert_ne!(picked[0], picked[1]);
}

#[tokio::test(start_paused = true)]
async fn of_the_options_that_nobody_holds_the_last_64_are_kept() {
    let (balancer, registry) = balancer(of(&["a", "b"]), |builder| builder).await;
    let built = Arc::new(AtomicUsize::new(0));
    let options = || CallOptions::new().strategy(Counting(built.clone()));
    let held: Vec<Balancer> = (0..100).map(|_| balancer.with(&options())).collect();
    let last: Vec<CallOptions> = (0..200).map(|_| options()).collect();
    last.iter().map(|options| balancer.with(options)).for_each(drop);
    built.store(0, Relaxed);
    registry.say(Ok(snapshot("a", &["a", "b", "c"])));
    settle().await;
    assert_eq!(built.load(Relaxed), held.len() + 64);
    last[136..].iter().map(|options| balancer.with(options)).for_each(drop);
    assert_eq!(built.load(Relaxed), held.len() + 64);
}

#[tokio::test(start_paused = true)]
async fn picks_go_on_while_the_registry_is_down() {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &["1"])));
    let cap = Duration::from_secs(5);
    let directory = Directory::builder(registry.clone()).backoff(Backoff::new(cap / 10, cap)).build();
    let balancer = Selector::new(directory).service("a").unwrap();
    balancer.ready().await.unwrap();
    let down = Instant::now();
    registry.say(Err(unavailable("no route")));
    settle().await;
    while down.elapsed() < cap * 10 {
        for _ in 0..20 {
            assert_eq!(id(balancer.pick()), "1");
            advance(Duration::from_millis(100)).await;
        }
        registry.say(Err(unavailable("no route")));
        settle().await;
    }
    let status = balancer.view().status();
    assert_eq!(status.error().unwrap().message(), "no route");
    assert_eq!(status.age(), Some(down.elapsed()));
    registry.say(Ok(snapshot("a", &["2"])));
    let back = Instant::now();
    while id(balancer.pick()) == "1" {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(back.elapsed() <= Duration::from_secs(1), "{:?}", balancer.view());
    }
    assert!(balancer.view().status().is_fresh());
}
