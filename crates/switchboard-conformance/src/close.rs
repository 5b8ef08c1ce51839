//! What closing a handle does.

use futures::future::{OptionFuture, join, join3};
use switchboard_core::{ErrorKind, Instance, RegisterOptions};

use crate::follow::Follow;
use crate::tasks;
use crate::world::{Handle, ONLY_READ, World, is_only_read};
use crate::{Backend, Outcome};

/// Closing deregisters what this handle registered, of every service, and nothing that another handle did.
pub async fn deregisters_its_own_and_only_that(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let (world, one, two) = World::two(backend, "close::deregisters_its_own_and_only_that").await;
    let (service, other) = (world.service("greeter"), world.service("farewell"));
    let (own, own_other, foreign) =
        (world.instance(&service), world.instance(&other), world.instance(&service));
    one.register(&own).await;
    one.register(&own_other).await;
    two.register(&foreign).await;
    let (mut watch, mut watch_other) = (two.watch(&service), two.watch(&other));
    watch.until("both instances", |now| now.len() == 2).await;
    watch_other.until("the instance", |now| now.len() == 1).await;
    watch.mark();
    watch.during(one.close()).await;
    watch.until("the closed handle's instance gone", |now| now.get(own.id()).is_none()).await;
    watch_other.until_empty().await;
    watch.rest().await;
    watch.never_missed(&foreign);
    two.finds(&foreign).await;
    world.done().await
}

/// Closing again does nothing and succeeds.
pub async fn closing_twice_succeeds(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "close::closing_twice_succeeds").await;
    let instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    one.close().await;
    one.close().await;
    left_as_it_should_be(&world, &two, &instance).await;
    world.done().await
}

/// What the closed handle registered goes; what was written beside it stays.
async fn left_as_it_should_be(world: &World<'_>, other: &Handle<'_>, instance: &Instance) {
    if world.is_only_read().await {
        other.finds(instance).await;
    } else {
        other.watch(instance.service()).until_empty().await;
    }
}

/// Two calls of `close` at the same time both succeed.
pub async fn closing_twice_at_once_succeeds(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "close::closing_twice_at_once_succeeds").await;
    let instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    join(one.close(), one.close()).await;
    left_as_it_should_be(&world, &two, &instance).await;
    world.done().await
}

/// Every call on a closed handle says `Closed` and does nothing; `suspect`, which never fails, does nothing.
pub async fn every_call_says_closed(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "close::every_call_says_closed").await;
    let instance = world.instance(&world.service("greeter"));
    let foreign = world.instance(&world.service("farewell"));
    two.register(&foreign).await;
    one.close().await;
    let registered = one.try_register(&instance, &RegisterOptions::new()).await;
    one.must_fail("register on a closed handle", ErrorKind::Closed, registered);
    let deregistered = one.try_deregister(&foreign.key()).await;
    one.must_fail("deregister on a closed handle", ErrorKind::Closed, deregistered);
    one.must_fail("lookup on a closed handle", ErrorKind::Closed, one.try_lookup(foreign.service()).await);
    one.must_fail("services on a closed handle", ErrorKind::Closed, one.try_services().await);
    one.suspect(&foreign.key()).await;
    two.finds_nothing_of(instance.service()).await;
    two.finds(&foreign).await;
    world.done().await
}

/// Watches that are waiting when their handle is closed say `Closed` once, and end.
pub async fn open_watches_say_closed_and_end(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "close::open_watches_say_closed_and_end");
    let handle = world.open().await;
    let (mut watch, mut names) = (handle.watch(&world.service("greeter")), handle.watch_listed());
    watch.first().await;
    if let Some(names) = &mut names {
        names.first().await;
    }
    let names = OptionFuture::from(names.map(Follow::closed));
    join3(watch.closed(), names, handle.close()).await;
    world.done().await
}

/// Watches of a handle that is already closed say `Closed` once, and end.
pub async fn new_watches_say_closed_and_end(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "close::new_watches_say_closed_and_end");
    let handle = world.open().await;
    handle.close().await;
    handle.watch(&world.service("greeter")).closed().await;
    handle.watch_services().closed().await;
    world.done().await
}

/// Another handle on the same world is not touched: its watches go on, and it registers and finds.
pub async fn the_other_handle_goes_on(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "close::the_other_handle_goes_on").await;
    let instance = world.instance(&world.service("greeter"));
    let (mut watch, mut names) = (two.watch(instance.service()), two.watch_listed());
    watch.first().await;
    if let Some(names) = &mut names {
        names.first().await;
    }
    one.watch(instance.service()).first().await;
    one.close().await;
    two.register(&instance).await;
    two.finds(&instance).await;
    watch.until("the instance", |now| now.len() == 1).await;
    if let Some(names) = &mut names {
        names.until("the name", |now| now.contains(instance.service())).await;
    }
    world.done().await
}

/// Once handles are closed and dropped, none of their tasks is alive on the runtime.
///
/// Counts the tasks of the runtime it runs on, so it should have that runtime for itself.
pub async fn no_task_stays_behind(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "close::no_task_stays_behind");
    // What all handles share comes into being with the first.
    let witness = world.open().await;
    let instance = world.instance(&world.service("greeter"));
    witness.watch(instance.service()).first().await;
    let before = tasks::alive();
    for _ in 0..tasks::HANDLES {
        let handle = world.open().await;
        handle.register(&instance).await;
        let (mut watch, mut names) = (handle.watch(instance.service()), handle.watch_listed());
        watch.first().await;
        if let Some(names) = &mut names {
            names.first().await;
        }
        handle.close().await;
        world.release(&handle);
    }
    tasks::gone(&world, before, &format!("{} handles were closed", tasks::HANDLES)).await;
    world.done().await
}
