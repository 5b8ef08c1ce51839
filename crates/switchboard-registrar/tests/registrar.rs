//! The registrar against a registry that fails, hangs and forgets, on a paused clock.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use support::{Call, Mood, Scripted};
use switchboard_core::{ErrorKind, Instance, Registry};
use switchboard_registrar::{Registrar, Running, Status};
use tokio::time::{Instant, sleep};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn instance() -> Instance {
    Instance::builder("greeter").id("1").address("h:1").build().unwrap()
}

fn registrar(registry: &Arc<Scripted>) -> Registrar {
    Registrar::new(registry.clone(), instance())
}

/// Waits until the status is as wanted.
async fn until(running: &Running, wanted: impl Fn(&Status) -> bool) -> Status {
    let mut status = running.watch_status();
    let found = tokio::time::timeout(seconds(3600), status.wait_for(wanted)).await;
    found.unwrap().unwrap().clone()
}

fn is_registered(status: &Status) -> bool {
    matches!(status, Status::Registered { .. })
}

#[tokio::test(start_paused = true)]
async fn renews_within_each_interval_with_the_defaults_of_go_micro() {
    let registry = Scripted::new();
    let running = registrar(&registry).start().await.unwrap();
    sleep(seconds(600)).await;
    assert!(registry.calls().iter().all(|call| *call == Call::Register { ttl: Some(seconds(90)) }));
    let times = registry.times();
    let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (seconds(15)..=seconds(30)).contains(gap)), "{gaps:?}");
    assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]), "they are spread");
    running.shutdown().await.unwrap();
    assert!(!registry.is_listed(&instance()).await);
}

