//! Starting, renewing, leaving.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use switchboard_core::{ErrorKind, Instance, MemoryRegistry, Registry};
use switchboard_registrar::{Registrar, Status};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Call, Mood, Scripted, instance, is_registered, registrar, seconds, until};

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
async fn an_outage_is_told_and_ends_with_the_registration_back() {
    let registry = Scripted::new();
    let running = registrar(&registry).interval(seconds(10)).start().await.unwrap();
    registry.set(Mood::Down);
    let failing = until(&running, |status| matches!(status, Status::Failing { .. })).await;
    assert!(failing.to_string().ends_with("scripted: call: unavailable: is down"), "{failing}");
    sleep(seconds(300)).await;
    let during = registry.registrations();
    assert!(during < 300, "backoff bounds the retries: {during}");

    registry.memory.deregister(&instance().key()).await.unwrap();
    registry.set(Mood::Well);
    let back = Instant::now();
    until(&running, is_registered).await;
    assert!(back.elapsed() <= seconds(3), "soon, and not at the next interval");
    assert!(registry.is_listed(&instance()).await);
}

#[tokio::test(start_paused = true)]
async fn one_hanging_call_does_not_let_the_ttl_lapse() {
    for seed in 0..50 {
        fastrand::seed(seed);
        let registry = Scripted::new();
        let running = registrar(&registry).interval(seconds(10)).ttl(seconds(20)).start().await.unwrap();
        registry.set(Mood::Hangs);
        let hung = registry.registrations() + 1;
        while registry.registrations() < hung {
            assert!(registry.is_listed(&instance()).await);
            sleep(Duration::from_millis(100)).await;
        }
        registry.set(Mood::Well);
        // The hanging call ends after half of what is left of the TTL, and the next one comes in time.
        until(&running, |status| matches!(status, Status::Failing { .. })).await;
        while !is_registered(&running.status()) {
            assert!(registry.is_listed(&instance()).await, "seed {seed}");
            sleep(Duration::from_millis(10)).await;
        }
        assert!(registry.is_listed(&instance()).await);
        running.shutdown().await.unwrap();
    }
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
async fn shutdown_ends_within_its_limit_whatever_the_registry_does() {
    for mood in [Mood::Down, Mood::Hangs] {
        let registry = Scripted::new();
        let running = registrar(&registry).shutdown_limit(seconds(3)).start().await.unwrap();
        registry.set(mood);
        let started = Instant::now();
        let error = running.shutdown().await.unwrap_err();
        let why = if mood == Mood::Down { "is down" } else { "the registry did not answer within 1.5s" };
        assert_eq!((error.kind(), error.message()), (ErrorKind::Unavailable, why));
        assert!(started.elapsed() <= seconds(3), "{mood:?}: {:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_with_a_renewal_in_flight_ends_within_its_limit_too() {
    let registry = Scripted::new();
    let running =
        registrar(&registry).interval(seconds(10)).shutdown_limit(seconds(4)).start().await.unwrap();
    registry.set(Mood::Hangs);
    let in_flight = registry.registrations() + 1;
    while registry.registrations() < in_flight {
        sleep(Duration::from_millis(100)).await;
    }
    let started = Instant::now();
    let error = running.shutdown().await.unwrap_err();
    assert_eq!(error.message(), "the registry did not answer within 1s");
    assert_eq!(started.elapsed(), seconds(4));
    assert_eq!(registry.calls().last(), Some(&Call::Deregister), "half of the limit is left for it");
}

#[tokio::test(start_paused = true)]
async fn shutdown_tries_again_while_the_registry_is_down() {
    let registry = Scripted::new();
    let running = registrar(&registry).start().await.unwrap();
    registry.set(Mood::Down);
    let shutdown = tokio::spawn(running.shutdown());
    sleep(seconds(3)).await;
    registry.set(Mood::Well);
    shutdown.await.unwrap().unwrap();
    let tries = registry.calls().iter().filter(|call| **call == Call::Deregister).count();
    assert!((3..10).contains(&tries), "{tries}");
    assert!(!registry.is_listed(&instance()).await);
}

#[tokio::test(start_paused = true)]
async fn a_refused_deregistration_is_told_at_once_and_a_closed_registry_is_as_good() {
    let registry = Scripted::new();
    let running = registrar(&registry).start().await.unwrap();
    registry.set(Mood::Refuses);
    let started = Instant::now();
    assert_eq!(running.shutdown().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(started.elapsed(), Duration::ZERO);

    let registry = Arc::new(MemoryRegistry::new());
    let running = Registrar::new(registry.clone(), instance()).start().await.unwrap();
    registry.close().await.unwrap();
    running.shutdown().await.unwrap();
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

#[test]
fn outside_a_runtime_it_is_refused() {
    let registrar = registrar(&Scripted::new());
    let refused = registrar.clone().start_in_background().unwrap_err();
    assert_eq!(
        refused.to_string(),
        "registrar: start: unsupported: called outside a tokio runtime; call it from `#[tokio::main]` or `Runtime::block_on`, or \
         keep the guard of `Runtime::enter` meanwhile"
    );
    assert_eq!(registrar.start().now_or_never().unwrap().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn it_ends_with_its_runtime_and_says_so() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let first = runtime();
    let running = first.block_on(registrar(&Scripted::new()).start()).unwrap();
    drop(first);
    assert!(
        matches!(running.status(), Status::Stopped),
        "it is not registered for ever: {}",
        running.status()
    );
    let ended = "the task ended with its runtime";
    assert_eq!(runtime().block_on(running.update(instance())).unwrap_err().message(), ended);
    assert_eq!(running.shutdown().now_or_never().unwrap().unwrap_err().message(), ended);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_refused_fails_at_once_with_nothing_to_take_back() {
    for mood in [Mood::Refuses, Mood::Invalid] {
        let registry = Scripted::new();
        registry.set(mood);
        let started = Instant::now();
        let start = timeout(seconds(1000), registrar(&registry).drain(Duration::MAX).start()).await;
        assert!(start.expect("no drain: no client has found it").is_err());
        assert_eq!((started.elapsed(), registry.deregistrations()), (Duration::ZERO, 0), "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_ends_a_second_after_its_limit_whatever_the_registry_does() {
    for (mood, limit) in
        [(Mood::Down, 30), (Mood::Hangs, 30), (Mood::Down, 1), (Mood::Hangs, 1), (Mood::Hangs, 0)]
    {
        let registry = Scripted::new();
        registry.set(mood);
        let started = Instant::now();
        let start = registrar(&registry).drain(seconds(30)).start_limit(seconds(limit)).start().await;
        assert_eq!(start.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(started.elapsed() <= seconds(limit + 1), "{mood:?} {limit}: {:?}", started.elapsed());
        let sent = registry.registrations().min(1);
        assert_eq!(registry.deregistrations(), sent, "what may have got through is taken back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_takes_back_what_may_have_got_through() {
    // A registration that is still under way at the limit: after it, so that it cannot come later.
    let registry = Scripted::new();
    registry.set(Mood::Slow(Duration::from_millis(1200)));
    let start = tokio::spawn(registrar(&registry).start_limit(seconds(1)).start());
    sleep(Duration::from_millis(1100)).await;
    registry.set(Mood::Well);
    assert!(start.await.unwrap().is_err());
    let times = registry.times();
    assert_eq!((registry.deregistrations(), times[1] - times[0]), (1, Duration::from_millis(1200)));

    // One without an answer, though the next one is refused.
    let registry = Scripted::new();
    registry.set(Mood::Hangs);
    let start = tokio::spawn(registrar(&registry).start_limit(seconds(100)).start());
    sleep(seconds(1)).await;
    registry.set(Mood::Refuses);
    assert_eq!(start.await.unwrap().unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(registry.deregistrations(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_is_not_ready_once_the_registration_has_lapsed() {
    let registry = Scripted::new();
    let running = registrar(&registry).start().await.unwrap();
    let registered = running.status();
    registry.set(Mood::Down);
    sleep(seconds(89)).await;
    assert!(matches!(running.status(), Status::Failing { .. }) && running.status().is_ready());
    sleep(seconds(2)).await;
    assert!(!running.status().is_ready(), "the TTL of 90 s has passed: {}", running.status());
    assert!(!registered.is_ready(), "nor was it renewed as far as this knows");
    sleep(seconds(3600)).await;
    assert!(!running.status().is_ready());
    registry.set(Mood::Well);
    until(&running, is_registered).await;
    // Each renewal counts.
    sleep(seconds(3600)).await;
    assert!(running.status().is_ready());
}

#[tokio::test(start_paused = true)]
async fn what_has_no_ttl_stays_ready() {
    for interval in [Duration::ZERO, Duration::MAX] {
        let registry = Scripted::new();
        let running = registrar(&registry).interval(interval).start().await.unwrap();
        registry.set(Mood::Down);
        running.update(instance()).await.unwrap_err();
        sleep(seconds(100_000)).await;
        assert!(matches!(running.status(), Status::Failing { .. }) && running.status().is_ready());
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_registry_is_told_and_not_tried_again() {
    let registry = Scripted::new();
    let running = registrar(&registry).start().await.unwrap();
    registry.memory.close().await.unwrap();
    until(&running, |status| !is_registered(status)).await;
    let calls = registry.calls();
    assert!(!running.status().is_ready());
    sleep(seconds(3600)).await;
    assert_eq!(registry.calls(), calls);
    let status = running.status().to_string();
    assert!(status.starts_with("not registered, and will not be: the registry was closed"), "{status}");
    assert_eq!(running.update(instance()).await.unwrap_err().kind(), ErrorKind::Closed);
    running.shutdown().await.unwrap();

    // A withdrawal finds out too.
    let registry = Scripted::new();
    let withdrawn = registrar(&registry).check(|| async { Err("not now") }).start().await.unwrap();
    registry.memory.close().await.unwrap();
    until(&withdrawn, |status| matches!(status, Status::Closed { .. })).await;
    let calls = registry.calls();
    sleep(seconds(3600)).await;
    assert_eq!(registry.calls(), calls);
    withdrawn.shutdown().await.unwrap();

    let started = Instant::now();
    assert_eq!(registrar(&registry).start().await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_panics_has_failed() {
    for mood in [Mood::Panics, Mood::HangsAndBursts] {
        let registry = Scripted::new();
        let running = registrar(&registry).start().await.unwrap();
        registry.set(mood);
        let failing = |status: &Status| !is_registered(status);
        let failing = until(&running, failing).await.to_string();
        let why = if mood == Mood::Panics { "the registry panicked" } else { "did not answer within 30s" };
        assert!(failing.ends_with(why), "{failing}");
        registry.set(Mood::Well);
        until(&running, is_registered).await;

        registry.set(mood);
        let shutdown = tokio::spawn(running.shutdown());
        while registry.deregistrations() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        registry.set(Mood::Well);
        shutdown.await.unwrap().unwrap();
        assert!(!registry.is_listed(&instance()).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_that_hangs_once_leaves_time_for_another() {
    for limit in [seconds(10), seconds(1), Duration::MAX] {
        let registry = Scripted::new();
        let running = registrar(&registry).shutdown_limit(limit).start().await.unwrap();
        registry.set(Mood::Hangs);
        let shutdown = tokio::spawn(running.shutdown());
        while registry.deregistrations() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        registry.set(Mood::Well);
        timeout(seconds(100), shutdown).await.expect("it ends").unwrap().unwrap();
        assert_eq!(registry.deregistrations(), 2, "{limit:?}");
        assert!(!registry.is_listed(&instance()).await);
    }
}
