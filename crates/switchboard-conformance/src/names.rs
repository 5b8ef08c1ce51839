//! Names and ids of every allowed form.

use futures::future::join_all;
use switchboard_core::{ErrorKind, RegisterOptions, ServiceName};

use crate::invalid::{kept_or_refused, names_size_and_limit};
use crate::world::{Handle, World};
use crate::{Backend, Outcome};

/// Names and ids with dots, as go-micro's.
pub async fn dots(backend: &dyn Backend) -> Outcome {
    named(backend, "names::dots", |suffix| format!("go.micro.srv.greeter.{suffix}")).await
}

/// Names and ids with upper case, which is kept.
pub async fn upper_case(backend: &dyn Backend) -> Outcome {
    named(backend, "names::upper_case", |suffix| format!("Registry-Consul.Service_{suffix}")).await
}

/// Names and ids of 60 characters.
pub async fn sixty_characters(backend: &dyn Backend) -> Outcome {
    named(backend, "names::sixty_characters", |suffix| {
        let filled = "0123456789".repeat(6);
        format!("{}{suffix}", &filled[..60 - suffix.len()])
    })
    .await
}

/// Names that differ only in case are two services.
/// But where [`Profile::ignores_case`](crate::Profile::ignores_case) says that they are one.
pub async fn case_is_significant(backend: &dyn Backend) -> Outcome {
    if backend.profile().ignores_case {
        return Outcome::Skipped("names that differ only in case are one (Profile::ignores_case)");
    }
    let (world, one, two) = World::two(backend, "names::case_is_significant").await;
    let upper = world.instance(&world.service("Greeter"));
    let lower = world.service("greeter");
    one.register(&upper).await;
    two.finds(&upper).await;
    two.finds_nothing_of(&lower).await;
    world.done().await
}

/// Names and ids with spaces, UTF-8 and characters that mean something in URLs, queries or DNS work, or are refused as
/// `Invalid`. They are never taken for other names.
pub async fn odd_names_are_kept_or_refused(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "names::odd_names_are_kept_or_refused").await;
    let odd =
        ["a b", "a/b", "../a", "a?b=c&d#e", "a%2Fb", "größe", "a\"b'c`", "a\\.b", "a*", "a:b@c", "a,b;c"];
    join_all(odd.map(async |odd| kept_or_refused_name(&world, &one, &two, &world.service(odd)).await)).await;
    world.done().await
}

/// Names and ids of 255 bytes, the most there can be, work or are refused as `Invalid` with size and limit.
pub async fn longest_names_are_kept_or_refused(backend: &dyn Backend) -> Outcome {
    let (world, one, two) = World::two(backend, "names::longest_names_are_kept_or_refused").await;
    let name = world.parsed(&format!("{}{}", "n".repeat(255 - world.suffix().len()), world.suffix()));
    for refused in kept_or_refused_name(&world, &one, &two, &name).await {
        names_size_and_limit(&world, &refused);
    }
    world.done().await
}

async fn named(backend: &dyn Backend, case: &'static str, name: impl Fn(&str) -> String) -> Outcome {
    let (world, one, two) = World::two(backend, case).await;
    let service = world.parsed(&name(world.suffix()));
    let instance = world.built(world.builder(&service).id(service.as_str()));
    let mut watch = two.watch(&service);
    watch.first().await;
    one.register(&instance).await;
    two.finds(&instance).await;
    watch.until("the instance", |now| world.seen(now, &instance).is_some()).await;
    if let Some(mut names) = two.watch_listed() {
        names.until("the name", |now| now.contains(&service)).await;
        let names = two.services().await;
        world.ensure(names.contains(&service), || {
            format!("services should have held {service:?}, gave {names:?}")
        });
    }
    one.deregister(&instance.key()).await;
    watch.until_empty().await;
    world.done().await
}

/// As a service's name, then as an id. Gives the refusals.
async fn kept_or_refused_name(
    world: &World<'_>,
    one: &Handle<'_>,
    two: &Handle<'_>,
    name: &ServiceName,
) -> Vec<String> {
    let mut refusals = Vec::new();
    let only_read = world.is_only_read().await;
    match two.try_lookup(name).await {
        Ok(found) => {
            world.ensure(found.is_empty(), || format!("nobody registered {name:?}, lookup gave {found:#?}"));
            if only_read {
                let instance = world.instance(name);
                one.register(&instance).await;
                two.finds(&instance).await;
            } else {
                refusals.extend(kept_or_refused(world, one, two, world.builder(name)).await);
            }
        }
        refused => {
            refusals.push(two.must_fail("lookup", ErrorKind::Invalid, refused));
            if !only_read {
                let refused = one.try_register(&world.instance(name), &RegisterOptions::new()).await;
                refusals.push(one.must_fail("register of what lookup refuses", ErrorKind::Invalid, refused));
            }
        }
    }
    if only_read {
        // Ids are the writer's affair.
        return refusals;
    }
    let service = world.service("greeter");
    refusals.extend(kept_or_refused(world, one, two, world.builder(&service).id(name.as_str())).await);
    refusals
}
