//! Ejection, panic and slow start, on a paused clock.

#![allow(clippy::unwrap_used)] // in helpers of tests too

#[path = "../../switchboard-watcher/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use support::{Scripted, instance, name, settle, snapshot};
use switchboard_core::{Health, InstanceId, Snapshot};
use switchboard_selector::{
    Balancer, FailureKind, OutlierDetection, Pick, RoundRobin, Selector, SelectorBuilder, SlowStart, Standing,
};
use switchboard_watcher::Directory;
use tokio::time::{Instant, advance};

async fn balancer(
    ids: &[&str],
    settings: impl FnOnce(SelectorBuilder) -> SelectorBuilder,
) -> (Balancer, Scripted) {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", ids)));
    let selector = settings(Selector::builder(Directory::new(registry.clone()))).build();
    let balancer = selector.service("a").unwrap();
    balancer.ready().await.unwrap();
    (balancer, registry)
}

const TEN: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

/// Makes so many calls, 10 ms apart; those to a failing one fail. Tells how many failed, and how many went to "j".
async fn call(balancer: &Balancer, calls: usize, failing: &[&str]) -> (usize, usize) {
    let (mut failed, mut to_j) = (0, 0);
    for _ in 0..calls {
        let pick = balancer.pick().unwrap();
        to_j += usize::from(pick.id().as_str() == "j");
        if failing.contains(&pick.id().as_str()) {
            failed += 1;
            pick.failure(FailureKind::Response);
        } else {
            pick.success();
        }
        advance(Duration::from_millis(10)).await;
        settle().await;
    }
    (failed, to_j)
}

fn in_use(balancer: &Balancer) -> usize {
    balancer.report().iter().filter(|report| report.standing.is_in_use()).count()
}

#[tokio::test(start_paused = true)]
async fn one_in_ten_failing_is_ejected_and_returns_slowly_once_it_is_well() {
    fastrand::seed(3);
    let (balancer, _registry) = balancer(&TEN, |builder| builder).await;
    // Within the interval of 10 s.
    let (failed, _) = call(&balancer, 1_000, &["j"]).await;
    assert_eq!(failed, 5, "five in a row, and out");
    let (failed, _) = call(&balancer, 1_000, &["j"]).await;
    assert_eq!(failed, 0);
    let ejected = &balancer.report()[9];
    assert!(matches!(ejected.standing, Standing::Ejected { .. }), "{ejected:?}");
    assert!(ejected.standing.to_string().starts_with("ejected for another "));

    // Back after 30 s, on trial: the first failure ejects it for twice as long.
    let (failed, _) = call(&balancer, 3_000, &["j"]).await;
    assert_eq!(failed, 1);
    assert_eq!(balancer.report()[9].ejections, 2);

    // Well again: its share grows over 30 s.
    while !balancer.report()[9].standing.is_in_use() {
        advance(Duration::from_millis(100)).await;
        settle().await;
    }
    let returned = Instant::now();
    let (_, first) = call(&balancer, 500, &[]).await;
    let (_, second) = call(&balancer, 1_500, &[]).await;
    let (_, third) = call(&balancer, 1_000, &[]).await;
    assert_eq!(returned.elapsed(), Duration::from_secs(30));
    let (_, full) = call(&balancer, 2_000, &[]).await;
    assert!(first < 20, "{first} of 500: about 17 % of its share");
    assert!((30..110).contains(&second), "{second} of 1500: about half");
    assert!((50..110).contains(&third), "{third} of 1000: about 85 %");
    assert!((150..250).contains(&full), "{full} of 2000");
}

#[tokio::test(start_paused = true)]
async fn all_failing_is_a_panic_and_not_an_empty_set() {
    let detection = OutlierDetection::new().max_ejected(1.0);
    let (balancer, _registry) = balancer(&TEN, |builder| builder.outlier_detection(detection)).await;
    let (failed, _) = call(&balancer, 1_000, &TEN).await;
    assert_eq!(failed, 1_000, "each pick found somebody");
    assert_eq!(in_use(&balancer), 10);
    let standings: Vec<Standing> = balancer.report().into_iter().map(|report| report.standing).collect();
    assert!(standings.iter().any(|standing| matches!(standing, Standing::EjectedInUse { .. })));
}

