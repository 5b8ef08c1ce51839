//! On a registry that can only be read, since the platform registers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use switchboard_registrar::{CheckError, Status};
use tokio::time::sleep;

use crate::support::{Call, Mood, Scripted, instance, is_withdrawn, registrar, seconds, until};

fn is_read_only(status: &Status) -> bool {
    matches!(status, Status::ReadOnly { registered_by, .. } if &**registered_by == "the platform")
}

#[tokio::test(start_paused = true)]
async fn the_registrar_stays_up_and_says_that_the_platform_registers() {
    let registry = Scripted::new();
    registry.set(Mood::ReadOnly);
    let running = registrar(&registry).start().await.unwrap();
    let status = running.status();
    assert!(is_read_only(&status) && status.is_ready(), "{status}");
    assert_eq!(
        status.to_string(),
        "not registered here: the registry can only be read, and the platform registers"
    );
    let mut told = running.watch_status();
    told.mark_unchanged();
    sleep(seconds(600)).await;
    assert!(!told.has_changed().unwrap(), "nothing changes, so nothing is told");
    assert!((20..=41).contains(&registry.registrations()), "asked again at each interval, no more");
    running.update(instance().to_builder().weight(7).build().unwrap()).await.unwrap();
    assert_eq!(running.instance().weight().get(), 7);
    running.shutdown().await.unwrap();
    assert!(matches!(*told.borrow(), Status::Stopped));
    assert_eq!(registry.calls().last(), Some(&Call::Deregister));
}

#[tokio::test(start_paused = true)]
async fn its_checks_still_run_and_are_told() {
    let registry = Scripted::new();
    registry.set(Mood::ReadOnly);
    let well = Arc::new(AtomicBool::new(true));
    let check = well.clone();
    let running = registrar(&registry)
        .check(move || {
            let well = check.load(Relaxed);
            async move { if well { Ok::<_, CheckError>(()) } else { Err("no disk".into()) } }
        })
        .start()
        .await
        .unwrap();
    well.store(false, Relaxed);
    let failing = until(&running, |status| matches!(status, Status::ReadOnly { check: Some(_), .. })).await;
    assert!(failing.is_ready(), "one failure is told, and no more");
    let withdrawn = until(&running, is_withdrawn).await;
    assert!(!withdrawn.is_ready() && withdrawn.to_string().contains("no disk"), "{withdrawn}");
    well.store(true, Relaxed);
    assert!(until(&running, is_read_only).await.is_ready());
    running.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_registrations_later_gets_it() {
    let registry = Scripted::new();
    registry.set(Mood::ReadOnly);
    let running = registrar(&registry).start().await.unwrap();
    registry.set(Mood::Well);
    until(&running, crate::support::is_registered).await;
    assert!(registry.is_listed(&instance()).await);
    running.shutdown().await.unwrap();
    assert!(!registry.is_listed(&instance()).await);
}
