//! What a registry that cannot be heard for a while tells, and what it tells when it is heard again.

use switchboard_core::ErrorKind;

use crate::world::World;
use crate::{Backend, Outcome};

const CANNOT: Outcome = Outcome::Skipped("the backend cannot bring an outage about (Backend::open_fragile)");

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
        Ok(found) => world.ensure(found.get(instance.id()).is_some(), || {
            format!("the registry could not be heard, and lookup told {found:#?} as if it could")
        }),
        Err(error) => world.ensure(error.is_transient() && error.kind() != ErrorKind::Closed, || {
            format!("an outage passes, and lookup should not have failed with: {error}")
        }),
    }
    outage.end().await;
    handle.watch(instance.service()).until("the instance", |now| now.len() == 1).await;
    handle.finds(&instance).await;
    world.done().await
}
