//! What a watch of one service tells.

use switchboard_core::Change;

use crate::tasks;
use crate::world::World;
use crate::{Backend, Outcome};

/// The first item of a watch comes, even if the service is unknown; it is empty then.
pub async fn first_item_comes_even_when_empty(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "watch::first_item_comes_even_when_empty");
    let handle = world.open().await;
    let service = world.service("nobody");
    let first = handle.watch(&service).first().await;
    world.ensure(first.is_empty() && *first.service() == service, || {
        format!("the first item should have been an empty snapshot of {service:?} and was {first:#?}")
    });
    world.done().await
}

/// The first item of a watch is the state there is: what was registered before is in it.
pub async fn first_item_is_the_current_state(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "watch::first_item_is_the_current_state").await;
    let instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    for handle in [&one, &two] {
        let first = handle.watch(instance.service()).first().await;
        world.ensure(world.seen(&first, &instance).is_some(), || {
            format!("the first item should have held {:?} and was {first:#?}", instance.key())
        });
    }
    world.done().await
}

/// A watch tells of what its own handle registers and deregisters.
pub async fn its_own_handles_changes_are_seen(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "watch::its_own_handles_changes_are_seen");
    let handle = world.open().await;
    let instance = world.instance(&world.service("greeter"));
    let mut watch = handle.watch(instance.service());
    watch.until_empty().await;
    handle.register(&instance).await;
    watch.until("the instance", |now| now.len() == 1).await;
    handle.deregister(&instance.key()).await;
    watch.until_empty().await;
    world.done().await
}

/// Two watches of one service on one handle both tell of an instance coming, changing and going.
pub async fn two_watchers_see_everything(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "watch::two_watchers_see_everything").await;
    let old = world.built(world.builder(&world.service("greeter")).weight(2));
    let new = world.built(old.to_builder().weight(3));
    let mut watches = [two.watch(old.service()), two.watch(old.service())];
    for watch in &mut watches {
        watch.until_empty().await;
    }
    for instance in [&old, &new] {
        one.register(instance).await;
        for watch in &mut watches {
            let wanted = world.profile().carried(instance);
            watch
                .until("the instance as registered", |now| {
                    now.get(wanted.id()).is_some_and(|seen| **seen == wanted)
                })
                .await;
        }
    }
    one.deregister(&old.key()).await;
    for watch in &mut watches {
        watch.until_empty().await;
        let changes = watch.changes();
        let kinds = changes.iter().filter(|change| !matches!(change, Change::Updated { .. })).count();
        world.ensure(kinds == 2, || {
            format!("the instance came once and went once, the watch told {changes:#?}")
        });
    }
    world.done().await
}

/// Dropping one of two watches of a service leaves the other at work, and so does opening a third.
pub async fn dropping_one_watch_leaves_the_other(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "watch::dropping_one_watch_leaves_the_other").await;
    let instance = world.instance(&world.service("greeter"));
    let (mut stays, mut goes) = (two.watch(instance.service()), two.watch(instance.service()));
    stays.first().await;
    goes.first().await;
    drop(goes);
    one.register(&instance).await;
    stays.until("the instance", |now| now.len() == 1).await;
    let mut third = two.watch(instance.service());
    third.first().await;
    drop(third);
    one.deregister(&instance.key()).await;
    stays.until_empty().await;
    world.done().await
}

/// A watch is silent about other services.
pub async fn another_services_changes_are_silent(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "watch::another_services_changes_are_silent").await;
    let here = world.instance(&world.service("greeter"));
    let elsewhere = world.instance(&world.parsed(&format!("{}-2", here.service())));
    one.register(&here).await;
    let mut watch = two.watch(here.service());
    watch.until("the instance", |now| now.len() == 1).await;
    watch.mark();
    one.register(&elsewhere).await;
    watch.rest().await;
    one.deregister(&elsewhere.key()).await;
    watch.rest().await;
    let told = watch.seen();
    world.ensure(told.len() == 1, || format!("another service changed, and the watch told of {told:#?}"));
    world.done().await
}

/// A watcher that does not read while much changes ends on the last state, and is told of no older one after a newer.
pub async fn a_slow_watcher_ends_on_the_last_state(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "watch::a_slow_watcher_ends_on_the_last_state").await;
    let mut instance = world.instance(&world.service("greeter"));
    let mut watch = two.watch(instance.service());
    watch.first().await;
    let burst = u16::try_from(world.profile().burst).unwrap_or(u16::MAX);
    let weightless = world.built(instance.to_builder().weight(2));
    if world.profile().carried(&instance) == world.profile().carried(&weightless) {
        let _ = world.done().await;
        return Outcome::Skipped("weights, by which states are told apart, are not read (Profile::reads)");
    }
    for round in 1..=burst {
        instance = world.built(instance.to_builder().weight(round));
        one.register(&instance).await;
    }
    let round_in =
        |now: &switchboard_core::Snapshot| world.seen(now, &instance).map_or(0, |seen| seen.weight().get());
    watch.until("the last state", |now| round_in(now) == burst).await;
    watch.rest().await;
    let rounds: Vec<u16> = watch.seen().iter().map(round_in).collect();
    world.ensure(rounds.is_sorted() && rounds.last() == Some(&burst), || {
        format!("the watch told of rounds {rounds:?}, which should have grown and ended on {burst}")
    });
    world.done().await
}

/// Dropping a watch stops the work behind it: no task stays alive on the runtime.
///
/// Counts the tasks of the runtime it runs on, so it should have that runtime for itself.
pub async fn a_dropped_watch_leaves_no_task(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "watch::a_dropped_watch_leaves_no_task").await;
    let instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    // What all watches share comes into being with the first.
    two.watch(&world.service("nobody")).first().await;
    let before = tasks::alive();
    for n in 0..tasks::WATCHES {
        let other = world.service(&format!("nobody-{n}"));
        two.watch(if n % 2 == 0 { instance.service() } else { &other }).first().await;
    }
    tasks::gone(&world, before, &format!("{} watches were dropped", tasks::WATCHES)).await;
    world.done().await
}
