//! Flaws in registering again, and in registering several.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use switchboard_conformance::async_trait;
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceId, InstanceKey, MemoryRegistry, RegisterOptions, Registry, Result,
    ServiceName,
};
use tokio::task::yield_now;

use crate::broken::{Flaw, edit};
use crate::{Mutant, mutant};

pub(crate) fn mutants() -> Vec<Mutant> {
    vec![
        ignores_changed::<0>("ignores changed metadata", &["update::changed_metadata_is_one_update"]),
        ignores_changed::<1>("ignores a changed version", &["update::changed_version_is_one_update"]),
        ignores_changed::<2>("ignores a changed address", &["update::changed_address_is_one_update"]),
        ignores_changed::<3>("ignores a changed weight", &["update::changed_weight_is_one_update"]),
        ignores_changed::<4>("ignores changed tags", &["update::changed_tags_are_one_update"]),
        ignores_changed::<5>("ignores changed endpoints", &["update::changed_endpoints_are_one_update"]),
        mutant(
            "replaces with a gap",
            &["update::replacing_shows_no_gap", "update::changed_metadata_is_one_update"],
            || || Gap,
        ),
        mutant("publishes renewals", &["update::a_renewal_is_silent"], || Counts::default),
        mutant(
            "keeps one instance per handle",
            &["register::two_instances_of_one_service", "register::many_at_the_same_time"],
            || OnePerHandle::default,
        ),
        mutant("keeps one instance per id", &["register::same_id_in_two_services"], || OnePerId::default),
        mutant("registers one at a time", &["register::many_at_the_same_time"], || Busy::default),
        mutant(
            "is stuck after an abandoned call",
            &["register::an_abandoned_call_leaves_the_handle_usable"],
            || Stuck::default,
        ),
        mutant("leaves the dead dead", &["deregister::a_deregistered_instance_can_return"], || {
            Remembers::default
        }),
    ]
}

/// Keeps the first value of one field of each instance.
#[derive(Default)]
struct IgnoresChanged<const FIELD: usize>(Mutex<BTreeMap<InstanceKey, Value>>);

const FIELDS: [&str; 6] = ["metadata", "version", "addresses", "weight", "tags", "endpoints"];

impl<const FIELD: usize> Flaw for IgnoresChanged<FIELD> {
    fn written(&self, instance: &Instance) -> Instance {
        let field = FIELDS[FIELD];
        let mut first = self.0.lock().expect("no panic");
        edit(instance, |it| {
            it[field] = first.entry(instance.key()).or_insert_with(|| it[field].clone()).clone();
        })
    }
}

fn ignores_changed<const FIELD: usize>(name: &'static str, killed_by: &'static [&'static str]) -> Mutant {
    mutant(name, killed_by, || IgnoresChanged::<FIELD>::default)
}

struct Gap;

#[async_trait]
impl Flaw for Gap {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        inner.deregister(&it.key()).await?;
        yield_now().await;
        inner.register(it, options).await
    }
}

/// Counts in the metadata how often an instance was registered.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<InstanceKey, u32>>);

impl Flaw for Counts {
    fn written(&self, instance: &Instance) -> Instance {
        let mut counts = self.0.lock().expect("no panic");
        let count = counts.entry(instance.key()).or_default();
        *count += 1;
        match *count {
            1 => instance.clone(),
            n => edit(instance, |it| it["metadata"]["renewed"] = n.to_string().into()),
        }
    }
}

#[derive(Default)]
struct OnePerHandle(Mutex<BTreeMap<ServiceName, InstanceKey>>);

#[async_trait]
impl Flaw for OnePerHandle {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        let before = self.0.lock().expect("no panic").insert(it.service().clone(), it.key());
        if let Some(before) = before.filter(|before| *before != it.key()) {
            inner.deregister(&before).await?;
        }
        inner.register(it, options).await
    }
}

#[derive(Default)]
struct OnePerId(Mutex<BTreeMap<InstanceId, InstanceKey>>);

#[async_trait]
impl Flaw for OnePerId {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        let before = self.0.lock().expect("no panic").insert(it.id().clone(), it.key());
        if let Some(before) = before.filter(|before| *before != it.key()) {
            inner.deregister(&before).await?;
        }
        inner.register(it, options).await
    }
}

/// Fails while another call is under way.
#[derive(Default)]
struct Busy(AtomicBool);

#[async_trait]
impl Flaw for Busy {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        if self.0.swap(true, Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "broken", "register", "the queue is full"));
        }
        yield_now().await;
        self.0.store(false, Ordering::SeqCst);
        inner.register(it, options).await
    }
}

/// Waits for ever once a call was dropped halfway.
#[derive(Default)]
struct Stuck(AtomicBool);

#[async_trait]
impl Flaw for Stuck {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        while self.0.swap(true, Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        yield_now().await;
        self.0.store(false, Ordering::SeqCst);
        inner.register(it, options).await
    }
}

/// Never registers again what was deregistered.
#[derive(Default)]
struct Remembers(Mutex<BTreeSet<InstanceKey>>);

#[async_trait]
impl Flaw for Remembers {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        if self.0.lock().expect("no panic").contains(&it.key()) {
            return Ok(());
        }
        inner.register(it, options).await
    }

    async fn deregister(&self, inner: &MemoryRegistry, key: &InstanceKey) -> Result<()> {
        self.0.lock().expect("no panic").insert(key.clone());
        inner.deregister(key).await
    }
}
