//! Registries that can only be read, some of them flawed.

use std::collections::BTreeSet;

use futures::stream::{once, pending};
use futures::{FutureExt, StreamExt};
use switchboard_conformance::{Profile, async_trait};
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, MemoryRegistry, NamesStream, RegisterOptions, Registry, Result,
    ServiceName, Snapshot,
};

use crate::Mutant;
use crate::broken::{Flaw, Sound, World};

pub(crate) fn mutants() -> Vec<Mutant> {
    let says_who: &[&str] = &["register::it_is_done_or_said_who_does"];
    vec![
        Mutant {
            name: "does not say who registers",
            world: Box::new(|| Box::new(World::new(|| Silent).only_read())),
            killed_by: says_who,
        },
        Mutant {
            name: "registers where it should only be read",
            world: Box::new(|| Box::new(World::new(Sound::default).only_read())),
            killed_by: says_who,
        },
        Mutant {
            name: "can only be read, and its backend does not write",
            world: Box::new(|| Box::new(World::new(|| Readable))),
            killed_by: says_who,
        },
        Mutant {
            name: "says that there are no names where it has no list",
            world: Box::new(|| Box::new(World::new(|| Readable).only_read().profile(|it| it.lists(false)))),
            killed_by: &["services::a_name_comes_with_the_first_instance"],
        },
        Mutant {
            name: "finds by address what is another instance",
            world: Box::new(|| Box::new(World::new(|| Addresses).only_read())),
            killed_by: &["register::found_at_once", "content::everything_is_read_back"],
        },
    ]
}

/// Can only be read, and says so.
pub(crate) struct Readable;

#[async_trait]
impl Flaw for Readable {
    async fn register(&self, inner: &MemoryRegistry, _: &Instance, _: &RegisterOptions) -> Result<()> {
        open(inner).await?;
        Err(Error::read_only("readable", "register", "the test"))
    }

    async fn deregister(&self, inner: &MemoryRegistry, _: &InstanceKey) -> Result<()> {
        open(inner).await?;
        Err(Error::read_only("readable", "deregister", "the test"))
    }

    async fn set_maintenance(&self, _: &MemoryRegistry, _: &InstanceKey, _: Option<&str>) -> Result<()> {
        Err(Error::read_only("readable", "set_maintenance", "the test"))
    }
}

/// Passes the answer of a closed handle on.
async fn open(inner: &MemoryRegistry) -> Result<()> {
    match inner.services().await {
        Err(error) if error.kind() == ErrorKind::Closed => Err(error),
        _ => Ok(()),
    }
}

/// Knows of an instance where it is and its weight, and of no list of names: as DNS.
pub(crate) struct Addresses;

/// What [`Addresses`] declares.
pub(crate) fn profile(strict: Profile) -> Profile {
    strict.reads(address).lists(false).ignores_case(true)
}

fn address(instance: &Instance) -> Instance {
    let only = Instance::builder(instance.service()).id(instance.address().to_string());
    only.address(instance.address()).weight(instance.weight().get()).build().expect("an instance")
}

fn no_list() -> Error {
    Error::new(ErrorKind::Unsupported, "addresses", "services", "there is no list of names")
}

#[async_trait]
impl Flaw for Addresses {
    fn read(&self, snapshot: Snapshot) -> Snapshot {
        Snapshot::new(snapshot.service().clone(), snapshot.all().iter().map(|it| address(it)))
    }

    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        Readable.register(inner, it, options).await
    }

    async fn deregister(&self, inner: &MemoryRegistry, key: &InstanceKey) -> Result<()> {
        Readable.deregister(inner, key).await
    }

    async fn set_maintenance(
        &self,
        inner: &MemoryRegistry,
        key: &InstanceKey,
        why: Option<&str>,
    ) -> Result<()> {
        Readable.set_maintenance(inner, key, why).await
    }

    async fn services(&self, inner: &MemoryRegistry) -> Result<BTreeSet<ServiceName>> {
        open(inner).await?;
        Err(no_list())
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        if inner.services().now_or_never().is_some_and(|now| now.is_err()) {
            return inner.watch_services();
        }
        once(async { Err(no_list()) }).chain(pending()).boxed()
    }
}

/// Refuses without saying who registers instead.
struct Silent;

#[async_trait]
impl Flaw for Silent {
    async fn register(&self, _: &MemoryRegistry, _: &Instance, _: &RegisterOptions) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "silent", "register", "this cannot be written"))
    }

    async fn deregister(&self, _: &MemoryRegistry, _: &InstanceKey) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "silent", "deregister", "this cannot be written"))
    }
}