#[tokio::test(start_paused = true)]
async fn in_a_panic_one_ejected_on_trial_gets_its_due() {
    fastrand::seed(3);
    let detection = OutlierDetection::new().max_ejected(1.0);
    let (balancer, _registry) = balancer(&TEN, |builder| builder.outlier_detection(detection)).await;
    call(&balancer, 500, &["i", "j"]).await;
    advance(Duration::from_secs(30)).await;
    settle().await;
    let hold = || (0..200).map(|_| balancer.pick().unwrap()).collect::<Vec<_>>();
    let to_j = |held: Vec<Pick>| held.iter().filter(|pick| pick.id().as_str() == "j").count();
    assert_eq!((&balancer.report()[9].standing, to_j(hold())), (&Standing::OnTrial, 1));
    // "i" stays on trial.
    for id in TEN.into_iter().filter(|id| *id != "i") {
        for _ in 0..5 {
            balancer.mark(&InstanceId::new(id).unwrap(), Err(FailureKind::Response));
        }
    }
    settle().await;
    assert!(matches!(balancer.report()[9].standing, Standing::EjectedInUse { .. }));
    assert!((10..40).contains(&to_j(hold())));
}

#[tokio::test(start_paused = true)]
async fn no_more_than_a_tenth_is_ejected() {
    let (balancer, _registry) = balancer(&TEN, |builder| builder).await;
    call(&balancer, 500, &TEN[5..]).await;
    assert_eq!(in_use(&balancer), 9);
}

#[tokio::test(start_paused = true)]
async fn half_ejected_is_not_yet_a_panic() {
    let detection = OutlierDetection::new().max_ejected(1.0);
    let (balancer, _registry) = balancer(&TEN, |builder| builder.outlier_detection(detection)).await;
    let (failed, _) = call(&balancer, 500, &TEN[5..]).await;
    assert_eq!((failed, in_use(&balancer)), (25, 5));
}

#[tokio::test(start_paused = true)]
async fn a_bad_success_rate_is_found_at_the_interval() {
    let (balancer, _registry) = balancer(&TEN, |builder| builder.strategy(RoundRobin)).await;
    // Every second call to "j" fails: never five in a row.
    for round in 0..199 {
        for _ in 0..10 {
            let pick = balancer.pick().unwrap();
            if pick.id().as_str() == "j" && round % 2 == 0 {
                pick.failure(FailureKind::Response);
            } else {
                pick.success();
            }
        }
        assert_eq!(in_use(&balancer), 10);
        advance(Duration::from_millis(50)).await;
        settle().await;
    }
    advance(Duration::from_millis(100)).await;
    settle().await;
    assert!(matches!(balancer.report()[9].standing, Standing::Ejected { .. }));
    assert_eq!(in_use(&balancer), 9);
}

#[tokio::test(start_paused = true)]
async fn ejection_and_what_was_learned_outlive_a_snapshot_and_end_with_a_reset() {
    let (balancer, registry) = balancer(&TEN, |builder| builder).await;
    call(&balancer, 200, &["j"]).await;
    assert_eq!(in_use(&balancer), 9);
    registry.say(Ok(snapshot("a", &TEN[3..])));
    settle().await;
    assert_eq!(in_use(&balancer), 6);
    let known = || {
        balancer.report().iter().map(|one| (one.latency.is_some(), one.consecutive_failures)).max().unwrap()
    };
    balancer.mark(&InstanceId::new("d").unwrap(), Err(FailureKind::Response));
    assert_eq!(known(), (true, 1));
    balancer.reset();
    assert_eq!((in_use(&balancer), known()), (7, (false, 0)));
}

