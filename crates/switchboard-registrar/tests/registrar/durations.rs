//! Durations of any length: nothing panics, and the task lives on.

use std::time::Duration;

use switchboard_core::ErrorKind;
use switchboard_registrar::Registrar;
use tokio::time::{sleep, timeout};

use crate::support::{Call, Mood, Scripted, instance, registrar, seconds};

type Setting = fn(Registrar, Duration) -> Registrar;

const FOREVER: Duration = Duration::MAX;

/// It works, and still does after a while; with pauses of a millisecond, a short one.
async fn works(set: Setting, length: Duration) {
    let a_while = if length.is_zero() { seconds(1) } else { seconds(10_000) };
    let registry = Scripted::new();
    let checked = registrar(&registry).check(|| async { Ok::<_, String>(()) });
    let running = set(checked, length).start().await.unwrap();
    for weight in [2, 3] {
        sleep(a_while).await;
        let heavier = instance().to_builder().weight(weight).build().unwrap();
        running.update(heavier).await.unwrap();
        assert_eq!(registry.weight().await, weight);
    }
    running.shutdown().await.unwrap();
    assert_eq!(registry.weight().await, 0);
}

#[tokio::test(start_paused = true)]
async fn any_length_will_do() {
    let settings: [Setting; 6] = [
        Registrar::interval,
        Registrar::check_interval,
        Registrar::check_timeout,
        Registrar::shutdown_limit,
        |registrar, length| registrar.interval(length).check_interval(length).check_timeout(length),
        |registrar, length| registrar.interval(length / 4).ttl(length.max(Duration::from_nanos(1))),
    ];
    for set in settings {
        works(set, FOREVER).await;
        works(set, Duration::ZERO).await;
    }
    works(Registrar::ttl, FOREVER).await;
    works(Registrar::start_limit, FOREVER).await;
    works(Registrar::drain, Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn an_interval_for_ever_registers_once_for_ever() {
    let registry = Scripted::new();
    let _running = registrar(&registry).interval(FOREVER).start().await.unwrap();
    sleep(seconds(100_000)).await;
    assert_eq!(registry.calls(), [Call::Register { ttl: None }]);
}

#[tokio::test(start_paused = true)]
async fn a_ttl_of_nothing_is_refused() {
    let refused = registrar(&Scripted::new()).ttl(Duration::ZERO).start().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_start_limit_of_nothing_gives_up_and_one_for_ever_does_not() {
    let registry = Scripted::new();
    registry.set(Mood::Down);
    let error = registrar(&registry).start_limit(Duration::ZERO).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let start = tokio::spawn(registrar(&registry).start_limit(FOREVER).start());
    sleep(seconds(100_000)).await;
    registry.set(Mood::Well);
    start.await.unwrap().unwrap().shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_for_ever_lasts_for_ever_after_deregistering() {
    let registry = Scripted::new();
    let running = registrar(&registry).drain(FOREVER).start().await.unwrap();
    assert!(timeout(seconds(100_000), running.shutdown()).await.is_err());
    assert_eq!(registry.weight().await, 0);
    sleep(Duration::from_millis(1)).await;
    // The handle is gone, so nothing is left to wait for.
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_limit_for_ever_waits_for_the_registry_and_one_of_nothing_does_not() {
    let registry = Scripted::new();
    let running = registrar(&registry).shutdown_limit(FOREVER).start().await.unwrap();
    registry.set(Mood::Down);
    let shutdown = tokio::spawn(running.shutdown());
    sleep(seconds(100_000)).await;
    assert!(!shutdown.is_finished());
    registry.set(Mood::Well);
    shutdown.await.unwrap().unwrap();

    let running = registrar(&registry).shutdown_limit(Duration::ZERO).start().await.unwrap();
    registry.set(Mood::Hangs);
    assert_eq!(running.shutdown().await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_ttl_too_short_to_renew_is_refused_and_not_registered_once() {
    for nanos in 0..3 {
        let registry = Scripted::new();
        let error = registrar(&registry).ttl(Duration::from_nanos(nanos)).start().await.unwrap_err();
        assert_eq!((error.kind(), registry.registrations()), (ErrorKind::Invalid, 0), "{nanos} ns");
    }
}
