//! What a registry that cannot be heard for a while tells, and what it tells when it is heard again.

use std::time::Duration;

use futures::future::{OptionFuture, join};
use switchboard_core::{Error, ErrorKind, RegisterOptions};

use crate::follow::Follow;
use crate::world::{ONLY_READ, World, is_only_read};
use crate::{Backend, Outcome};

const NO_LIST: Outcome = Outcome::Skipped("there is no list of names (Profile::lists)");
const CANNOT: Outcome = Outcome::Skipped("the backend cannot bring an outage about (Backend::open_fragile)");

/// More errors of one outage than `AGAIN` within `WHILE` say that a watch has no backoff: one that doubles its pause from
/// no more than a millisecond tells fewer.
const AGAIN: usize = 10;
const WHILE: Duration = Duration::from_secs(1);

/// A watch tells of an outage with an error, and then its snapshot again, though nothing has changed.
pub async fn a_watch_tells_the_same_again_after_an_error(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "outage::a_watch_tells_the_same_again_after_an_error");
    let Some((handle, outage)) = world.open_fragile().await else { return CANNOT };
    let instance = world.instance(&world.service("greeter"));
    handle.register(&instance).await;
    let mut watch = handle.watch(instance.service());
    let before = watch.until("the instance", |now| now.len() == 1).await;
    // Twice, since a second outage is told as the first was.
    for _ in 0..2 {
        outage.begin().await;
        watch.until_error().await;
        outage.end().await;
        let after = watch.recovered().await;
        world.ensure(after == before, || {
            format!("nothing changed, and after the outage the watch told {after:#?} for {before:#?}")
        });
    }
    watch.rest().await;
    world.done().await
}

/// A watch of the names does the same.
pub async fn a_watch_of_names_tells_the_same_again_after_an_error(backend: &dyn Backend) -> Outcome {
    if !backend.profile().lists {
        return NO_LIST;
    }
    let mut world = World::new(backend, "outage::a_watch_of_names_tells_the_same_again_after_an_error");
    let Some((handle, outage)) = world.open_fragile().await else { return CANNOT };
    let instance = world.instance(&world.service("greeter"));
    handle.register(&instance).await;
    let mut watch = handle.watch_services();
    watch.until("the name", |now| now.contains(instance.service())).await;
    for _ in 0..2 {
        outage.begin().await;
        watch.until_error().await;
        outage.end().await;
        let after = watch.recovered().await;
        world.ensure(after.contains(instance.service()), || {
            format!("{:?} is there, and after the outage the watch told {after:?}", instance.service())
        });
    }
    world.done().await
}

/// What happens during an outage is told after it.
pub async fn what_changed_meanwhile_is_told(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "outage::what_changed_meanwhile_is_told");
    let Some((handle, outage)) = world.open_fragile().await else { return CANNOT };
    let other = world.open().await;
    let service = world.service("greeter");
    let (stays, comes) = (world.instance(&service), world.instance(&service));
    other.register(&stays).await;
    let mut watch = handle.watch(&service);
    watch.until("one instance", |now| now.len() == 1).await;
    watch.mark();
    outage.begin().await;
    watch.until_error().await;
    other.register(&comes).await;
    outage.end().await;
    watch.until("both instances", |now| now.len() == 2).await;
    watch.never_missed(&stays);
    world.done().await
}

/// A lookup during an outage fails or gives what was last known; an instance that is there is never missing.
pub async fn a_lookup_never_loses_what_is_there(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "outage::a_lookup_never_loses_what_is_there");
    let Some((handle, outage)) = world.open_fragile().await else { return CANNOT };
    let other = world.open().await;
    let instance = world.instance(&world.service("greeter"));
    other.register(&instance).await;
    outage.begin().await;
    match handle.try_lookup(instance.service()).await {
        Ok(found) => world.ensure(world.seen(&found, &instance).is_some(), || {
            format!("the registry could not be heard, and lookup told {found:#?} as if it could")
        }),
        Err(error) => passes(&world, "lookup", &error),
    }
    outage.end().await;
    handle.watch(instance.service()).until("the instance", |now| now.len() == 1).await;
    handle.finds(&instance).await;
    world.done().await
}

/// The names listed during an outage are an error or what was last known; the name of what is there is never missing.
pub async fn the_names_never_lose_what_is_there(backend: &dyn Backend) -> Outcome {
    if !backend.profile().lists {
        return NO_LIST;
    }
    let mut world = World::new(backend, "outage::the_names_never_lose_what_is_there");
    let Some((handle, outage)) = world.open_fragile().await else { return CANNOT };
    let other = world.open().await;
    let instance = world.instance(&world.service("greeter"));
    other.register(&instance).await;
    handle.watch_services().until("the name", |now| now.contains(instance.service())).await;
    outage.begin().await;
    match handle.try_services().await {
        Ok(names) => world.ensure(names.contains(instance.service()), || {
            format!("the registry could not be heard, and services told {names:?} as if it could")
        }),
        Err(error) => passes(&world, "services", &error),
    }
    outage.end().await;
    handle.watch_services().until("the name", |now| now.contains(instance.service())).await;
    world.done().await
}

/// A registration during an outage, new or changed, fails or is there; one that failed can be made after it.
pub async fn a_registration_fails_or_is_there(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let mut world = World::new(backend, "outage::a_registration_fails_or_is_there");
    let Some((handle, outage)) = world.open_fragile().await else { return CANNOT };
    let other = world.open().await;
    let service = world.service("greeter");
    let build = |version| world.built(world.builder(&service).id(world.suffix()).version(version));
    for instance in [build("1"), build("2")] {
        outage.begin().await;
        let registered = handle.try_register(&instance, &RegisterOptions::new()).await;
        outage.end().await;
        if let Err(error) = registered {
            passes(&world, "register", &error);
            handle.register(&instance).await;
        }
        other.finds(&instance).await;
    }
    world.done().await
}