#[tokio::test(start_paused = true)]
async fn health_that_comes_and_goes_ends_no_ejection() {
    let (balancer, registry) = balancer(&TEN, |builder| builder).await;
    advance(Duration::from_secs(6)).await;
    call(&balancer, 200, &["j"]).await;
    let health = |health| TEN.map(|id| instance("a", id).with_health(health));
    for health in [health(Health::Critical), health(Health::Passing)] {
        registry.say(Ok(Snapshot::new(name("a"), health)));
        settle().await;
    }
    assert!(matches!(balancer.report()[9].standing, Standing::Ejected { .. }), "{:?}", balancer.report()[9]);
}

#[tokio::test(start_paused = true)]
async fn the_new_start_slowly_and_the_first_do_not() {
    fastrand::seed(3);
    let slow = SlowStart::over(Duration::from_secs(20));
    let (balancer, registry) = balancer(&TEN[..9], |builder| builder.slow_start(slow)).await;
    let full = |report: &switchboard_selector::InstanceReport| (report.share - 1.0).abs() < 1e-9;
    assert!(balancer.report().iter().all(full));
    // One that comes while the view is still filling is not new.
    registry.say(Ok(snapshot("a", &TEN)));
    settle().await;
    assert!(full(&balancer.report()[9]));
    registry.say(Ok(snapshot("a", &TEN[..9])));
    advance(Duration::from_secs(6)).await;
    registry.say(Ok(snapshot("a", &TEN)));
    settle().await;
    assert!((balancer.report()[9].share - 0.1).abs() < 0.01);
    let (_, early) = call(&balancer, 200, &[]).await;
    assert!(early < 10, "{early} of 200");
    advance(Duration::from_secs(18)).await;
    settle().await;
    assert!(full(&balancer.report()[9]));

    // One that the registry calls healthy again starts slowly too.
    let ill = TEN.map(|id| {
        let health = if id == "j" { Health::Critical } else { Health::Passing };
        instance("a", id).with_health(health)
    });
    registry.say(Ok(Snapshot::new(name("a"), ill)));
    settle().await;
    assert_eq!(in_use(&balancer), 9);
    registry.say(Ok(snapshot("a", &TEN)));
    settle().await;
    assert!(balancer.report()[9].share < 0.2);
}

#[tokio::test(start_paused = true)]
async fn connection_failures_are_hinted_once_a_second() {
    let (balancer, registry) = balancer(&["a"], |builder| builder).await;
    let fail = |kind| balancer.pick().unwrap().failure(kind);
    for _ in 0..100 {
        fail(FailureKind::Response);
        fail(FailureKind::Timeout);
    }
    settle().await;
    assert!(registry.suspects().is_empty(), "an answer of any kind comes from somebody there");
    for _ in 0..25 {
        fail(FailureKind::Connection);
        advance(Duration::from_millis(100)).await;
        settle().await;
    }
    assert_eq!(registry.suspects(), vec![instance("a", "a").key(); 3]);
}

