//! The names of services, listed and watched.

use switchboard_core::ErrorKind;

use crate::tasks;
use crate::world::World;
use crate::{Backend, Outcome};

const NO_LIST: Outcome = Outcome::Skipped("there is no list of names (Profile::lists)");

/// A service's name appears with its first instance, in `watch_services` and then in `services`.
///
/// Where there is no list of names ([`Profile::lists`](crate::Profile::lists)), both must say so as `Unsupported`.
pub async fn a_name_comes_with_the_first_instance(backend: &dyn Backend) -> Outcome {
    if !backend.profile().lists {
        let mut world = World::new(backend, "services::a_name_comes_with_the_first_instance");
        let handle = world.open().await;
        handle.must_fail("services", ErrorKind::Unsupported, handle.try_services().await);
        handle.watch_services().refused(ErrorKind::Unsupported).await;
        let _ = world.done().await;
        return NO_LIST;
    }
    let (world, one, two) = World::two(backend, "services::a_name_comes_with_the_first_instance").await;
    let instance = world.instance(&world.service("greeter"));
    let name = instance.service();
    let mut watch = two.watch_services();
    let first = watch.first().await;
    world.ensure(!first.contains(name), || format!("{name:?} is in {first:?} before it was registered"));
    one.register(&instance).await;
    watch.until("the new name", |now| now.contains(name)).await;
    let names = two.services().await;
    world.ensure(names.contains(name), || format!("services should have held {name:?} and gave {names:?}"));
    world.done().await
}

/// A service's name goes with its last instance, and not before.
pub async fn a_name_goes_with_the_last_instance(backend: &dyn Backend) -> Outcome {
    if !backend.profile().lists {
        return NO_LIST;
    }
    let (world, one, two) = World::two(backend, "services::a_name_goes_with_the_last_instance").await;
    let service = world.service("greeter");
    let (first, last) = (world.instance(&service), world.instance(&service));
    one.register(&first).await;
    one.register(&last).await;
    let mut instances = two.watch(&service);
    instances.until("both instances", |now| now.len() == 2).await;
    let mut watch = two.watch_services();
    watch.until("the name", |now| now.contains(&service)).await;
    one.deregister(&first.key()).await;
    instances.until("one instance", |now| now.len() == 1).await;
    let names = two.services().await;
    world.ensure(names.contains(&service), || {
        format!("{service:?} still has an instance, and services gave {names:?}")
    });
    one.deregister(&last.key()).await;
    watch.until("the name gone", |now| !now.contains(&service)).await;
    let names = two.services().await;
    world.ensure(!names.contains(&service), || {
        format!("{service:?} has no instance left, and services gave {names:?}")
    });
    let comings = coming(watch.seen().iter().map(|now| now.contains(&service)));
    world.ensure(comings == 1, || format!("the name came once, the watch told of it {comings} times"));
    world.done().await
}

/// The first item of `watch_services` comes at once and holds the names there are.
pub async fn first_item_is_the_current_set(backend: &dyn Backend) -> Outcome {
    if !backend.profile().lists {
        return NO_LIST;
    }
    let (world, one, two) = World::two(backend, "services::first_item_is_the_current_set").await;
    two.watch_services().first().await;
    let instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    two.watch_services().until("the name", |now| now.contains(instance.service())).await;
    let first = two.watch_services().first().await;
    world.ensure(first.contains(instance.service()), || {
        format!("the first item should have held {:?} and was {first:?}", instance.service())
    });
    world.done().await
}

/// `watch_services` never tells the same set twice in a row: more instances of a known name are no news.
pub async fn equal_sets_are_not_repeated(backend: &dyn Backend) -> Outcome {
    if !backend.profile().lists {
        return NO_LIST;
    }
    let (world, one, two) = World::two(backend, "services::equal_sets_are_not_repeated").await;
    let service = world.service("greeter");
    one.register(&world.instance(&service)).await;
    let mut watch = two.watch_services();
    watch.until("the name", |now| now.contains(&service)).await;
    let more = world.instance(&service);
    one.register(&more).await;
    one.register(&more).await;
    one.deregister(&more.key()).await;
    // Whatever the watch tells from here to the next name must differ from what it told before; reading checks that.
    let marker = world.instance(&world.service("marker"));
    one.register(&marker).await;
    watch.until("another name", |now| now.contains(marker.service())).await;
    world.done().await
}

/// Dropping a watch of the names stops the work behind it: no task stays alive on the runtime.
///
/// Counts the tasks of the runtime it runs on, so it should have that runtime for itself.
pub async fn a_dropped_watch_leaves_no_task(backend: &dyn Backend) -> Outcome {
    if !backend.profile().lists {
        return NO_LIST;
    }
    let mut world = World::new(backend, "services::a_dropped_watch_leaves_no_task");
    let handle = world.open().await;
    handle.watch_services().first().await;
    let before = tasks::alive();
    for _ in 0..tasks::WATCHES {
        handle.watch_services().first().await;
    }
    tasks::gone(&world, before, &format!("{} watches of the names were dropped", tasks::WATCHES)).await;
    world.done().await
}

/// How often a thing came, given whether it was there each time.
fn coming(there: impl Iterator<Item = bool>) -> usize {
    let mut before = false;
    there.filter(|&now| !std::mem::replace(&mut before, now) && now).count()
}