/// A deregistration during an outage fails or is done; one that failed can be made after it.
pub async fn a_deregistration_fails_or_is_done(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let mut world = World::new(backend, "outage::a_deregistration_fails_or_is_done");
    let Some((handle, outage)) = world.open_fragile().await else { return CANNOT };
    let other = world.open().await;
    let instance = world.instance(&world.service("greeter"));
    handle.register(&instance).await;
    let mut watch = other.watch(instance.service());
    watch.until("the instance", |now| now.len() == 1).await;
    outage.begin().await;
    let deregistered = handle.try_deregister(&instance.key()).await;
    outage.end().await;
    if let Err(error) = deregistered {
        passes(&world, "deregister", &error);
        handle.deregister(&instance.key()).await;
    }
    watch.until_empty().await;
    world.done().await
}

/// Every call during an outage is answered within [`Profile::answer`](crate::Profile::answer), whatever the answer is.
pub async fn every_call_is_answered(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "outage::every_call_is_answered");
    let Some((handle, outage)) = world.open_fragile().await else { return CANNOT };
    let other = world.open().await;
    let service = world.service("greeter");
    let (there, new) = (world.instance(&service), world.instance(&service));
    handle.register(&there).await;
    outage.begin().await;
    // That they are answered is seen by the handle; what they may answer is told by other cases.
    let _ = handle.try_register(&there, &RegisterOptions::new()).await;
    let _ = handle.try_register(&new, &RegisterOptions::new()).await;
    let _ = handle.try_lookup(&service).await;
    let _ = handle.try_services().await;
    handle.suspect(&there.key()).await;
    let _ = handle.try_deregister(&new.key()).await;
    let _ = handle.try_close().await;
    outage.end().await;
    other.deregister(&there.key()).await;
    other.deregister(&new.key()).await;
    world.done().await
}

/// Watches that begin during an outage tell an error or what is true: what is there is not missing, before the outage
/// ends or after.
pub async fn a_watch_begun_in_it_never_lies(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "outage::a_watch_begun_in_it_never_lies");
    let Some((handle, outage)) = world.open_fragile().await else { return CANNOT };
    let other = world.open().await;
    let instance = world.instance(&world.service("greeter"));
    let name = instance.service();
    other.register(&instance).await;
    handle.watch(name).until("the instance", |now| now.len() == 1).await;
    if let Some(mut names) = handle.watch_listed() {
        names.until("the name", |now| now.contains(name)).await;
    }
    outage.begin().await;
    let (mut watch, mut names) = (handle.watch(name), handle.watch_listed());
    join(watch.anything(), OptionFuture::from(names.as_mut().map(Follow::anything))).await;
    let quiet = world.profile().quiet;
    let listening = names.as_mut().map(|names| names.listen(quiet));
    join(watch.listen(quiet), OptionFuture::from(listening)).await;
    outage.end().await;
    watch.until("the instance", |now| now.len() == 1).await;
    watch.never_missed(&instance);
    if let Some(mut names) = names {
        names.until("the name", |now| now.contains(name)).await;
        world.ensure(names.seen().iter().all(|told| told.contains(name)), || {
            format!("{name:?} was there all the time, and a watch begun in an outage told {:?}", names.seen())
        });
    }
    world.done().await
}

/// Watches do not tell one outage again and again: one error is enough, and one for each try with backoff is allowed.
/// Nor do they tell a state before it has ended, since that would say that it has.
pub async fn it_is_not_told_again_and_again(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "outage::it_is_not_told_again_and_again");
    let Some((handle, outage)) = world.open_fragile().await else { return CANNOT };
    let other = world.open().await;
    let instance = world.instance(&world.service("greeter"));
    other.register(&instance).await;
    let (mut watch, mut names) = (handle.watch(instance.service()), handle.watch_listed());
    watch.until("the instance", |now| now.len() == 1).await;
    if let Some(names) = &mut names {
        names.until("the name", |now| now.contains(instance.service())).await;
    }
    outage.begin().await;
    join(watch.until_error(), OptionFuture::from(names.as_mut().map(Follow::until_error))).await;
    let names = names.as_mut().map(|names| names.only_errors(AGAIN, WHILE));
    join(watch.only_errors(AGAIN, WHILE), OptionFuture::from(names)).await;
    outage.end().await;
    world.done().await
}

/// Closing during an outage deregisters what the handle registered, or fails and names what may be left; the handle is
/// closed all the same.
pub async fn close_says_what_is_left(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let mut world = World::new(backend, "outage::close_says_what_is_left");
    let Some((handle, outage)) = world.open_fragile().await else { return CANNOT };
    let other = world.open().await;
    let instance = world.instance(&world.service("greeter"));
    handle.register(&instance).await;
    let mut watch = other.watch(instance.service());
    watch.until("the instance", |now| now.len() == 1).await;
    outage.begin().await;
    let closed = handle.try_close().await;
    outage.end().await;
    match closed {
        Ok(()) => watch.until_empty().await,
        Err(error) => world.ensure(error.to_string().contains(instance.id().as_str()), || {
            format!(
                "close failed and should have named {:?} as what may be left, and said: {error}",
                instance.key()
            )
        }),
    }
    handle.must_fail(
        "lookup on a closed handle",
        ErrorKind::Closed,
        handle.try_lookup(instance.service()).await,
    );
    other.deregister(&instance.key()).await;
    world.done().await
}

/// A call that an outage has failed must say so in a way that has the caller try again.
fn passes(world: &World<'_>, call: &str, error: &Error) {
    world.ensure(error.is_transient(), || {
        format!("an outage passes, and {call} should not have failed with: {error}")
    });
}
