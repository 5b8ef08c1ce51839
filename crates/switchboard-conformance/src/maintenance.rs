//! What taking an instance out of use does, or that it cannot be done.

use switchboard_core::{ErrorKind, Health, Snapshot};

use crate::world::World;
use crate::{Backend, Outcome};

/// Maintenance is seen by others, outlives a renewal and ends when it is ended, or with the registration; a registry without
/// it says so, and nothing changes.
pub async fn it_lasts_until_it_is_ended(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "maintenance::it_lasts_until_it_is_ended").await;
    let instance = world.instance(&world.service("greeter"));
    let is =
        |health| move |now: &Snapshot| now.all().iter().all(|one| one.health() == health) && now.len() == 1;
    one.register(&instance).await;
    let mut watch = one.watch(instance.service());
    watch.until("the instance", is(Health::Passing)).await;
    match two.try_set_maintenance(&world.key(&instance), Some("a new disk")).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            two.finds(&instance).await;
            return world.done().await;
        }
        made => world.ensure(made.is_ok(), || format!("set_maintenance failed: {made:?}")),
    }
    watch.until("maintenance", is(Health::Maintenance)).await;
    one.register(&instance).await;
    let found = two.lookup(instance.service()).await;
    world.ensure(is(Health::Maintenance)(&found), || format!("a renewal ended it: {found:#?}"));
    let back = two.try_set_maintenance(&world.key(&instance), None).await;
    world.ensure(back.is_ok(), || format!("set_maintenance failed: {back:?}"));
    watch.until("use", is(Health::Passing)).await;

    let again = one.try_set_maintenance(&world.key(&instance), Some("")).await;
    world.ensure(again.is_ok(), || format!("set_maintenance without a reason failed: {again:?}"));
    watch.until("maintenance again", is(Health::Maintenance)).await;
    one.deregister(&instance.key()).await;
    one.register(&instance).await;
    watch.until("use after a new registration", is(Health::Passing)).await;
    watch.rest().await;
    world.done().await
}
