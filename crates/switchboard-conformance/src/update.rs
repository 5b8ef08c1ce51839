//! What registering again does: replaces, or renews.

use std::net::SocketAddr;

use switchboard_core::{Change, InstanceBuilder};

use crate::world::World;
use crate::{Backend, Outcome};

/// Registering with changed metadata (a pair changed, one added, one gone) is one update to watchers.
pub async fn changed_metadata_is_one_update(backend: &dyn Backend) -> Outcome {
    let before = |instance: InstanceBuilder| instance.metadata("changed", "1").metadata("gone", "1");
    let after = |instance: InstanceBuilder| instance.metadata("changed", "2").metadata("added", "1");
    one_update(backend, "update::changed_metadata_is_one_update", before, after).await
}

/// Registering with another version is one update.
pub async fn changed_version_is_one_update(backend: &dyn Backend) -> Outcome {
    let before = |instance: InstanceBuilder| instance.version("1");
    let after = |instance: InstanceBuilder| instance.version("2");
    one_update(backend, "update::changed_version_is_one_update", before, after).await
}

/// Registering with another address is one update.
pub async fn changed_address_is_one_update(backend: &dyn Backend) -> Outcome {
    let before = |instance: InstanceBuilder| instance;
    let moved = SocketAddr::new(backend.profile().host, 7999);
    let after = |instance: InstanceBuilder| instance.clear_addresses().address(moved);
    one_update(backend, "update::changed_address_is_one_update", before, after).await
}

/// Registering with another weight is one update.
pub async fn changed_weight_is_one_update(backend: &dyn Backend) -> Outcome {
    let before = |instance: InstanceBuilder| instance.weight(2);
    let after = |instance: InstanceBuilder| instance.weight(3);
    one_update(backend, "update::changed_weight_is_one_update", before, after).await
}

/// Registering with other tags is one update.
pub async fn changed_tags_are_one_update(backend: &dyn Backend) -> Outcome {
    let before = |instance: InstanceBuilder| instance.tag("stays").tag("goes");
    let after = |instance: InstanceBuilder| instance.tag("stays").tag("comes");
    one_update(backend, "update::changed_tags_are_one_update", before, after).await
}

/// Registering with other endpoints is one update.
pub async fn changed_endpoints_are_one_update(backend: &dyn Backend) -> Outcome {
    let before = |instance: InstanceBuilder| instance.endpoint("Greeter.Hello");
    let after = |instance: InstanceBuilder| instance.endpoint("Greeter.Bye");
    one_update(backend, "update::changed_endpoints_are_one_update", before, after).await
}

/// Registering the same again renews: watchers see nothing.
pub async fn a_renewal_is_silent(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "update::a_renewal_is_silent").await;
    let instance = world.built(world.builder(&world.service("greeter")).metadata("zone", "eu-1"));
    let carried = world.profile().carried(&instance);
    one.register(&instance).await;
    let mut watch = two.watch(instance.service());
    watch.until("the instance", |now| now.get(carried.id()).is_some_and(|seen| **seen == carried)).await;
    watch.mark();
    for _ in 0..3 {
        watch.during(one.register(&instance)).await;
    }
    watch.rest().await;
    let changes = watch.changes();
    world.ensure(watch.seen().len() == 1, || format!("nothing changed, and the watch told of {changes:#?}"));
    two.finds(&instance).await;
    world.done().await
}

/// When `register` of changed content returns, a lookup by another handle finds that content.
pub async fn a_replacement_is_found_at_once(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "update::a_replacement_is_found_at_once").await;
    let mut instance = world.instance(&world.service("greeter"));
    for round in 2..6 {
        instance = world.built(instance.to_builder().weight(round));
        one.register(&instance).await;
        two.finds(&instance).await;
    }
    world.done().await
}

/// While an instance is replaced again and again, no watch and no lookup misses it.
pub async fn replacing_shows_no_gap(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "update::replacing_shows_no_gap").await;
    let mut instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    let mut watch = two.watch(instance.service());
    watch.until("the instance", |now| world.seen(now, &instance).is_some()).await;
    watch.mark();
    for round in 2..7 {
        instance = world.built(instance.to_builder().weight(round));
        watch.during(one.register(&instance)).await;
        let found = two.lookup(instance.service()).await;
        world.ensure(world.seen(&found, &instance).is_some(), || {
            format!("with weight {round} the instance was not found: {found:#?}")
        });
        let carried = world.profile().carried(&instance);
        let is_there = |seen: &std::sync::Arc<_>| **seen == carried;
        watch.until("the replacement", |now| now.get(carried.id()).is_some_and(is_there)).await;
    }
    watch.never_missed(&instance);
    world.done().await
}

async fn one_update(
    backend: &dyn Backend,
    case: &'static str,
    before: impl FnOnce(InstanceBuilder) -> InstanceBuilder,
    after: impl FnOnce(InstanceBuilder) -> InstanceBuilder,
) -> Outcome {
    let (world, one, two) = World::two(backend, case).await;
    let service = world.service("greeter");
    let base = world.builder(&service).id(format!("1-{}", world.suffix()));
    let (old, new) = (world.built(before(base.clone())), world.built(after(base)));
    let (was, is) = (world.profile().carried(&old), world.profile().carried(&new));
    if was == is || was.id() != is.id() {
        let _ = world.done().await;
        return Outcome::Skipped("what changes is not read, or makes another instance (Profile::reads)");
    }

    one.register(&old).await;
    let mut watch = two.watch(&service);
    watch.until("the instance", |now| now.get(was.id()).is_some_and(|seen| **seen == was)).await;
    watch.mark();
    watch.during(one.register(&new)).await;
    watch.until("the change", |now| now.get(is.id()).is_some_and(|seen| **seen == is)).await;
    watch.rest().await;
    let changes = watch.changes();
    let one_update = match changes.as_slice() {
        [Change::Updated { old, new }] => **old == was && **new == is,
        _ => false,
    };
    world.ensure(one_update, || format!("the watch should have told of one update and told of {changes:#?}"));
    two.finds(&new).await;
    world.done().await
}
