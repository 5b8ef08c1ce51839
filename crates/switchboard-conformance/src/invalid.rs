//! What cannot be registered is refused in words, and nothing of it is registered.
//!
//! Backends have limits of their own. What one cannot carry it must refuse as
//! [`ErrorKind::Invalid`], naming the limit, and never cut or lose.

use futures::future::join_all;
use std::time::Duration;
use switchboard_core::{ErrorKind, InstanceBuilder, RegisterOptions};

use crate::world::{Handle, ONLY_READ, World, is_only_read};
use crate::{Backend, Outcome};

/// A TTL of zero is `Invalid`, the message says that it is about the TTL, and nothing is registered.
pub async fn a_ttl_of_zero_is_refused(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let (world, one, two) = World::two(backend, "invalid::a_ttl_of_zero_is_refused").await;
    let instance = world.instance(&world.service("greeter"));
    let result = one.try_register(&instance, &RegisterOptions::new().ttl(Duration::ZERO)).await;
    let message = one.must_fail("register with a TTL of zero", ErrorKind::Invalid, result);
    world.ensure(message.to_ascii_lowercase().contains("ttl"), || {
        format!("the error should have said that the TTL is wrong and said {message:?}")
    });
    one.finds_nothing_of(instance.service()).await;
    two.finds_nothing_of(instance.service()).await;
    world.done().await
}

/// A replacement that is refused leaves what was registered as it was.
pub async fn a_refused_replacement_changes_nothing(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let (world, one, two) = World::two(backend, "invalid::a_refused_replacement_changes_nothing").await;
    let instance = world.built(world.builder(&world.service("greeter")).version("1"));
    one.register(&instance).await;
    let other = world.built(instance.to_builder().version("2"));
    let result = one.try_register(&other, &RegisterOptions::new().ttl(Duration::ZERO)).await;
    one.must_fail("register with a TTL of zero", ErrorKind::Invalid, result);
    two.finds(&instance).await;
    world.done().await
}

/// Metadata values of 256 bytes to 100 kB are kept, or refused with size and limit.
pub async fn long_metadata_values_are_kept_or_refused(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let (world, one, two) = World::two(backend, "invalid::long_metadata_values_are_kept_or_refused").await;
    let service = world.service("greeter");
    join_all([256, 513, 2_000, 10_000, 100_000].into_iter().map(async |length| {
        let builder = world.builder(&service).metadata("long", "x".repeat(length));
        if let Some(refused) = kept_or_refused(&world, &one, &two, builder).await {
            names_size_and_limit(&world, &refused);
        }
    }))
    .await;
    world.done().await
}

/// A thousand metadata pairs are kept, or refused with size and limit.
pub async fn a_thousand_metadata_pairs_are_kept_or_refused(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let case = "invalid::a_thousand_metadata_pairs_are_kept_or_refused";
    let (world, one, two) = World::two(backend, case).await;
    let builder = world.builder(&world.service("greeter"));
    let builder = (0..1000).fold(builder, |builder, n| builder.metadata(format!("key-{n}"), n.to_string()));
    if let Some(refused) = kept_or_refused(&world, &one, &two, builder).await {
        names_size_and_limit(&world, &refused);
    }
    world.done().await
}

/// Metadata keys with a backend's own prefix, spaces or 128 bytes, and keys that differ only in case, are kept or
/// refused.
pub async fn odd_metadata_keys_are_kept_or_refused(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let (world, one, two) = World::two(backend, "invalid::odd_metadata_keys_are_kept_or_refused").await;
    let service = world.service("greeter");
    let longest = "k".repeat(128);
    let sets: [&[&str]; 6] = [
        &["zone", "Zone", "ZONE"],
        &["consul-x"],
        &["two words"],
        &["a/b%2F", "\"'\\"],
        &["_x", "-x"],
        &[&longest],
    ];
    join_all(sets.iter().map(async |keys| {
        let builder = keys
            .iter()
            .fold(world.builder(&service), |builder, key| builder.metadata(*key, format!("of {key}")));
        kept_or_refused(&world, &one, &two, builder).await;
    }))
    .await;
    world.done().await
}

/// Tags with characters that a list might be written with, or of 255 bytes, are kept or refused.
pub async fn odd_tags_are_kept_or_refused(backend: &dyn Backend) -> Outcome {
    if is_only_read(backend).await {
        return ONLY_READ;
    }
    let (world, one, two) = World::two(backend, "invalid::odd_tags_are_kept_or_refused").await;
    let service = world.service("greeter");
    let longest = "t".repeat(255);
    join_all(["a,b", "a;b|c", "\"a\"", "a\\,b", "%2C", "[a]", &longest].into_iter().map(async |tag| {
        kept_or_refused(&world, &one, &two, world.builder(&service).tag(tag).tag("z")).await;
    }))
    .await;
    world.done().await
}

/// Registers what not every backend can carry: found whole, or refused as `Invalid` and not found at all. Gives the
/// refusal.
pub(crate) async fn kept_or_refused(
    world: &World<'_>,
    one: &Handle<'_>,
    two: &Handle<'_>,
    builder: InstanceBuilder,
) -> Option<String> {
    let instance = world.built(builder);
    match one.try_register(&instance, &RegisterOptions::new()).await {
        Ok(()) => {
            two.finds(&instance).await;
            None
        }
        refused => {
            let message =
                one.must_fail("register of what the backend cannot carry", ErrorKind::Invalid, refused);
            let found = two.lookup(instance.service()).await;
            world.ensure(found.get(instance.id()).is_none(), || {
                format!("what was refused ({message}) was found all the same: {found:#?}")
            });
            Some(message)
        }
    }
}

/// A refusal must name them both: two numbers at least.
pub(crate) fn names_size_and_limit(world: &World<'_>, message: &str) {
    let plain = message.replace([',', '_'], "");
    let numbers = plain.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()).count();
    world.ensure(numbers >= 2, || {
        format!("the refusal should have named size and limit and said {message:?}")
    });
}
