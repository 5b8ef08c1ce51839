//! Calls that are dropped before they are answered, on a paused clock.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // in helpers of tests too

#[path = "../../switchboard-watcher/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use support::{Scripted, settle, snapshot};
use switchboard_selector::{Balancer, LeastRequest, PeakEwma, Random, RoundRobin, Selector, Strategy};
use switchboard_watcher::Directory;
use tokio::time::{Instant, advance, sleep, timeout};

const TEN: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "hangs"];

async fn balancer(strategy: impl Strategy) -> (Balancer, Scripted) {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &TEN)));
    let selector = Selector::builder(Directory::new(registry.clone())).strategy(strategy).build();
    let balancer = selector.service("a").unwrap();
    balancer.ready().await.unwrap();
    (balancer, registry)
}

/// A call that answers in 10 ms, or is given up by its caller after a second.
async fn call(balancer: Balancer) -> bool {
    let pick = balancer.pick().unwrap();
    let hangs = pick.id().as_str() == "hangs";
    let answered = async move {
        if hangs {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(10)).await;
        pick.success();
    };
    let _ = timeout(Duration::from_secs(1), answered).await;
    hangs
}

/// The part of the calls that goes to the hanging one in the 30 s after the first 30.
async fn share_of_the_hanging(strategy: impl Strategy, per_second: u32) -> f64 {
    fastrand::seed(5);
    let (balancer, _registry) = balancer(strategy).await;
    let (started, apart) = (Instant::now(), Duration::from_secs(1) / per_second);
    let mut calls = Vec::new();
    while started.elapsed() < Duration::from_secs(60) {
        let late = started.elapsed() >= Duration::from_secs(30);
        calls.push((late, tokio::spawn(call(balancer.clone()))));
        sleep(apart).await;
    }
    let (mut all, mut hung) = (0_u32, 0_u32);
    for (late, call) in calls {
        let hangs = call.await.unwrap();
        all += u32::from(late);
        hung += u32::from(late && hangs);
    }
    f64::from(hung) / f64::from(all)
}

