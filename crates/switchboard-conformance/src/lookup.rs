//! What a lookup finds.

use crate::world::World;
use crate::{Backend, Outcome};

/// A service nobody registered is an empty snapshot, not an error.
pub async fn unknown_service_is_empty(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "lookup::unknown_service_is_empty");
    let handle = world.open().await;
    handle.finds_nothing_of(&world.service("nobody")).await;
    world.done().await
}

/// A snapshot holds instances of the service that was asked for, and of no other, however alike the names.
pub async fn only_that_service_is_found(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "lookup::only_that_service_is_found").await;
    let wanted = world.service("greeter");
    let longer = world.parsed(&format!("{wanted}-2"));
    let inside = world.parsed(&format!("a.{wanted}"));
    for service in [&wanted, &longer, &inside] {
        one.register(&world.instance(service)).await;
    }
    for service in [&wanted, &longer, &inside] {
        let found = two.lookup(service).await;
        world.ensure(found.len() == 1 && found.all()[0].service() == service, || {
            format!("lookup of {service:?} should have found its one instance and gave {found:#?}")
        });
    }
    two.finds_nothing_of(&world.service("greet")).await;
    world.done().await
}
