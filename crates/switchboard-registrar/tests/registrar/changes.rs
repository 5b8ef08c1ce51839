//! Changing a live registration.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use switchboard_core::{ErrorKind, Instance, Registry};
use switchboard_registrar::Status;
use tokio::time::{Instant, sleep};

use crate::support::{Mood, Scripted, instance, is_registered, is_withdrawn, registrar, seconds, until};

fn weighing(weight: u16) -> Instance {
    instance().to_builder().weight(weight).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_change_is_there_at_once_and_without_a_gap() {
    let registry = Scripted::new();
    let running = registrar(&registry).start().await.unwrap();
    let since = running.status().to_string();
    let mut seen = registry.memory.watch(instance().service());
    assert_eq!(seen.next().await.unwrap().unwrap().all().len(), 1);

    let builder = running.instance().to_builder().weight(7).metadata("zone", "b").clear_tags().tag("hot");
    let changed = builder.clear_addresses().address("h:2").build().unwrap();
    let before = Instant::now();
    running.update(changed.clone()).await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(seen.next().await.unwrap().unwrap().all(), [Arc::new(changed.clone())], "nothing between");
    assert_eq!((running.instance(), running.status().to_string()), (changed, since));

    sleep(seconds(100)).await;
    assert!(registry.registrations() > 4);
    assert_eq!(registry.weight().await, 7, "renewals keep it");
    running.shutdown().await.unwrap();
    assert_eq!(registry.weight().await, 0);
}

#[tokio::test(start_paused = true)]
async fn another_key_is_refused() {
    let registry = Scripted::new();
    let running = registrar(&registry).start().await.unwrap();
    let other = Instance::builder("greeter").id("2").address("h:1").build().unwrap();
    let refused = running.update(other).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "registrar: update: invalid input: instance greeter/2: is another one than greeter/1, which is registered"
    );
    assert_eq!((running.instance(), registry.registrations()), (instance(), 1));
}

#[tokio::test(start_paused = true)]
async fn of_many_at_once_the_last_stands() {
    let registry = Scripted::new();
    let running = registrar(&registry).start().await.unwrap();
    registry.set(Mood::Slow(seconds(1)));
    let all = join_all((2..=20).map(|weight| running.update(weighing(weight)))).await;
    assert!(all.into_iter().all(|updated| updated.is_ok()));
    assert_eq!(registry.weight().await, 20);
    sleep(seconds(100)).await;
    assert_eq!(registry.weight().await, 20);
}