#[tokio::test(start_paused = true)]
async fn one_that_returns_gets_one_call_at_a_time_until_one_succeeds() {
    fastrand::seed(3);
    let (balancer, _registry) = balancer(&TEN, |builder| builder).await;
    call(&balancer, 200, &["j"]).await;
    advance(Duration::from_secs(30)).await;
    settle().await;
    assert!(balancer.report()[9].standing.is_in_use());
    let in_flight = || balancer.report()[9].in_flight;
    let many = || (0..500).map(|_| balancer.pick().unwrap()).collect::<Vec<_>>();

    let mut held = many();
    assert_eq!(in_flight(), 1);
    // The caller gives up at once: it may be tried again, by one.
    held.retain(|pick| pick.id().as_str() != "j");
    held.extend(many());
    assert_eq!(in_flight(), 1);
    let at = held.iter().position(|pick| pick.id().as_str() == "j").unwrap();
    held.swap_remove(at).success();
    drop(held);
    settle().await;
    let held = many();
    assert!((2..30).contains(&in_flight()), "its share of a slow start: {}", in_flight());
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn ejections_by_rate_last_longer_each_time_and_are_forgiven_when_it_is_well() {
    let (balancer, _registry) = balancer(&TEN, |builder| builder.strategy(RoundRobin)).await;
    // Every second call to "j" fails, so never two in a row.
    let mut turn = 0;
    let mut half_a_second = async |ill: bool| {
        for _ in 0..100 {
            let pick = balancer.pick().unwrap();
            let fails = pick.id().as_str() == "j" && {
                turn += 1;
                ill && turn % 2 == 0
            };
            pick.finish(if fails { Err(FailureKind::Response) } else { Ok(()) });
        }
        advance(Duration::from_millis(500)).await;
        settle().await;
    };
    let is_out = || !balancer.report()[9].standing.is_in_use();
    for lasts in [30, 60, 90] {
        let mut halves = 0;
        while !is_out() {
            half_a_second(true).await;
            halves += 1;
            assert!(halves < 200, "not ejected");
        }
        let out = Instant::now();
        while is_out() {
            half_a_second(true).await;
        }
        let out = out.elapsed().as_secs();
        assert!((lasts - 1..=lasts + 1).contains(&out), "{out} s for {lasts}");
    }
    assert_eq!(balancer.report()[9].ejections, 3);
    // A slow start, and three intervals.
    for _ in 0..140 {
        half_a_second(false).await;
    }
    assert_eq!(balancer.report()[9].ejections, 0);
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_never_ends_is_not_the_last() {
    fastrand::seed(3);
    let (balancer, _registry) = balancer(&TEN, |builder| builder).await;
    call(&balancer, 200, &["j"]).await;
    advance(Duration::from_secs(30)).await;
    settle().await;
    let try_it = || (0..500).map(|_| balancer.pick().unwrap()).find(|pick| pick.id().as_str() == "j");
    let hangs = try_it().unwrap();
    assert!(try_it().is_none());
    advance(Duration::from_secs(11)).await;
    try_it().unwrap().success();
    drop(hangs);
    settle().await;
    assert_eq!(balancer.report()[9].standing, Standing::InUse);
}

#[tokio::test(start_paused = true)]
async fn without_the_rule_of_the_row_a_row_ejects_nobody() {
    fastrand::seed(3);
    let detection = OutlierDetection::new().consecutive(0);
    let (balancer, _registry) = balancer(&TEN, |builder| builder.outlier_detection(detection)).await;
    let (failed, _) = call(&balancer, 200, &["j"]).await;
    advance(Duration::from_secs(10)).await;
    settle().await;
    assert!(failed > 10, "and too few to judge by rate");
    assert_eq!(in_use(&balancer), 10);
}

#[tokio::test(start_paused = true)]
async fn without_the_rule_of_the_row_one_failure_on_trial_is_enough_too() {
    fastrand::seed(3);
    let detection = OutlierDetection::new().consecutive(0);
    let (balancer, _registry) = balancer(&TEN, |builder| builder.outlier_detection(detection)).await;
    while in_use(&balancer) == 10 {
        call(&balancer, 500, &["j"]).await;
    }
    while in_use(&balancer) == 9 {
        call(&balancer, 10, &["j"]).await;
    }
    let (failed, _) = call(&balancer, 500, &["j"]).await;
    assert_eq!((failed, in_use(&balancer)), (1, 9));
}

#[tokio::test(start_paused = true)]
async fn those_that_fail_alike_are_not_ejected_for_chance() {
    fastrand::seed(3);
    let (balancer, _registry) = balancer(&TEN, |builder| builder).await;
    for _ in 0..60 {
        for _ in 0..2_000 {
            let fails = fastrand::u32(..100) == 0;
            balancer.pick().unwrap().finish(if fails { Err(FailureKind::Response) } else { Ok(()) });
        }
        advance(Duration::from_secs(1)).await;
        settle().await;
        assert_eq!(in_use(&balancer), 10);
    }
}
