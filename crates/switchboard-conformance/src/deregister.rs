//! That what is deregistered goes.

use switchboard_core::{InstanceId, InstanceKey};

use crate::world::{ONLY_READ, World, is_only_read};
use crate::{Backend, Outcome};

/// A deregistered instance leaves watches of every handle, and then their lookups.
pub async fn a_deregistered_instance_is_gone(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "deregister::a_deregistered_instance_is_gone").await;
    let instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    let mut watches = [one.watch(instance.service()), two.watch(instance.service())];
    for watch in &mut watches {
        watch.until("the instance", |now| now.len() == 1).await;
    }
    one.deregister(&instance.key()).await;
    for watch in &mut watches {
        watch.until_empty().await;
    }
    one.finds_nothing_of(instance.service()).await;
    two.finds_nothing_of(instance.service()).await;
    world.done().await
}

/// Of two instances of one service, and one of another, only the one deregistered goes, and the others are not missed for a
/// moment.
pub async fn only_that_instance_goes(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "deregister::only_that_instance_goes").await;
    let service = world.service("greeter");
    let (goes, stays) = (world.instance(&service), world.instance(&service));
    let elsewhere = world.instance(&world.service("farewell"));
    for instance in [&goes, &stays, &elsewhere] {
        one.register(instance).await;
    }
    let (mut watch, mut watch_elsewhere) = (two.watch(&service), two.watch(elsewhere.service()));
    watch.until("both instances", |now| now.len() == 2).await;
    watch_elsewhere.until("the instance", |now| now.len() == 1).await;
    watch.mark();
    watch_elsewhere.mark();
    watch.during(one.deregister(&goes.key())).await;
    watch.until("one instance gone", |now| world.seen(now, &goes).is_none()).await;
    watch.rest().await;
    watch_elsewhere.rest().await;
    watch.never_missed(&stays);
    watch_elsewhere.never_missed(&elsewhere);
    two.finds(&stays).await;
    two.finds(&elsewhere).await;
    world.done().await
}

/// Deregistering what is already gone succeeds.
pub async fn deregistering_twice_succeeds(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let (world, one, two) = World::two(backend, "deregister::deregistering_twice_succeeds").await;
    let instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    one.deregister(&instance.key()).await;
    one.deregister(&instance.key()).await;
    two.watch(instance.service()).until_empty().await;
    one.deregister(&instance.key()).await;
    world.done().await
}

/// Deregistering what never was succeeds, in a service that exists as in one that does not.
pub async fn deregistering_the_unknown_succeeds(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let (world, one, two) = World::two(backend, "deregister::deregistering_the_unknown_succeeds").await;
    let instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    for service in [instance.service().clone(), world.service("nobody")] {
        let key = InstanceKey::new(service.clone(), InstanceId::random(&service));
        one.deregister(&key).await;
        two.deregister(&key).await;
    }
    two.finds(&instance).await;
    world.done().await
}

/// After it was deregistered an instance can be registered again, at once.
pub async fn a_deregistered_instance_can_return(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "deregister::a_deregistered_instance_can_return").await;
    let instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    one.deregister(&instance.key()).await;
    one.register(&instance).await;
    let mut watch = two.watch(instance.service());
    watch.until("the instance back", |now| now.len() == 1).await;
    watch.rest().await;
    two.finds(&instance).await;
    world.done().await
}
