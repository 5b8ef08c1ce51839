//! What a TTL does. Skipped where [`Profile::ttl`](crate::Profile::ttl) is `None`, or handles only read.

use std::time::Duration;

use switchboard_core::{Instance, Snapshot};
use tokio::time::{Instant, sleep};

use crate::follow::Follow;
use crate::world::{Handle, World, is_only_read};
use crate::{Backend, Outcome};

const NO_TTL: Outcome = Outcome::Skipped("the backend keeps no TTLs (Profile::ttl, Backend::write)");

/// An instance that is not renewed leaves watches when its TTL has passed, not earlier, and then lookups.
pub async fn a_lapse_reaches_watchers(backend: &dyn Backend) -> Outcome {
    let Some(ttl) = ttl_of(backend).await else { return NO_TTL };
    let (world, one, two) = World::two(backend, "ttl::a_lapse_reaches_watchers").await;
    let instance = world.instance(&world.service("greeter"));
    let mut watch = two.watch(instance.service());
    watch.first().await;
    let started = Instant::now();
    one.register_for(&instance, ttl).await;
    lapse(&world, &mut watch, &instance).await;
    let lasted = started.elapsed();
    // A tenth for backends that measure time in coarse steps.
    world.ensure(lasted >= ttl / 10 * 9, || format!("with a TTL of {ttl:?} it lasted only {lasted:?}"));
    let found = two.lookup(instance.service()).await;
    world.ensure(has_lapsed(&world, &found, &instance), || format!("it lapsed, and lookup found {found:#?}"));
    world.done().await
}

/// An instance that is not renewed leaves lookups though nobody watches.
pub async fn a_lapse_reaches_lookups(backend: &dyn Backend) -> Outcome {
    let Some(ttl) = ttl_of(backend).await else { return NO_TTL };
    let (world, one, two) = World::two(backend, "ttl::a_lapse_reaches_lookups").await;
    let instance = world.instance(&world.service("greeter"));
    one.register_for(&instance, ttl).await;
    two.finds(&instance).await;
    let deadline = Instant::now() + ttl + world.profile().expiry;
    loop {
        let found = two.lookup(instance.service()).await;
        if has_lapsed(&world, &found, &instance) {
            return world.done().await;
        }
        world
            .ensure(Instant::now() < deadline, || format!("a TTL of {ttl:?} passed, lookup gave {found:#?}"));
        // A lookup tells no event to wait for.
        sleep(ttl / 20).await;
    }
}

/// The name of a service goes when its last instance lapses.
pub async fn a_lapse_takes_the_name(backend: &dyn Backend) -> Outcome {
    let Some(ttl) = ttl_of(backend).await else { return NO_TTL };
    if backend.profile().keeps_lapsed {
        return Outcome::Skipped("the backend keeps lapsed instances (Profile::keeps_lapsed)");
    }
    let (world, one, two) = World::two(backend, "ttl::a_lapse_takes_the_name").await;
    let instance = world.instance(&world.service("greeter"));
    let mut watch = two.watch_services();
    watch.first().await;
    one.register_for(&instance, ttl).await;
    watch.until("the name", |now| now.contains(instance.service())).await;
    let limit = ttl + world.profile().expiry;
    watch.until_within(limit, "the name gone", |now| !now.contains(instance.service())).await;
    world.done().await
}

/// Registering again before the TTL has passed keeps the instance, and watchers see nothing of it.
pub async fn a_renewal_in_time_keeps_it(backend: &dyn Backend) -> Outcome {
    let Some(ttl) = ttl_of(backend).await else { return NO_TTL };
    let (world, one, two) = World::two(backend, "ttl::a_renewal_in_time_keeps_it").await;
    let instance = world.instance(&world.service("greeter"));
    let mut watch = two.watch(instance.service());
    watch.first().await;
    one.register_for(&instance, ttl).await;
    watch.until("the instance", |now| is_up(now, &instance)).await;
    watch.mark();
    let until = Instant::now() + ttl * 2;
    while Instant::now() < until {
        renew(&one, &instance, ttl).await;
    }
    two.finds(&instance).await;
    // What was told meanwhile is waiting to be read; the lapse after the last renewal ends it.
    let limit = ttl + world.profile().expiry;
    watch.until_within(limit, "the lapse", |now| has_lapsed(&world, now, &instance)).await;
    let (told, lasted) = (watch.seen().len(), Instant::now() - (until - ttl * 2));
    world.ensure(told == 2, || {
        format!("it was renewed in time, and the watch told of {:#?}", watch.changes())
    });
    world.ensure(lasted >= ttl * 2, || format!("renewed for {:?} it lasted only {lasted:?}", ttl * 2));
    world.done().await
}

