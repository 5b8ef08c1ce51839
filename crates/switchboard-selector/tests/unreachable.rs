//! Instances that cannot be reached or answer nothing, beyond what may be ejected, on a paused clock.

#![allow(clippy::unwrap_used)] // in helpers of tests too

#[path = "../../switchboard-watcher/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use support::{Scripted, settle, snapshot};
use switchboard_selector::{
    Balancer, ConsistentHash, FailureKind, LeastRequest, OutlierDetection, PeakEwma, Random, Request,
    RoundRobin, Selector, Standing, Strategy,
};
use switchboard_watcher::Directory;
use tokio::time::{Instant, advance, sleep, timeout};

const FAILED: Result<(), FailureKind> = Err(FailureKind::Connection);

async fn balancer(ids: &[&str], strategy: impl Strategy) -> (Balancer, Scripted) {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", ids)));
    let selector = Selector::builder(Directory::new(registry.clone())).strategy(strategy).build();
    let balancer = selector.service("a").unwrap();
    balancer.ready().await.unwrap();
    (balancer, registry)
}

/// Makes calls, 10 ms apart, of 1 ms each, for so long. Nothing comes about with the dead. Tells the picks of them, and when.
async fn call(balancer: &Balancer, seconds: u64, dead: &[&str]) -> Vec<(String, Duration)> {
    let (began, mut failed) = (Instant::now(), Vec::new());
    while began.elapsed() < Duration::from_secs(seconds) {
        let pick = balancer.pick().unwrap();
        let id = pick.id().to_string();
        let is_dead = dead.contains(&id.as_str());
        advance(Duration::from_millis(1)).await;
        pick.finish(if is_dead { FAILED } else { Ok(()) });
        if is_dead {
            failed.push((id, began.elapsed()));
        }
        advance(Duration::from_millis(9)).await;
        settle().await;
    }
    failed
}

fn standing(balancer: &Balancer, at: usize) -> Standing {
    balancer.report().swap_remove(at).standing
}

#[tokio::test(start_paused = true)]
async fn the_dead_are_left_alone_beyond_the_cap_and_tried_now_and_then() {
    let ids = ["1", "2", "3", "4"];
    for strategy in [&Random as &dyn Test, &RoundRobin, &LeastRequest, &PeakEwma] {
        let (balancer, _registry) = strategy.balancer(&ids).await;
        // The cap lets one be ejected.
        let failed = call(&balancer, 60, &["1", "2"]).await;
        for id in ["1", "2"] {
            let times: Vec<Duration> = failed.iter().filter(|(to, _)| to == id).map(|(_, at)| *at).collect();
            assert!(times.len() <= 2 + 7, "{id}: twice, and after 1, 2, 4, 8, 16 and 30 s: {times:?}");
            let late = times.iter().filter(|at| at.as_secs() >= 1).count();
            assert!(late > 0, "{id} is tried again: {times:?}");
        }
        let standings = [standing(&balancer, 0), standing(&balancer, 1)];
        let is_used = |standing: &Standing| standing.is_in_use() && *standing != Standing::OnTrial;
        assert!(!standings.iter().any(is_used), "{standings:?}");
    }
}

