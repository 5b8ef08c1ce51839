//! Flaws in what is looked up and listed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use switchboard_conformance::async_trait;
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, MemoryRegistry, NamesStream, RegisterOptions, Registry, Result,
    ServiceName, Snapshot,
};

use crate::broken::{Flaw, edit};
use crate::{Mutant, mutant};

pub(crate) fn mutants() -> Vec<Mutant> {
    vec![
        mutant("fails for an unknown service", &["lookup::unknown_service_is_empty"], || || FailsUnknown),
        mutant("never answers", &["lookup::unknown_service_is_empty"], || || NeverAnswers),
        mutant("finds names that begin alike", &["lookup::only_that_service_is_found"], || {
            || Finds(|wanted, name| name.starts_with(wanted))
        }),
        mutant("finds names in any case", &["names::case_is_significant"], || {
            || Finds(|wanted, name| name.eq_ignore_ascii_case(wanted))
        }),
        mutant(
            "looks up once and remembers",
            &[
                "register::found_at_once",
                "update::a_replacement_is_found_at_once",
                "ttl::a_lapse_reaches_lookups",
            ],
            || Stale::default,
        ),
        mutant("shows only the first instance", &["register::instances_of_two_handles"], || || ShowsOne),
        mutant(
            "hides what its own handle registered",
            &["register::found_by_its_own_handle", "watch::its_own_handles_changes_are_seen"],
            || HidesOwn::default,
        ),
        mutant("lists no names", &["services::a_name_comes_with_the_first_instance"], || || NoNames),
        mutant(
            "never forgets a name",
            &["services::a_name_goes_with_the_last_instance", "ttl::a_lapse_takes_the_name"],
            || KeepsNames::default,
        ),
    ]
}

struct FailsUnknown;

#[async_trait]
impl Flaw for FailsUnknown {
    async fn lookup(&self, inner: &MemoryRegistry, service: &ServiceName) -> Result<Snapshot> {
        let found = inner.lookup(service).await?;
        if found.is_empty() {
            return Err(Error::new(ErrorKind::Protocol, "broken", "lookup", "not found"));
        }
        Ok(found)
    }
}

struct NeverAnswers;

#[async_trait]
impl Flaw for NeverAnswers {
    async fn lookup(&self, _: &MemoryRegistry, _: &ServiceName) -> Result<Snapshot> {
        std::future::pending().await
    }
}

/// Finds instances of other services whose name seems right.
struct Finds(fn(&str, &str) -> bool);

#[async_trait]
impl Flaw for Finds {
    async fn lookup(&self, inner: &MemoryRegistry, service: &ServiceName) -> Result<Snapshot> {
        let mut found = Vec::new();
        for name in inner.services().await? {
            if self.0(service.as_str(), name.as_str()) {
                let instances = inner.lookup(&name).await?;
                found.extend(
                    instances.all().iter().map(|it| edit(it, |it| it["service"] = service.as_str().into())),
                );
            }
        }
        Ok(Snapshot::new(service.clone(), found))
    }
}

#[derive(Default)]
struct Stale(Mutex<BTreeMap<ServiceName, Snapshot>>);

#[async_trait]
impl Flaw for Stale {
    async fn lookup(&self, inner: &MemoryRegistry, service: &ServiceName) -> Result<Snapshot> {
        let now = inner.lookup(service).await?;
        Ok(self.0.lock().expect("no panic").entry(service.clone()).or_insert(now).clone())
    }
}

struct ShowsOne;

impl Flaw for ShowsOne {
    fn read(&self, snapshot: Snapshot) -> Snapshot {
        Snapshot::new(snapshot.service().clone(), snapshot.all().first().cloned())
    }
}

#[derive(Default)]
struct HidesOwn(Mutex<BTreeSet<InstanceKey>>);

#[async_trait]
impl Flaw for HidesOwn {
    fn read(&self, snapshot: Snapshot) -> Snapshot {
        let own = self.0.lock().expect("no panic");
        let others = snapshot.all().iter().filter(|it| !own.contains(&it.key())).cloned();
        Snapshot::new(snapshot.service().clone(), others)
    }

    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        self.0.lock().expect("no panic").insert(it.key());
        inner.register(it, options).await
    }
}

struct NoNames;

#[async_trait]
impl Flaw for NoNames {
    async fn services(&self, _: &MemoryRegistry) -> Result<BTreeSet<ServiceName>> {
        Ok(BTreeSet::new())
    }
}

#[derive(Default)]
struct KeepsNames(Arc<Mutex<BTreeSet<ServiceName>>>);

impl Flaw for KeepsNames {
    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        let known = self.0.clone();
        let all = inner.watch_services().filter_map(move |names| {
            let mut known = known.lock().expect("no panic");
            let before = known.len();
            known.extend(names.unwrap_or_default());
            std::future::ready((known.len() > before || before == 0).then(|| Ok(known.clone())))
        });
        all.boxed()
    }
}