/// Registering again after the TTL has passed puts the instance back.
pub async fn registering_after_a_lapse_puts_it_back(backend: &dyn Backend) -> Outcome {
    let Some(ttl) = ttl_of(backend).await else { return NO_TTL };
    let (world, one, two) = World::two(backend, "ttl::registering_after_a_lapse_puts_it_back").await;
    let instance = world.instance(&world.service("greeter"));
    let mut watch = two.watch(instance.service());
    watch.first().await;
    one.register_for(&instance, ttl).await;
    lapse(&world, &mut watch, &instance).await;
    one.register(&instance).await;
    two.finds(&instance).await;
    watch.until("the instance back", |now| is_up(now, &instance)).await;
    world.done().await
}

/// An instance registered without a TTL outlives one with a TTL.
pub async fn without_a_ttl_it_stays(backend: &dyn Backend) -> Outcome {
    let Some(ttl) = ttl_of(backend).await else { return NO_TTL };
    let (world, one, two) = World::two(backend, "ttl::without_a_ttl_it_stays").await;
    let service = world.service("greeter");
    let (stays, lapses) = (world.instance(&service), world.instance(&service));
    one.register(&stays).await;
    let mut watch = two.watch(&service);
    watch.until("the instance", |now| is_up(now, &stays)).await;
    watch.mark();
    one.register_for(&lapses, ttl).await;
    lapse(&world, &mut watch, &lapses).await;
    watch.rest().await;
    watch.never_missed(&stays);
    two.finds(&stays).await;
    world.done().await
}

/// The TTL of the last registration counts: registered again without one, an instance stays.
pub async fn the_last_registration_decides(backend: &dyn Backend) -> Outcome {
    let Some(ttl) = ttl_of(backend).await else { return NO_TTL };
    let (world, one, two) = World::two(backend, "ttl::the_last_registration_decides").await;
    let service = world.service("greeter");
    let (stays, lapses) = (world.instance(&service), world.instance(&service));
    one.register_for(&stays, ttl).await;
    one.register(&stays).await;
    let mut watch = two.watch(&service);
    watch.until("the instance", |now| is_up(now, &stays)).await;
    watch.mark();
    one.register_for(&lapses, ttl).await;
    lapse(&world, &mut watch, &lapses).await;
    watch.rest().await;
    watch.never_missed(&stays);
    two.finds(&stays).await;
    world.done().await
}

/// The TTL to test with; none where handles only read.
async fn ttl_of(backend: &dyn Backend) -> Option<Duration> {
    if is_only_read(backend).await { None } else { backend.profile().ttl }
}

/// Renews, and lets a quarter of the TTL pass.
async fn renew(handle: &Handle<'_>, instance: &Instance, ttl: Duration) {
    handle.register_for(instance, ttl).await;
    sleep(ttl / 4).await;
}

/// Waits until an instance that was just registered with a TTL has come and lapsed.
async fn lapse(world: &World<'_>, watch: &mut Follow<Snapshot>, instance: &Instance) {
    watch.until("the instance", |now| is_up(now, instance)).await;
    let limit = world.profile().ttl.unwrap_or_default() + world.profile().expiry;
    watch.until_within(limit, "the lapse", |now| has_lapsed(world, now, instance)).await;
}

fn is_up(now: &Snapshot, instance: &Instance) -> bool {
    now.get(instance.id()).is_some_and(|seen| seen.health().is_healthy())
}

fn has_lapsed(world: &World<'_>, now: &Snapshot, instance: &Instance) -> bool {
    match now.get(instance.id()) {
        None => true,
        Some(seen) => world.profile().keeps_lapsed && !seen.health().is_healthy(),
    }
}