#[tokio::test(start_paused = true)]
async fn it_comes_after_the_renewal_in_flight() {
    let registry = Scripted::new();
    let running = registrar(&registry).interval(seconds(10)).start().await.unwrap();
    registry.set(Mood::Slow(seconds(5)));
    let in_flight = registry.registrations() + 1;
    while registry.registrations() < in_flight {
        sleep(Duration::from_millis(100)).await;
    }
    running.update(weighing(3)).await.unwrap();
    let times = registry.times();
    assert_eq!(times[times.len() - 1] - times[times.len() - 2], seconds(5));
    assert_eq!(registry.weight().await, 3);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_is_told_and_tried_again() {
    let registry = Scripted::new();
    let running = registrar(&registry).interval(seconds(10)).start().await.unwrap();
    registry.set(Mood::Down);
    assert_eq!(running.update(weighing(3)).await.unwrap_err().message(), "is down");
    assert!(matches!(running.status(), Status::Failing { .. }));
    sleep(seconds(1)).await;
    let tried = registry.registrations();
    assert!(tried > 3, "it is not the next renewal that tries again: {tried}");
    registry.set(Mood::Well);
    until(&running, is_registered).await;
    assert_eq!(registry.weight().await, 3);
}

#[tokio::test(start_paused = true)]
async fn one_that_the_registry_calls_invalid_changes_nothing() {
    let registry = Scripted::new();
    let running = registrar(&registry).interval(seconds(10)).start().await.unwrap();
    running.update(weighing(2)).await.unwrap();
    registry.set(Mood::Invalid);
    assert_eq!(running.update(weighing(3)).await.unwrap_err().kind(), ErrorKind::Invalid);
    registry.set(Mood::Well);
    assert!(is_registered(&running.status()));
    assert_eq!(running.instance(), weighing(2));
    let before = registry.registrations();
    sleep(seconds(10)).await;
    assert!(registry.registrations() > before, "renewals go on");
    assert_eq!(registry.weight().await, 2);
}

#[tokio::test(start_paused = true)]
async fn while_withdrawn_it_is_kept_for_the_return() {
    let registry = Scripted::new();
    let well = Arc::new(AtomicBool::new(false));
    let check = well.clone();
    let check = move || {
        let well = check.load(Relaxed);
        async move {
            sleep(seconds(2)).await;
            if well { Ok(()) } else { Err("not yet") }
        }
    };
    let running = registrar(&registry).check(check).start_in_background().unwrap();
    running.update(weighing(2)).await.unwrap();
    assert_eq!(running.status().to_string(), "registering", "before the first check, too");
    until(&running, is_withdrawn).await;
    let calls = registry.calls();
    running.update(weighing(3)).await.unwrap();
    assert_eq!((registry.calls(), running.instance()), (calls, weighing(3)));
    sleep(seconds(100)).await;
    assert_eq!((registry.registrations(), running.instance()), (0, weighing(3)));
    well.store(true, Relaxed);
    until(&running, is_registered).await;
    assert_eq!(registry.weight().await, 3);
}

#[tokio::test(start_paused = true)]
async fn changes_put_off_no_check_and_no_withdrawal() {
    let registry = Scripted::new();
    let failing = || async { Err::<(), _>("never") };
    let running = registrar(&registry).check(failing).start().await.unwrap();
    for weight in 1..100 {
        running.update(weighing(weight)).await.unwrap();
        sleep(seconds(1)).await;
    }
    assert_eq!(registry.registrations(), 0);
    let told = registry.deregistrations();
    assert!((4..=8).contains(&told), "at each interval again: {told}");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_given_up_leaves_the_task_well() {
    let registry = Scripted::new();
    let running = registrar(&registry).start().await.unwrap();
    registry.set(Mood::Slow(seconds(3)));
    for weight in 2..6 {
        let given_up = tokio::time::timeout(seconds(1), running.update(weighing(weight))).await;
        assert!(given_up.is_err());
    }
    running.update(weighing(9)).await.unwrap();
    sleep(seconds(100)).await;
    assert_eq!(registry.weight().await, 9);
    running.shutdown().await.unwrap();
    assert_eq!(registry.weight().await, 0);
}

#[tokio::test(start_paused = true)]
async fn one_kept_for_the_return_that_the_registry_calls_invalid_gives_way_to_the_last_it_took() {
    let registry = Scripted::new();
    let well = Arc::new(AtomicBool::new(true));
    let check = well.clone();
    let check = move || {
        let well = check.load(Relaxed);
        async move { if well { Ok(()) } else { Err("not now") } }
    };
    let running = registrar(&registry).check(check).start().await.unwrap();
    running.update(weighing(2)).await.unwrap();
    well.store(false, Relaxed);
    until(&running, is_withdrawn).await;
    registry.set(Mood::InvalidWeight(3));
    running.update(weighing(3)).await.unwrap();
    well.store(true, Relaxed);
    until(&running, is_registered).await;
    assert_eq!((registry.weight().await, running.instance()), (2, weighing(2)));
    sleep(seconds(3600)).await;
    assert_eq!((registry.weight().await, running.status().is_ready()), (2, true));
}

#[tokio::test(start_paused = true)]
async fn one_that_failed_and_is_invalid_when_tried_again_gives_way_too() {
    let registry = Scripted::new();
    let running = registrar(&registry).start().await.unwrap();
    registry.set(Mood::Down);
    running.update(weighing(3)).await.unwrap_err();
    registry.set(Mood::InvalidWeight(3));
    until(&running, is_registered).await;
    assert_eq!((registry.weight().await, running.instance()), (1, instance()));
}

#[tokio::test(start_paused = true)]
async fn an_invalid_instance_with_nothing_before_it_is_tried_again_at_leisure() {
    let registry = Scripted::new();
    registry.set(Mood::Invalid);
    let running = registrar(&registry).start_in_background().unwrap();
    sleep(seconds(300)).await;
    let tried = registry.registrations();
    assert!((5..30).contains(&tried), "{tried}");
    registry.set(Mood::Well);
    until(&running, is_registered).await;
}