#[tokio::test(start_paused = true)]
async fn explicit_settings_hold_in_any_order_and_the_others_follow_them() {
    let (i, t) = (seconds(10), seconds(20));
    for (case, ttl, longest) in [
        (
            (|r: Registrar, i, t| r.interval(i).ttl(t)) as fn(Registrar, Duration, Duration) -> Registrar,
            Some(20),
            10,
        ),
        (|r, i, t| r.ttl(t).interval(i), Some(20), 10),
        (|r, i, _| r.interval(i), Some(30), 10),
        (|r, _, t| r.ttl(t), Some(20), 7),
    ] {
        let registry = Scripted::new();
        let running = case(registrar(&registry), i, t).start().await.unwrap();
        sleep(seconds(longest)).await;
        assert_eq!(registry.calls()[..2], vec![Call::Register { ttl: ttl.map(seconds) }; 2][..]);
        running.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_ttl_within_the_interval_is_refused() {
    for (interval, ttl) in [(30, 30), (30, 10)] {
        let refused = registrar(&Scripted::new()).interval(seconds(interval)).ttl(seconds(ttl)).start().await;
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("is not longer than the interval 30s"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interval_of_zero_registers_once() {
    let registry = Scripted::new();
    let running = registrar(&registry).interval(Duration::ZERO).start().await.unwrap();
    sleep(seconds(100_000)).await;
    assert_eq!(registry.calls(), [Call::Register { ttl: None }]);
    running.shutdown().await.unwrap();
    assert_eq!(registry.calls().last(), Some(&Call::Deregister));
}

#[tokio::test(start_paused = true)]
async fn a_failing_check_withdraws_until_it_passes() {
    let registry = Scripted::new();
    let well = Arc::new(AtomicBool::new(true));
    let check = well.clone();
    let running = registrar(&registry)
        .interval(seconds(10))
        .check(move || {
            let well = check.load(Relaxed);
            async move { if well { Ok(()) } else { Err("the disk is full".into()) } }
        })
        .start()
        .await
        .unwrap();
    assert!(registry.is_listed(&instance()).await);

    well.store(false, Relaxed);
    let failed = Instant::now();
    let withdrawn = until(&running, |status| matches!(status, Status::Withdrawn { .. })).await;
    assert!(failed.elapsed() <= seconds(10));
    assert!(withdrawn.to_string().ends_with("the disk is full"));
    let registrations = registry.registrations();
    sleep(seconds(100)).await;
    assert!(!registry.is_listed(&instance()).await);
    assert_eq!(
        registry.registrations(),
        registrations,
        "it is not put back in the same tick, as in go-micro"
    );

    well.store(true, Relaxed);
    until(&running, is_registered).await;
    assert!(registry.is_listed(&instance()).await);
    running.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_or_hangs_has_failed() {
    let registry = Scripted::new();
    let panics = registrar(&registry).check(|| async { panic!("on purpose") }).start().await.unwrap();
    assert!(panics.status().to_string().ends_with("the check panicked"));
    let hangs =
        registrar(&registry).check(std::future::pending).check_timeout(seconds(2)).start().await.unwrap();
    assert!(hangs.status().to_string().ends_with("the check took longer than 2s"));
    assert_eq!(registry.registrations(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_and_ends_with_the_registration_back() {
    let registry = Scripted::new();
    let running = registrar(&registry).interval(seconds(10)).start().await.unwrap();
    registry.set(Mood::Down);
    let failing = until(&running, |status| matches!(status, Status::Failing { .. })).await;
    assert!(failing.to_string().ends_with("scripted: call: unavailable: is down"), "{failing}");
    sleep(seconds(300)).await;
    let during = registry.registrations();
    assert!(during < 100, "backoff bounds the retries: {during}");

    registry.memory.deregister(&instance().key()).await.unwrap();
    registry.set(Mood::Well);
    let back = Instant::now();
    until(&running, is_registered).await;
    assert!(back.elapsed() <= seconds(10), "within one interval");
    assert!(registry.is_listed(&instance()).await);
}

#[tokio::test(start_paused = true)]
async fn one_hanging_call_does_not_let_the_ttl_lapse() {
    let registry = Scripted::new();
    let running = registrar(&registry).interval(seconds(10)).ttl(seconds(30)).start().await.unwrap();
    registry.set(Mood::Hangs);
    let hung = registry.registrations() + 1;
    while registry.registrations() < hung {
        sleep(Duration::from_millis(100)).await;
    }
    registry.set(Mood::Well);
    // The hanging call ends after ttl - interval, and the next one comes at once: just in time.
    until(&running, |status| matches!(status, Status::Failing { .. })).await;
    assert!(registry.is_listed(&instance()).await);
    until(&running, is_registered).await;
    assert!(registry.is_listed(&instance()).await);
}

#[tokio::test(start_paused = true)]
async fn start_tries_until_its_limit_and_leaves_nothing() {
    let registry = Scripted::new();
    registry.set(Mood::Down);
    let started = Instant::now();
    let error =
        registrar(&registry).start_limit(seconds(5)).shutdown_limit(seconds(1)).start().await.unwrap_err();
    assert_eq!(error.message(), "is down");
    assert!(started.elapsed() <= seconds(6), "{:?}", started.elapsed());
    let registrations = registry.registrations();
    assert!(registrations > 3);
    registry.set(Mood::Well);
    sleep(seconds(100)).await;
    assert_eq!(registry.registrations(), registrations);
}

#[tokio::test(start_paused = true)]
async fn start_fails_at_once_when_refused_and_the_background_goes_on() {
    let registry = Scripted::new();
    registry.set(Mood::Refuses);
    let started = Instant::now();
    let error = registrar(&registry).start().await.unwrap_err();
    assert_eq!((error.message(), started.elapsed()), ("the token may not", Duration::ZERO));

    let running = registrar(&registry).start_in_background().unwrap();
    until(&running, |status| matches!(status, Status::Registering { error: Some(_) })).await;
    registry.set(Mood::Well);
    until(&running, is_registered).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_a_renewal_in_flight_finish_and_then_deregisters() {
    let registry = Scripted::new();
    let running = registrar(&registry).interval(seconds(10)).start().await.unwrap();
    registry.set(Mood::Slow(seconds(2)));
    let in_flight = registry.registrations() + 1;
    while registry.registrations() < in_flight {
        sleep(Duration::from_millis(100)).await;
    }
    running.shutdown().await.unwrap();
    assert!(!registry.is_listed(&instance()).await);
    sleep(seconds(100)).await;
    assert!(!registry.is_listed(&instance()).await, "nothing registers after the deregistration");
}

#[tokio::test(start_paused = true)]
async fn shutdown_during_a_check_registers_nothing_more() {
    let registry = Scripted::new();
    let slow_check = || async {
        sleep(seconds(3)).await;
        Ok(())
    };
    let running = registrar(&registry).interval(seconds(10)).check(slow_check).start().await.unwrap();
    sleep(seconds(11)).await;
    let registrations = registry.registrations();
    running.shutdown().await.unwrap();
    assert_eq!(registry.registrations(), registrations);
    assert!(!registry.is_listed(&instance()).await);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_within_its_limit_whatever_the_registry_does() {
    for mood in [Mood::Down, Mood::Hangs] {
        let registry = Scripted::new();
        let running = registrar(&registry).shutdown_limit(seconds(3)).start().await.unwrap();
        registry.set(mood);
        let started = Instant::now();
        let error = running.shutdown().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(started.elapsed() <= seconds(3), "{mood:?}: {:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_after_deregistering() {
    let registry = Scripted::new();
    let running = registrar(&registry).drain(seconds(5)).start().await.unwrap();
    let started = Instant::now();
    let shutdown = tokio::spawn(running.shutdown());
    sleep(seconds(1)).await;
    assert!(!registry.is_listed(&instance()).await);
    shutdown.await.unwrap().unwrap();
    assert_eq!(started.elapsed(), seconds(5));
}

#[tokio::test(start_paused = true)]
async fn dropping_it_withdraws_in_the_background() {
    let registry = Scripted::new();
    let running = registrar(&registry).start().await.unwrap();
    let mut status = running.watch_status();
    drop(running);
    status.wait_for(|status| matches!(status, Status::Stopped)).await.unwrap();
    assert!(!registry.is_listed(&instance()).await);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_registrations_spread_their_renewals() {
    let registry = Scripted::new();
    let mut all = Vec::new();
    for number in 0..1000 {
        let instance = Instance::builder("greeter").id(number.to_string()).address("h:1").build().unwrap();
        all.push(Registrar::new(registry.clone(), instance).start().await.unwrap());
    }
    sleep(seconds(60)).await;
    let started = registry.times()[0];
    let mut per_second = [0; 60];
    for at in registry.times().into_iter().skip(1000) {
        let second = usize::try_from((at - started).as_secs()).unwrap();
        per_second[second.min(59)] += 1;
    }
    let most = per_second.into_iter().max().unwrap();
    assert!(most < 150, "1,000 renewals come in 15 s, so about 67 a second: {per_second:?}");
}