/// A strategy behind a reference, to go through several.
trait Test {
    fn balancer<'a>(&self, ids: &'a [&'a str]) -> futures::future::LocalBoxFuture<'a, (Balancer, Scripted)>;
}

impl<S: Strategy + Copy> Test for S {
    fn balancer<'a>(&self, ids: &'a [&'a str]) -> futures::future::LocalBoxFuture<'a, (Balancer, Scripted)> {
        Box::pin(balancer(ids, *self))
    }
}

/// As when both of two are killed and replaced while the registry goes on listing them.
#[tokio::test(start_paused = true)]
async fn those_that_start_slowly_take_all_calls_of_the_dead() {
    fastrand::seed(1);
    let (balancer, registry) = balancer(&["1", "2"], Random).await;
    assert!(call(&balancer, 10, &[]).await.is_empty());
    let meanwhile = call(&balancer, 4, &["1", "2"]).await;
    assert_eq!(meanwhile.len(), 400, "nobody else is there");
    registry.say(Ok(snapshot("a", &["1", "2", "3", "4"])));
    settle().await;
    let failed = call(&balancer, 60, &["1", "2"]).await;
    assert!(failed.len() <= 12, "{failed:?}");
    let early = failed.iter().filter(|(_, at)| at.as_secs() < 1).count();
    assert!(early <= 4, "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_was_away_for_a_moment_is_back_with_its_full_share() {
    let (balancer, _registry) = balancer(&["1", "2"], RoundRobin).await;
    call(&balancer, 1, &[]).await;
    // A connection that breaks once is no more than that.
    assert!(balancer.mark(&"1".parse().unwrap(), FAILED));
    settle().await;
    assert_eq!(standing(&balancer, 0), Standing::InUse);
    assert!(balancer.mark(&"1".parse().unwrap(), FAILED));
    settle().await;
    assert!(matches!(standing(&balancer, 0), Standing::Unreachable { .. }));
    assert!(standing(&balancer, 0).to_string().starts_with("unreachable, tried again in 1."));
    advance(Duration::from_millis(999)).await;
    settle().await;
    assert!(matches!(standing(&balancer, 0), Standing::Unreachable { .. }));
    // And up to a fifth longer.
    advance(Duration::from_millis(202)).await;
    settle().await;
    assert_eq!(standing(&balancer, 0), Standing::OnTrial);
    call(&balancer, 1, &[]).await;
    let report = balancer.report().swap_remove(0);
    assert_eq!((report.standing, report.share.to_bits()), (Standing::InUse, 1_f64.to_bits()));
}

#[tokio::test(start_paused = true)]
async fn those_that_died_together_are_not_tried_together() {
    let ids: Vec<String> = (10..30).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let (balancer, _registry) = balancer(&ids, RoundRobin).await;
    let dead = &ids[..10];
    for id in dead.iter().chain(dead) {
        assert!(balancer.mark(&id.parse().unwrap(), FAILED));
    }
    settle().await;
    let on_trial = || balancer.report().iter().filter(|one| one.standing == Standing::OnTrial).count();
    advance(Duration::from_secs(1)).await;
    let mut counts = Vec::new();
    for _ in 0..=20 {
        advance(Duration::from_millis(10)).await;
        settle().await;
        counts.push(on_trial());
    }
    counts.dedup();
    assert!(counts.len() >= 4 && counts.last() == Some(&10), "they return one by one: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_tried_elsewhere_tries_nobody_that_returns() {
    let (balancer, _registry) = balancer(&["1", "2", "3", "4"], RoundRobin).await;
    call(&balancer, 1, &["1", "2"]).await;
    advance(Duration::from_millis(1201)).await;
    settle().await;
    assert_eq!([standing(&balancer, 0), standing(&balancer, 1)], [Standing::OnTrial, Standing::OnTrial]);
    let tried = ["3".parse().unwrap()];
    for _ in 0..100 {
        let pick = balancer.pick_for(&Request::new().avoid(&tried)).unwrap();
        assert_eq!(pick.id().as_str(), "4");
    }
    // Unless there is nobody else.
    let tried = ["3".parse().unwrap(), "4".parse().unwrap()];
    assert!(balancer.has_other(&Request::new().avoid(&tried)));
    let pick = balancer.pick_for(&Request::new().avoid(&tried)).unwrap();
    assert!(pick.is_trial(), "{}", pick.id());
    let all = ["1", "2", "3", "4"].map(|id| id.parse().unwrap());
    assert!(!balancer.has_other(&Request::new().avoid(&all)));
}

#[tokio::test(start_paused = true)]
async fn one_call_that_ends_in_silence_is_enough() {
    let (balancer, _registry) = balancer(&["1", "2"], RoundRobin).await;
    call(&balancer, 1, &[]).await;
    let pick = std::iter::repeat_with(|| balancer.pick().unwrap()).find(|pick| pick.id().as_str() == "1");
    // One call in two seconds, so nothing else is in flight when it ends.
    advance(Duration::from_secs(2)).await;
    pick.unwrap().failure(FailureKind::Timeout);
    // Before anybody has made anything of it.
    assert!((0..20).all(|_| balancer.pick().unwrap().id().as_str() == "2"));
    settle().await;
    assert!(matches!(standing(&balancer, 0), Standing::Unreachable { .. }), "{:?}", standing(&balancer, 0));
    // To find out how it is costs a caller as long again, so that is not done often.
    advance(Duration::from_millis(9999)).await;
    settle().await;
    assert!(matches!(standing(&balancer, 0), Standing::Unreachable { .. }), "{:?}", standing(&balancer, 0));
    advance(Duration::from_millis(2002)).await;
    settle().await;
    assert_eq!(standing(&balancer, 0), Standing::OnTrial);
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_it_and_so_does_having_nobody_else() {
    let (balancer, registry) = balancer(&["1", "2"], RoundRobin).await;
    call(&balancer, 1, &["1"]).await;
    let out = balancer.pick().unwrap();
    assert_eq!(out.id().as_str(), "2");
    out.success();
    // What somebody else has heard of it counts.
    assert!(balancer.mark(&"1".parse().unwrap(), Ok(())));
    settle().await;
    assert_eq!(standing(&balancer, 0), Standing::InUse);

    call(&balancer, 1, &["1"]).await;
    assert!(!standing(&balancer, 0).is_in_use());
    registry.say(Ok(snapshot("a", &["1"])));
    settle().await;
    assert!(standing(&balancer, 0).is_in_use(), "{:?}", standing(&balancer, 0));
    assert_eq!(balancer.pick().unwrap().id().as_str(), "1");
}

#[tokio::test(start_paused = true)]
async fn without_outlier_detection_nobody_is_left_alone() {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &["1", "2"])));
    let selector = Selector::builder(Directory::new(registry.clone())).strategy(RoundRobin);
    let balancer = selector.without_outlier_detection().build().service("a").unwrap();
    balancer.ready().await.unwrap();
    assert_eq!(call(&balancer, 10, &["1"]).await.len(), 500);
}

/// Calls 10 ms apart for a minute, each of which may take 15 s, to "1", which has hung, and another. How many went to "1".
async fn hung(strategy: impl Strategy, key: Option<&[u8]>) -> usize {
    fastrand::seed(7);
    let (balancer, _registry) = balancer(&["1", "2"], strategy).await;
    call(&balancer, 1, &[]).await;
    let (began, mut calls) = (Instant::now(), Vec::new());
    while began.elapsed() < Duration::from_secs(60) {
        let request = key.map_or(Request::new(), |key| Request::new().key(key));
        let pick = balancer.pick_for(&request).unwrap();
        calls.push(tokio::spawn(async move {
            let hangs = pick.id().as_str() == "1";
            let answer = sleep(Duration::from_millis(if hangs { 3_600_000 } else { 3 }));
            match timeout(Duration::from_secs(15), answer).await {
                Ok(()) => pick.success(),
                Err(_) => pick.failure(FailureKind::Timeout),
            }
            hangs
        }));
        sleep(Duration::from_millis(10)).await;
    }
    let mut hung = 0;
    for call in calls {
        hung += usize::from(call.await.unwrap());
    }
    hung
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_nothing_gets_no_more_than_a_hundredth_of_the_calls() {
    for hung in [hung(Random, None).await, hung(RoundRobin, None).await, hung(LeastRequest, None).await] {
        assert!((1..60).contains(&hung), "{hung} of 6000");
    }
    let by_key = [hung(ConsistentHash, Some(b"x")).await, hung(ConsistentHash, Some(b"y")).await];
    assert!(by_key.iter().all(|&hung| hung < 60), "{by_key:?} of 6000");
}

#[tokio::test(start_paused = true)]
async fn where_all_are_silent_it_is_as_it_always_is() {
    let (balancer, _registry) = balancer(&["1", "2", "3"], RoundRobin).await;
    call(&balancer, 1, &[]).await;
    let waiting = [balancer.pick().unwrap(), balancer.pick().unwrap(), balancer.pick().unwrap()];
    advance(Duration::from_millis(251)).await;
    let more: Vec<_> = (0..3).map(|_| balancer.pick().unwrap()).collect();
    let ids = |picks: &[switchboard_selector::Pick]| {
        let mut ids: Vec<String> = picks.iter().map(|pick| pick.id().to_string()).collect();
        ids.sort();
        ids
    };
    assert_eq!((ids(&waiting), ids(&more)), (ids(&more), ids(&waiting)), "each once");
    // One answers, and gets all there is.
    let id = waiting[0].id().clone();
    assert!(balancer.mark(&id, Ok(())));
    for _ in 0..20 {
        assert_eq!(balancer.pick().unwrap().id(), &id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_goes_on_and_a_slow_kind_of_call_are_no_silence() {
    let (balancer, _registry) = balancer(&["1", "2"], RoundRobin).await;
    call(&balancer, 1, &[]).await;
    let mut streams = [balancer.pick().unwrap(), balancer.pick().unwrap()];
    streams.iter_mut().for_each(switchboard_selector::Pick::responded);
    let first = balancer.pick().unwrap();
    let slow = first.id().clone();
    advance(Duration::from_secs(2)).await;
    first.success();
    // Now it is known that calls may take 2 s.
    let picks = [balancer.pick().unwrap(), balancer.pick().unwrap()];
    advance(Duration::from_secs(3)).await;
    let again = [balancer.pick().unwrap(), balancer.pick().unwrap()];
    assert!(again.iter().any(|pick| pick.id() == &slow) && again[0].id() != again[1].id());
    drop((streams, picks, again));
}

#[tokio::test(start_paused = true)]
async fn the_rule_of_the_cap_stays_for_those_that_answer_badly() {
    let detection = OutlierDetection::new();
    assert_eq!(detection, OutlierDetection::default());
    let (balancer, _registry) = balancer(&["1", "2", "3"], RoundRobin).await;
    for _ in 0..30 {
        for id in ["1", "2"] {
            assert!(balancer.mark(&id.parse().unwrap(), Err(FailureKind::Response)));
        }
        settle().await;
    }
    let out = balancer.report().iter().filter(|report| !report.standing.is_in_use()).count();
    assert_eq!(out, 1);
}
