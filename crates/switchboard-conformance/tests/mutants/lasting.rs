//! Flaws in how long registrations last: deregistering, TTLs, refusals, suspicion.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use switchboard_conformance::async_trait;
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, MemoryRegistry, RegisterOptions, Registry, Result, Snapshot,
};

use crate::broken::Flaw;
use crate::{Mutant, mutant};

pub(crate) fn mutants() -> Vec<Mutant> {
    vec![
        mutant("deregisters nothing", &["deregister::a_deregistered_instance_is_gone"], || {
            || DeregistersNothing
        }),
        mutant("deregisters the whole service", &["deregister::only_that_instance_goes"], || {
            || DeregistersAll
        }),
        mutant("deregisters all and puts the others back", &["deregister::only_that_instance_goes"], || {
            || Flickers
        }),
        mutant(
            "fails to deregister what is not there",
            &["deregister::deregistering_twice_succeeds", "deregister::deregistering_the_unknown_succeeds"],
            || || Complains,
        ),
        mutant(
            "ignores TTLs",
            &["ttl::a_lapse_reaches_watchers", "ttl::a_lapse_reaches_lookups", "ttl::a_lapse_takes_the_name"],
            || || Ttl(|_| None),
        ),
        mutant("halves TTLs", &["ttl::a_lapse_reaches_watchers"], || || Ttl(|ttl| Some(ttl? / 2))),
        mutant("sets a TTL where none is given", &["ttl::without_a_ttl_it_stays"], || {
            || Ttl(|ttl| Some(ttl.unwrap_or(Duration::from_millis(300))))
        }),
        mutant(
            "does not renew",
            &["ttl::a_renewal_in_time_keeps_it", "ttl::registering_after_a_lapse_puts_it_back"],
            || DoesNotRenew::default,
        ),
        mutant("keeps the first TTL", &["ttl::the_last_registration_decides"], || FirstTtl::default),
        mutant("takes a TTL of zero for none", &["invalid::a_ttl_of_zero_is_refused"], || {
            || Ttl(|ttl| ttl.filter(|ttl| !ttl.is_zero()))
        }),
        mutant(
            "removes what it then refuses to replace",
            &["invalid::a_refused_replacement_changes_nothing"],
            || || RemovesFirst,
        ),
        mutant("removes what is suspected", &["suspect::a_live_instance_stays"], || || Hasty),
        mutant("removes others than the suspect", &["suspect::the_unknown_stays_unknown"], || || Overhasty),
        mutant("takes nothing out of use", &["maintenance::it_lasts_until_it_is_ended"], || || Unmaintained),
        mutant("ends maintenance by a renewal", &["maintenance::it_lasts_until_it_is_ended"], || {
            || Forgetful
        }),
    ]
}

struct DeregistersNothing;

#[async_trait]
impl Flaw for DeregistersNothing {
    async fn deregister(&self, _: &MemoryRegistry, _: &InstanceKey) -> Result<()> {
        Ok(())
    }
}

struct DeregistersAll;

#[async_trait]
impl Flaw for DeregistersAll {
    async fn deregister(&self, inner: &MemoryRegistry, key: &InstanceKey) -> Result<()> {
        for it in inner.lookup(key.service()).await?.all() {
            inner.deregister(&it.key()).await?;
        }
        Ok(())
    }
}

struct Flickers;

#[async_trait]
impl Flaw for Flickers {
    async fn deregister(&self, inner: &MemoryRegistry, key: &InstanceKey) -> Result<()> {
        let before = inner.lookup(key.service()).await?;
        DeregistersAll.deregister(inner, key).await?;
        tokio::task::yield_now().await;
        for it in before.all().iter().filter(|it| it.key() != *key) {
            inner.register(it, &RegisterOptions::new()).await?;
        }
        Ok(())
    }
}

struct Complains;

#[async_trait]
impl Flaw for Complains {
    async fn deregister(&self, inner: &MemoryRegistry, key: &InstanceKey) -> Result<()> {
        if inner.lookup(key.service()).await?.get(key.id()).is_none() {
            return Err(Error::new(ErrorKind::Protocol, "broken", "deregister", "not found"));
        }
        inner.deregister(key).await
    }
}

/// Makes another TTL of the given one.
struct Ttl(fn(Option<Duration>) -> Option<Duration>);

#[async_trait]
impl Flaw for Ttl {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        let mut options = options.clone();
        options.ttl = self.0(options.ttl);
        inner.register(it, &options).await
    }
}

/// Takes a second registration of the same content for done already.
#[derive(Default)]
struct DoesNotRenew(Mutex<BTreeMap<InstanceKey, Instance>>);

#[async_trait]
impl Flaw for DoesNotRenew {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        let before = self.0.lock().expect("no panic").insert(it.key(), it.clone());
        if before.as_ref() == Some(it) { Ok(()) } else { inner.register(it, options).await }
    }
}

#[derive(Default)]
struct FirstTtl(Mutex<BTreeMap<InstanceKey, RegisterOptions>>);

#[async_trait]
impl Flaw for FirstTtl {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        let first =
            self.0.lock().expect("no panic").entry(it.key()).or_insert_with(|| options.clone()).clone();
        inner.register(it, &first).await
    }
}

struct RemovesFirst;

#[async_trait]
impl Flaw for RemovesFirst {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        if options.validate().is_err() {
            inner.deregister(&it.key()).await?;
        }
        inner.register(it, options).await
    }
}

struct Hasty;

#[async_trait]
impl Flaw for Hasty {
    async fn suspect(&self, inner: &MemoryRegistry, key: &InstanceKey) {
        let _ = inner.deregister(key).await;
    }
}

struct Overhasty;

#[async_trait]
impl Flaw for Overhasty {
    async fn suspect(&self, inner: &MemoryRegistry, key: &InstanceKey) {
        for it in inner.lookup(key.service()).await.iter().flat_map(Snapshot::all) {
            let _ = inner.deregister(&it.key()).await;
        }
    }
}

struct Unmaintained;

#[async_trait]
impl Flaw for Unmaintained {
    async fn set_maintenance(&self, _: &MemoryRegistry, _: &InstanceKey, _: Option<&str>) -> Result<()> {
        Ok(())
    }
}

struct Forgetful;

#[async_trait]
impl Flaw for Forgetful {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        inner.register(it, options).await?;
        inner.set_maintenance(&it.key(), None).await
    }
}