#[tokio::test(start_paused = true)]
async fn one_hanging_of_ten_is_left_within_half_a_minute() {
    for per_second in [10, 200] {
        let shares = [
            share_of_the_hanging(Random, per_second).await,
            share_of_the_hanging(RoundRobin, per_second).await,
            share_of_the_hanging(LeastRequest, per_second).await,
            share_of_the_hanging(PeakEwma, per_second).await,
        ];
        assert!(shares.iter().all(|&share| share < 0.02), "{per_second} a second: {shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drop_says_how_slow_an_instance_is_at_least() {
    let (balancer, _registry) = balancer(RoundRobin).await;
    for _ in 0..10 {
        let pick = balancer.pick().unwrap();
        advance(Duration::from_millis(10)).await;
        pick.success();
    }
    let given_up = balancer.pick().unwrap();
    let id = given_up.id().clone();
    let report = || balancer.report().into_iter().find(|report| *report.instance.id() == id).unwrap();
    advance(Duration::from_millis(19)).await;
    drop(given_up);
    assert_eq!((report().latency, report().consecutive_failures), (Some(Duration::from_millis(10)), 0));

    let mut times = 0;
    while times < 5 {
        let pick = balancer.pick().unwrap();
        if *pick.id() == id {
            advance(Duration::from_secs(1)).await;
            drop(pick);
            times += 1;
        }
    }
    settle().await;
    let known = (report().latency, report().consecutive_failures);
    assert_eq!(known, (Some(Duration::from_secs(1)), 4), "the first began a silence, the others count in it");
    assert!(report().standing.is_in_use());
    while balancer.pick().is_ok_and(|pick| *pick.id() != id) {}
    let last = loop {
        let pick = balancer.pick().unwrap();
        if *pick.id() == id {
            break pick;
        }
    };
    advance(Duration::from_secs(2)).await;
    drop(last);
    settle().await;
    assert!(!report().standing.is_in_use(), "five in a row");
}

#[tokio::test(start_paused = true)]
async fn what_ends_for_a_reason_of_the_callers_own_says_nothing() {
    let (balancer, _registry) = balancer(RoundRobin).await;
    let answered = balancer.pick().unwrap();
    advance(Duration::from_millis(10)).await;
    answered.success();
    for _ in 0..100 {
        let pick = balancer.pick().unwrap();
        advance(Duration::from_secs(1)).await;
        pick.forget();
    }
    let report = balancer.report();
    assert!(
        report.iter().all(|report| report.consecutive_failures == 0 && report.in_flight == 0),
        "{report:?}"
    );
    assert!(report.iter().all(|report| report.latency <= Some(Duration::from_millis(10))), "{report:?}");
}

/// Makes calls of 2 ms to three instances, each of which stands still for 50 ms every 7 s; a second one after 5 ms, and the
/// loser is dropped.
#[tokio::test(start_paused = true)]
async fn losers_of_hedged_requests_eject_nobody() {
    fastrand::seed(5);
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &TEN[..3])));
    let selector = Selector::builder(Directory::new(registry.clone())).strategy(LeastRequest).build();
    let balancer = selector.service("a").unwrap();
    balancer.ready().await.unwrap();
    let began = Instant::now();
    let answer = async |balancer: &Balancer| {
        let pick = balancer.pick().unwrap();
        let nth = u64::from(pick.id().as_str().as_bytes()[0] - b'a');
        let phase = (began.elapsed().as_millis() as u64 + 2_000 * nth) % 7_000;
        sleep(Duration::from_millis(2 + 50_u64.saturating_sub(phase))).await;
        pick.success();
    };
    let hedged = async |balancer: Balancer| {
        let first = answer(&balancer);
        tokio::pin!(first);
        if timeout(Duration::from_millis(5), &mut first).await.is_err() {
            tokio::select! {
                () = first => {}
                () = answer(&balancer) => {}
            }
        }
    };
    while began.elapsed() < Duration::from_secs(60) {
        let calls = (0..5).map(|_| hedged(balancer.clone()));
        futures::future::join_all(calls).await;
        sleep(Duration::from_millis(5)).await;
        let report = balancer.report();
        assert!(report.iter().all(|report| report.standing.is_in_use()), "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_blames_nobody() {
    let (balancer, _registry) = balancer(RoundRobin).await;
    for _ in 0..20 {
        let pick = balancer.pick().unwrap();
        advance(Duration::from_millis(10)).await;
        pick.success();
    }
    let held: Vec<_> = (0..100).map(|_| balancer.pick().unwrap()).collect();
    advance(Duration::from_secs(3)).await;
    drop(held);
    settle().await;
    assert!(balancer.report().iter().all(|report| report.standing.is_in_use()));
}

/// Now and then a call of another kind takes 2.5 s and succeeds; the others give up after one second.
#[tokio::test(start_paused = true)]
async fn one_slow_kind_of_call_does_not_hide_who_hangs() {
    fastrand::seed(5);
    let (balancer, _registry) = balancer(Random).await;
    let slow = {
        let balancer = balancer.clone();
        tokio::spawn(async move {
            loop {
                let pick = balancer.pick().unwrap();
                if pick.id().as_str() == "hangs" {
                    pick.forget();
                    continue;
                }
                sleep(Duration::from_millis(2_500)).await;
                pick.success();
                sleep(Duration::from_secs(5)).await;
            }
        })
    };
    let (started, mut calls) = (Instant::now(), Vec::new());
    while started.elapsed() < Duration::from_secs(120) {
        calls.push(tokio::spawn(call(balancer.clone())));
        sleep(Duration::from_millis(50)).await;
    }
    slow.abort();
    let (all, mut hung) = (calls.len(), 0);
    for call in calls {
        hung += usize::from(call.await.unwrap());
    }
    assert!(hung * 50 < all, "{hung} of {all}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_usual_before_the_first_success() {
    let (balancer, _registry) = balancer(RoundRobin).await;
    for _ in 0..100 {
        let pick = balancer.pick().unwrap();
        advance(Duration::from_secs(1)).await;
        drop(pick);
    }
    let report = balancer.report();
    let untouched = |report: &switchboard_selector::InstanceReport| {
        report.latency.is_none() && report.consecutive_failures == 0 && report.standing.is_in_use()
    };
    assert!(report.iter().all(untouched), "{report:?}");
}
