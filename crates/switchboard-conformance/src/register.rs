//! That what is registered can be found.

use futures::future::join_all;
use switchboard_core::{ErrorKind, RegisterOptions, Registry};

use crate::world::{World, is_only_read};
use crate::{Backend, Outcome};

/// When `register` returns, a lookup by another handle finds the instance, whether that handle asked before or not.
pub async fn found_at_once(backend: &dyn Backend) -> Outcome {
    let (mut world, one, cold) = World::two(backend, "register::found_at_once").await;
    let warm = world.open().await;
    let instance = world.instance(&world.service("greeter"));
    warm.finds_nothing_of(instance.service()).await;
    one.register(&instance).await;
    cold.finds(&instance).await;
    warm.finds(&instance).await;
    world.done().await
}

/// A handle registers, or says that it cannot and who does instead, to be told apart from a failure by
/// [`registered_by`](switchboard_core::Error::registered_by). Nothing has happened then.
pub async fn it_is_done_or_said_who_does(backend: &dyn Backend) -> Outcome {
    let case = "register::it_is_done_or_said_who_does";
    let (world, one, two) = World::two(backend, case).await;
    let instance = world.instance(&world.service("greeter"));
    let registered = one.try_register(&instance, &RegisterOptions::new()).await;
    if !is_only_read(backend).await {
        world.ensure(registered.is_ok(), || {
            format!("handles register here, unless Backend::write does it, and register gave {registered:?}")
        });
        return world.done().await;
    }
    for (call, made) in [("register", registered), ("deregister", one.try_deregister(&instance.key()).await)]
    {
        let who = made.as_ref().err().and_then(|error| error.registered_by()).map(str::to_owned);
        one.must_fail(call, ErrorKind::Unsupported, made);
        world.ensure(who.is_some_and(|who| !who.is_empty()), || {
            format!("{call} should have said who registers instead, by Error::read_only")
        });
    }
    two.finds_nothing_of(instance.service()).await;
    world.done().await
}

/// The handle that registered an instance finds it as others do.
pub async fn found_by_its_own_handle(backend: &dyn Backend) -> Outcome {
    let mut world = World::new(backend, "register::found_by_its_own_handle");
    let handle = world.open().await;
    let instance = world.instance(&world.service("greeter"));
    handle.register(&instance).await;
    handle.finds(&instance).await;
    world.done().await
}

/// One handle registers several instances of one service; each is found.
pub async fn two_instances_of_one_service(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "register::two_instances_of_one_service").await;
    let service = world.service("greeter");
    let (first, second) = (
        world.built(world.builder(&service).version("1")),
        world.built(world.builder(&service).version("2")),
    );
    one.register(&first).await;
    one.register(&second).await;
    two.finds(&first).await;
    two.finds(&second).await;
    let found = two.lookup(&service).await;
    world.ensure(found.len() == 2, || format!("two instances were registered, lookup gave {found:#?}"));
    world.done().await
}

/// Two handles register an instance each of one service; both find both.
pub async fn instances_of_two_handles(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "register::instances_of_two_handles").await;
    let service = world.service("greeter");
    let (first, second) = (world.instance(&service), world.instance(&service));
    one.register(&first).await;
    two.register(&second).await;
    for handle in [&one, &two] {
        handle.finds(&first).await;
        handle.finds(&second).await;
    }
    world.done().await
}

/// Registrations made at the same time all arrive.
pub async fn many_at_the_same_time(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "register::many_at_the_same_time").await;
    let service = world.service("greeter");
    let instances: Vec<_> = (0..10).map(|_| world.instance(&service)).collect();
    join_all(instances.iter().map(|instance| one.register(instance))).await;
    for instance in &instances {
        two.finds(instance).await;
    }
    world.done().await
}

/// Instances of two services that have the same id are two instances. Only where
/// [`Profile::shared_ids`](crate::Profile::shared_ids) allows it.
pub async fn same_id_in_two_services(backend: &dyn Backend) -> Outcome {
    if !backend.profile().shared_ids {
        return Outcome::Skipped("the backend keeps one instance per id (Profile::shared_ids)");
    }
    let (world, one, two) = World::two(backend, "register::same_id_in_two_services").await;
    let id = format!("1-{}", world.suffix());
    let first = world.built(world.builder(&world.service("greeter")).id(id.as_str()));
    let second = world.built(world.builder(&world.service("farewell")).id(id.as_str()));
    one.register(&first).await;
    one.register(&second).await;
    two.finds(&first).await;
    two.finds(&second).await;
    one.deregister(&first.key()).await;
    two.watch(first.service()).until_empty().await;
    two.finds(&second).await;
    world.done().await
}

/// A `register` whose future was dropped halfway does no harm to later calls.
pub async fn an_abandoned_call_leaves_the_handle_usable(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "register::an_abandoned_call_leaves_the_handle_usable").await;
    let instance = world.instance(&world.service("greeter"));
    for _ in 0..3 {
        let options = RegisterOptions::new();
        let mut call = one.registry().register(&instance, &options);
        let _ = futures::poll!(&mut call);
        drop(call);
    }
    one.register(&instance).await;
    two.finds(&instance).await;
    world.done().await
}
