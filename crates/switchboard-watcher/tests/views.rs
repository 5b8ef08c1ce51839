//! Views and the task behind them, on a paused clock.

#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use support::{Scripted, instance, name, settle, snapshot, unavailable};
use switchboard_core::{Change, Error, ErrorKind, MemoryRegistry, RegisterOptions, Registry};
use switchboard_watcher::{Backoff, Directory, Freshness, MassRemoval, View};
use tokio::time::{Instant, advance};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[tokio::test(start_paused = true)]
async fn many_callers_share_one_watch() {
    let registry = Scripted::new();
    let directory = Directory::new(registry.clone());
    let views: Vec<_> = (0..100).map(|_| directory.service("a").unwrap()).collect();
    let ready = futures::future::join_all(views.iter().map(View::ready));
    let speak = async {
        settle().await;
        registry.say(Ok(snapshot("a", &["1"])));
    };
    let (snapshots, ()) = futures::join!(ready, speak);
    assert!(snapshots.into_iter().all(|ready| ready.unwrap().len() == 1));
    assert_eq!((registry.watches(), directory.watched()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_watch_lingers_after_the_last_view_and_no_longer() {
    let registry = Scripted::new();
    let directory = Directory::builder(registry.clone()).linger(seconds(60)).build();
    let view = directory.service("a").unwrap();
    let clone = view.clone();
    registry.say(Ok(snapshot("a", &["1"])));
    view.ready().await.unwrap();
    drop(view);
    advance(seconds(120)).await;
    settle().await;
    assert_eq!(registry.listeners(), 1, "a clone is left");

    drop(clone);
    settle().await;
    advance(seconds(59)).await;
    settle().await;
    assert_eq!(directory.service("a").unwrap().snapshot().unwrap().len(), 1, "still warm");
    settle().await;
    advance(seconds(59)).await;
    settle().await;
    assert_eq!((registry.listeners(), registry.watches()), (1, 1), "the time began anew");
    advance(seconds(2)).await;
    settle().await;
    assert_eq!((registry.listeners(), directory.watched()), (0, 0));
    assert!(directory.service("a").unwrap().snapshot().is_none(), "cold again");
}

#[tokio::test(start_paused = true)]
async fn too_many_idle_services_do_not_linger() {
    let registry = Scripted::new();
    let directory = Directory::builder(registry.clone()).max_idle(10).build();
    for index in 0..100 {
        directory.service(format!("s{index}")).unwrap();
    }
    settle().await;
    assert_eq!((directory.watched(), registry.listeners()), (10, 10));
    // One that is looked at again is not idle, so there is room for another.
    let views: Vec<_> = (0..5).map(|index| directory.service(format!("s{index}")).unwrap()).collect();
    for index in 100..110 {
        directory.service(format!("s{index}")).unwrap();
    }
    assert_eq!(directory.watched(), 15);
    drop(views);
    assert_eq!(directory.watched(), 10);
    // Time to linger over: none is left, and there is room for ten again.
    tokio::time::sleep(seconds(61)).await;
    assert_eq!(directory.watched(), 0);
    for index in 0..20 {
        directory.service(format!("s{index}")).unwrap();
    }
    assert_eq!(directory.watched(), 10);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_directory_and_its_views_ends_the_tasks() {
    let registry = Scripted::new();
    let directory = Directory::new(registry.clone());
    let view = directory.service("a").unwrap();
    drop(directory);
    settle().await;
    registry.say(Ok(snapshot("a", &["1"])));
    assert_eq!(view.ready().await.unwrap().len(), 1, "a view keeps its directory");
    drop(view);
    settle().await;
    assert_eq!(registry.listeners(), 0, "nobody is left to linger for");
}

#[tokio::test(start_paused = true)]
async fn ready_waits_for_a_snapshot_through_errors_but_not_for_ever() {
    let registry = Scripted::new();
    let directory = Directory::builder(registry.clone()).ready_timeout(seconds(5)).build();
    let view = directory.service("a").unwrap();
    let silent = view.ready().await.unwrap_err();
    assert_eq!(silent.to_string(), "directory: ready: unavailable: no snapshot of \"a\" within 5s");
    // From now on nobody waits for what is known.
    registry.say(Err(unavailable("no route")));
    settle().await;
    let begun = Instant::now();
    assert_eq!(view.ready().await.unwrap_err().message(), "no route");
    assert_eq!(begun.elapsed(), Duration::ZERO);

    let registry = Scripted::new();
    registry.say(Err(unavailable("no route")));
    let view = Directory::builder(registry.clone()).ready_timeout(seconds(5)).build().service("a").unwrap();
    let recover = async {
        tokio::time::sleep(seconds(4)).await;
        registry.say(Ok(snapshot("a", &[])));
    };
    let (ready, ()) = futures::join!(view.ready(), recover);
    assert!(ready.unwrap().is_empty(), "an unknown service is an empty snapshot");
}

#[tokio::test(start_paused = true)]
async fn ready_gives_up_at_once_where_waiting_is_no_cure() {
    let registry = Scripted::new();
    registry.say(Err(Error::new(ErrorKind::PermissionDenied, "scripted", "watch", "no rights")));
    let started = Instant::now();
    let view = Directory::new(registry).service("a").unwrap();
    assert_eq!(view.ready().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_outage_keeps_the_last_good_and_tells_since_when_and_why() {
    let registry = Scripted::new();
    let cap = seconds(30);
    let directory =
        Directory::builder(registry.clone()).backoff(Backoff::new(Duration::from_millis(100), cap)).build();
    let view = directory.service("a").unwrap();
    assert!(matches!(view.status().freshness, Freshness::Pending));
    registry.say(Ok(snapshot("a", &["1"])));
    view.ready().await.unwrap();
    assert_eq!(view.status().age(), Some(Duration::ZERO));

    let down = Instant::now();
    for second in 0..cap.as_secs() * 10 {
        registry.say(Err(unavailable(&format!("try {second}"))));
        settle().await;
        advance(seconds(1)).await;
        settle().await;
        assert_eq!(view.snapshot().unwrap().len(), 1);
    }
    let Freshness::Stale { since, error } = view.status().freshness else { panic!("{view:?}") };
    assert_eq!(since, down);
    assert!(error.message().starts_with("try "));
    assert_eq!(view.status().age(), Some(down.elapsed()));

    registry.say(Ok(snapshot("a", &["1", "2"])));
    let back = Instant::now();
    let mut view = view;
    while view.snapshot().unwrap().len() == 1 {
        view.changed().await;
    }
    assert!(back.elapsed() <= seconds(1), "{:?}", back.elapsed());
    assert!(view.status().is_fresh());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_watched_again_with_backoff() {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &["1"])));
    let directory = Directory::new(registry.clone());
    let mut view = directory.service("a").unwrap();
    view.ready().await.unwrap();
    registry.end();
    let started = Instant::now();
    tokio::time::sleep(seconds(100)).await;
    assert!(view.status().error().unwrap().message().contains("stream ended"));
    let tries = registry.watches();
    assert!((100..=220).contains(&tries), "{tries} tries in {:?}", started.elapsed());

    registry.mend();
    registry.say(Ok(snapshot("a", &["1", "2"])));
    let back = Instant::now();
    while view.snapshot().unwrap().len() == 1 {
        view.changed().await;
    }
    assert!(back.elapsed() <= seconds(1), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_only_errs_does_not_spin() {
    let registry = Scripted::new();
    let directory = Directory::new(registry.clone());
    let mut view = directory.service("a").unwrap();
    settle().await;
    for count in 0..1_000 {
        registry.say(Err(unavailable(&count.to_string())));
    }
    let started = Instant::now();
    while view.status().error().is_none_or(|error| error.message() != "99") {
        view.changed().await;
    }
    assert!(started.elapsed() > seconds(20), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_last_good_is_dropped_when_it_is_too_old() {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &["1"])));
    let directory = Directory::builder(registry.clone()).max_age(seconds(60)).build();
    let view = directory.service("a").unwrap();
    view.ready().await.unwrap();
    registry.say(Err(unavailable("down")));
    settle().await;
    advance(seconds(59)).await;
    settle().await;
    assert!(view.snapshot().is_some());
    advance(seconds(1)).await;
    settle().await;
    assert!(view.snapshot().is_none());
    assert!(view.status().error().is_some());
    registry.say(Ok(snapshot("a", &["1"])));
    settle().await;
    assert_eq!(view.ready().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_view_is_fresh_again_after_an_outage_in_which_nothing_changed() {
    let memory = MemoryRegistry::new();
    memory.register(&instance("a", "1"), &RegisterOptions::new()).await.unwrap();
    let registry = std::sync::Arc::new(memory.handle());
    let directory = Directory::builder(registry.clone()).max_age(seconds(60)).build();
    let view = directory.service("a").unwrap();
    view.ready().await.unwrap();
    let updated = view.status().updated;
    for _ in 0..3 {
        registry.fail(unavailable("down"));
        settle().await;
        assert!(view.status().error().is_some());
        advance(seconds(50)).await;
        registry.heal();
        // The rest that a stream is given after an error.
        tokio::time::sleep(seconds(1)).await;
        assert!(view.status().is_fresh() && view.status().age() == Some(Duration::ZERO));
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(view.snapshot().unwrap().len(), 1, "a registry that is heard is believed at any age");
        assert_eq!(view.status().updated, updated, "and nothing changed");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_held_back_is_shown_in_an_outage_and_the_view_stays_stale() {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &["1", "2", "3"])));
    let directory =
        Directory::builder(registry.clone()).mass_removal(MassRemoval::more_than(0.5, seconds(30))).build();
    let view = directory.service("a").unwrap();
    view.ready().await.unwrap();
    registry.say(Ok(snapshot("a", &["1"])));
    settle().await;
    registry.say(Err(unavailable("down")));
    let down = Instant::now();
    settle().await;
    assert!(view.status().held_back.is_some());
    tokio::time::sleep(seconds(31)).await;
    assert_eq!(view.snapshot().unwrap().len(), 1, "the hold is over");
    assert_eq!(view.status().held_back, None);
    let Freshness::Stale { since, error } = view.status().freshness else { panic!("{view:?}") };
    assert_eq!((since, error.message()), (down, "down"));
    registry.say(Ok(snapshot("a", &["1"])));
    settle().await;
    assert!(view.status().is_fresh());
}

#[tokio::test(start_paused = true)]
async fn durations_of_any_length_are_taken() {
    let almost = Duration::from_secs(i64::MAX.unsigned_abs() - 10_000_000_000);
    for long in [Duration::MAX, almost] {
        let registry = Scripted::new();
        let directory = Directory::builder(registry.clone())
            .linger(long)
            .max_age(long)
            .ready_timeout(long)
            .backoff(Backoff::new(long, long))
            .mass_removal(MassRemoval::more_than(0.5, long))
            .build();
        let view = directory.service("a").unwrap();
        let speak = async {
            settle().await;
            registry.say(Ok(snapshot("a", &["1", "2", "3"])));
        };
        let (ready, ()) = futures::join!(view.ready(), speak);
        assert_eq!(ready.unwrap().len(), 3);
        registry.say(Ok(snapshot("a", &[])));
        settle().await;
        assert!(view.status().held_back.is_some());
        registry.say(Err(unavailable("down")));
        tokio::time::sleep(seconds(3600)).await;
        assert_eq!(view.snapshot().unwrap().len(), 3);
        registry.say(Err(unavailable("down still")));
        tokio::time::sleep(seconds(1)).await;
        registry.end();
        tokio::time::sleep(seconds(3600)).await;
        assert!(view.status().error().unwrap().message().contains("ended") && !view.is_closed());
        drop(view);
        tokio::time::sleep(seconds(3600)).await;
        assert_eq!(directory.watched(), 1, "lingers");
    }
}

#[tokio::test(start_paused = true)]
async fn mass_removal_is_held_back_for_a_bounded_time() {
    let registry = Scripted::new();
    let all = ["1", "2", "3", "4", "5"];
    registry.say(Ok(snapshot("a", &all)));
    let directory =
        Directory::builder(registry.clone()).mass_removal(MassRemoval::more_than(0.5, seconds(30))).build();
    let view = directory.service("a").unwrap();
    view.ready().await.unwrap();
    let now = async || {
        settle().await;
        view.snapshot().unwrap().len()
    };

    registry.say(Ok(snapshot("a", &["1"])));
    assert_eq!(now().await, 5);
    let held = view.status().held_back.unwrap();
    assert_eq!((held.removed, held.until), (4, Instant::now() + seconds(30)));
    advance(seconds(20)).await;
    registry.say(Ok(snapshot("a", &[])));
    assert_eq!(now().await, 5);
    assert_eq!(view.status().held_back.unwrap().until, held.until, "news does not prolong it");
    advance(seconds(10)).await;
    assert_eq!(now().await, 0, "the latest is applied in the end");
    assert_eq!(view.status().held_back, None);

    registry.say(Ok(snapshot("a", &all)));
    assert_eq!(now().await, 5);
    registry.say(Ok(snapshot("a", &["1", "2"])));
    assert_eq!(now().await, 5);
    registry.say(Ok(snapshot("a", &["1", "2", "3", "4"])));
    assert_eq!(now().await, 4, "it was a passing trouble");
    assert_eq!(view.status().held_back, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_back_is_not_shown_when_it_is_too_old() {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &["1", "2", "3"])));
    let rule = MassRemoval::more_than(0.5, seconds(100));
    let builder = Directory::builder(registry.clone()).mass_removal(rule).max_age(seconds(60));
    let mut view = builder.build().service("a").unwrap();
    view.ready().await.unwrap();
    registry.say(Ok(snapshot("a", &["1"])));
    settle().await;
    assert!(view.status().held_back.is_some());
    registry.say(Err(unavailable("down")));
    settle().await;
    advance(seconds(60)).await;
    settle().await;
    assert_eq!((view.snapshot(), view.status().held_back), (None, None));
    view.changed().await;
    advance(seconds(60)).await;
    settle().await;
    assert!(view.changed().now_or_never().is_none(), "not even for a moment");
}

#[tokio::test(start_paused = true)]
async fn changes_begin_with_what_is_there_and_end_with_the_view() {
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &["1", "2"])));
    let directory = Directory::new(registry.clone());
    let view = directory.service("a").unwrap();
    view.ready().await.unwrap();
    let mut changes = Box::pin(view.changes());
    let mut next =
        async || format!("{:?}", changes.next().await.map(|change| (change.id().clone(), kind(&change))));
    assert_eq!(next().await, r#"Some(("1", "added"))"#);
    assert_eq!(next().await, r#"Some(("2", "added"))"#);
    let changed = instance("a", "2").to_builder().version("2").build().unwrap();
    let newer = [changed, instance("a", "3")];
    registry.say(Ok(switchboard_core::Snapshot::new(name("a"), newer)));
    assert_eq!(next().await, r#"Some(("1", "removed"))"#);
    assert_eq!(next().await, r#"Some(("2", "updated"))"#);
    assert_eq!(next().await, r#"Some(("3", "added"))"#);
    directory.close();
    assert_eq!(next().await, "None");
    assert!(matches!(view.status().freshness, Freshness::Closed));
    assert_eq!(view.snapshot().unwrap().len(), 2, "what was known stays");
    assert_eq!(directory.service("a").unwrap_err().kind(), ErrorKind::Closed);
}

fn kind(change: &Change) -> &'static str {
    match change {
        Change::Added(_) => "added",
        Change::Updated { .. } => "updated",
        Change::Removed(_) => "removed",
    }
}

#[tokio::test(start_paused = true)]
async fn hints_are_bounded_and_never_wait() {
    for closes in [true, false] {
        let registry = Scripted::new();
        registry.hang_on_suspects();
        let directory = Directory::new(registry.clone());
        let hint = |id: u32| directory.suspect(&instance("a", &id.to_string()).key());
        assert_eq!((0..1_000).filter(|&id| hint(id)).count(), 64);
        tokio::time::sleep(seconds(7)).await;
        assert_eq!(registry.suspects().len(), 2, "each has its limit of 5 s");
        if closes {
            directory.close();
            assert!(!hint(0));
        } else {
            drop(directory);
        }
        tokio::time::sleep(seconds(60)).await;
        assert_eq!(registry.suspects().len(), 2, "those on their way end with the directory");
    }
}

#[tokio::test]
async fn a_closed_registry_closes_its_views() {
    let registry = MemoryRegistry::new();
    let directory = Directory::new(registry.handle());
    registry.register(&instance("a", "1"), &RegisterOptions::new()).await.unwrap();
    let mut view = directory.service("a").unwrap();
    assert_eq!(view.ready().await.unwrap().len(), 1);
    directory.registry().close().await.unwrap();
    while !matches!(view.status().freshness, Freshness::Closed) {
        view.changed().await;
    }
    assert_eq!(view.snapshot().unwrap().len(), 1);
    assert_eq!(directory.watched(), 0);
}

#[test]
fn without_a_runtime_it_says_so() {
    let error = Directory::new(MemoryRegistry::new()).service("a").unwrap_err();
    assert_eq!(
        error.to_string(),
        "directory: service: unsupported: called outside a tokio runtime; call it from `#[tokio::main]` or `Runtime::block_on`, or \
         keep the guard of `Runtime::enter` meanwhile"
    );
    assert!(Directory::new(MemoryRegistry::new()).service("").is_err());
}
