//! What a hint that an instance could not be reached does not do.

use switchboard_core::{InstanceId, InstanceKey};

use crate::world::World;
use crate::{Backend, Outcome};

/// A suspected instance that is alive stays: no watch and no lookup misses it.
pub async fn a_live_instance_stays(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "suspect::a_live_instance_stays").await;
    let instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    let mut watch = two.watch(instance.service());
    watch.until("the instance", |now| now.len() == 1).await;
    watch.mark();
    one.suspect(&world.key(&instance)).await;
    two.suspect(&world.key(&instance)).await;
    watch.listen(world.profile().suspicion).await;
    watch.rest().await;
    watch.never_missed(&instance);
    two.finds(&instance).await;
    world.done().await
}

/// A hint about what was never registered does nothing.
pub async fn the_unknown_stays_unknown(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "suspect::the_unknown_stays_unknown").await;
    let instance = world.instance(&world.service("greeter"));
    one.register(&instance).await;
    for service in [instance.service().clone(), world.service("nobody")] {
        one.suspect(&InstanceKey::new(service.clone(), InstanceId::random(&service))).await;
    }
    one.finds_nothing_of(&world.service("nobody")).await;
    two.finds_nothing_of(&world.service("nobody")).await;
    two.finds(&instance).await;
    let found = one.lookup(instance.service()).await;
    world.ensure(found.len() == 1, || format!("one instance was registered, lookup gave {found:#?}"));
    world.done().await
}
