//! Flaws of registries that cannot be heard.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt, iter, unfold};
use switchboard_conformance::async_trait;
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, MemoryRegistry, NamesStream, RegisterOptions, Registry, Result,
    ServiceName, Snapshot, SnapshotStream,
};
use tokio::time::timeout;

use crate::broken::Flaw;
use crate::{Mutant, mutant};

const SAME: &str = "outage::a_watch_tells_the_same_again_after_an_error";
const NAMES: &str = "outage::a_watch_of_names_tells_the_same_again_after_an_error";
const CHANGED: &str = "outage::what_changed_meanwhile_is_told";
const LOOKUP: &str = "outage::a_lookup_never_loses_what_is_there";
const LISTED: &str = "outage::the_names_never_lose_what_is_there";
const REGISTERED: &str = "outage::a_registration_fails_or_is_there";
const DEREGISTERED: &str = "outage::a_deregistration_fails_or_is_done";
const ANSWERED: &str = "outage::every_call_is_answered";
const BEGUN: &str = "outage::a_watch_begun_in_it_never_lies";
const AGAIN: &str = "outage::it_is_not_told_again_and_again";
const LEFT: &str = "outage::close_says_what_is_left";

pub(crate) fn mutants() -> Vec<Mutant> {
    vec![
        mutant("forgets to tell an equal state after an error", &[SAME, NAMES], || || Forgets),
        mutant("keeps outages to itself", &[SAME, NAMES, CHANGED], || || Hushes),
        mutant("tells of nothing in an outage", &[CHANGED, BEGUN, AGAIN], || || Empties),
        mutant("finds nothing in an outage", &[LOOKUP, LISTED], || || Empties),
        mutant("is silent after an error", &[SAME, NAMES, CHANGED], || || FallsSilent),
        mutant("fails in an outage as for good", &[LOOKUP, LISTED, REGISTERED, DEREGISTERED], || || GivesUp),
        mutant("says it has done what an outage hindered", &[REGISTERED, DEREGISTERED], || || Pretends),
        mutant("says it has replaced what an outage hindered", &[REGISTERED], || || PretendsToReplace),
        mutant("registers for ever in an outage", &[REGISTERED, ANSWERED], || || Hangs("register")),
        mutant("deregisters for ever in an outage", &[DEREGISTERED, ANSWERED], || || Hangs("deregister")),
        mutant("looks up for ever in an outage", &[LOOKUP, ANSWERED], || || Hangs("lookup")),
        mutant("lists for ever in an outage", &[LISTED, ANSWERED], || || Hangs("services")),
        mutant("closes for ever in an outage", &[LEFT, ANSWERED], || || Hangs("close")),
        mutant("begins a watch in an outage with nothing", &[BEGUN], || || BeginsEmpty { names: false }),
        mutant("begins a watch of names in an outage with nothing", &[BEGUN], || {
            || BeginsEmpty { names: true }
        }),
        mutant("tells an outage every 10 ms", &[AGAIN], || || Nags { names: false }),
        mutant("tells watches of names an outage every 10 ms", &[AGAIN], || || Nags { names: true }),
        mutant("tells what it last knew as if it were heard", &[AGAIN], || || Reassures),
        mutant("leaves instances and closes well", &[LEFT], || || Leaves::saying(None)),
        mutant("leaves instances and does not say which", &[LEFT], || {
            || Leaves::saying(Some(|_| "cut off".into()))
        }),
        mutant("stays open if an outage hinders its close", &[LEFT], || || StaysOpen),
    ]
}

/// Tells only what differs from what it told last, whatever error came between.
struct Forgets;

fn news<T: Clone + PartialEq + Send + 'static>(
    stream: BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    let mut last = None;
    let news = move |item: &Result<T>| {
        let now = item.as_ref().ok();
        let same = now.is_some() && last.as_ref() == now;
        last = now.cloned().or(last.take());
        std::future::ready(!same)
    };
    stream.filter(news).boxed()
}

impl Flaw for Forgets {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        news(inner.watch(service))
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        news(inner.watch_services())
    }
}

/// Says nothing of an outage.
struct Hushes;

impl Flaw for Hushes {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        hushed(inner.watch(service))
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        hushed(inner.watch_services())
    }
}

fn hushed<T: Clone + PartialEq + Send + 'static>(
    stream: BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    news(stream).filter(|item| std::future::ready(item.is_ok())).boxed()
}

/// Takes a registry that is not heard for one that has nothing.
struct Empties;

#[async_trait]
impl Flaw for Empties {
    async fn lookup(&self, inner: &MemoryRegistry, service: &ServiceName) -> Result<Snapshot> {
        Ok(inner.lookup(service).await.unwrap_or_else(|_| Snapshot::empty(service.clone())))
    }

    async fn services(&self, inner: &MemoryRegistry) -> Result<BTreeSet<ServiceName>> {
        Ok(inner.services().await.unwrap_or_default())
    }

    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        let service = service.clone();
        let emptied = inner.watch(&service).flat_map(move |item| {
            let empty = item.is_err().then(|| Ok(Snapshot::empty(service.clone())));
            futures::stream::iter([Some(item), empty].into_iter().flatten())
        });
        emptied.boxed()
    }
}

/// Its watches tell an error and then nothing any more.
struct FallsSilent;

fn silenced<T: Send + 'static>(stream: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
    let mut fell = false;
    let told = stream.take_while(move |item| {
        let silent = fell;
        fell |= item.is_err();
        std::future::ready(!silent)
    });
    told.chain(futures::stream::pending()).boxed()
}

impl Flaw for FallsSilent {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        silenced(inner.watch(service))
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        silenced(inner.watch_services())
    }
}

fn is_outage<T>(result: &Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::Unavailable)
}

pub(crate) async fn is_cut(inner: &MemoryRegistry) -> bool {
    is_outage(&inner.services().await)
}

/// Takes an outage for a registry that makes no sense.
struct GivesUp;

fn given_up<T>(result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.is_transient() => {
            Err(Error::new(ErrorKind::Protocol, "broken", "call", "no answer is no HTTP"))
        }
        other => other,
    }
}

#[async_trait]
impl Flaw for GivesUp {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        given_up(inner.register(it, options).await)
    }

    async fn deregister(&self, inner: &MemoryRegistry, key: &InstanceKey) -> Result<()> {
        given_up(inner.deregister(key).await)
    }

    async fn lookup(&self, inner: &MemoryRegistry, service: &ServiceName) -> Result<Snapshot> {
        given_up(inner.lookup(service).await)
    }

    async fn services(&self, inner: &MemoryRegistry) -> Result<BTreeSet<ServiceName>> {
        given_up(inner.services().await)
    }
}

/// Says in an outage that it has done what it was told.
struct Pretends;

fn pretended(result: Result<()>) -> Result<()> {
    if is_outage(&result) { Ok(()) } else { result }
}

#[async_trait]
impl Flaw for Pretends {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        pretended(inner.register(it, options).await)
    }

    async fn deregister(&self, inner: &MemoryRegistry, key: &InstanceKey) -> Result<()> {
        pretended(inner.deregister(key).await)
    }
}

/// Says in an outage that it has replaced what is registered already.
struct PretendsToReplace;

#[async_trait]
impl Flaw for PretendsToReplace {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        let known = inner.handle().lookup(it.service()).await?.get(it.id()).is_some();
        let registered = inner.register(it, options).await;
        if known { pretended(registered) } else { registered }
    }
}

/// Never answers this call in an outage.
struct Hangs(&'static str);

impl Hangs {
    async fn unless_cut(&self, inner: &MemoryRegistry, call: &str) {
        if self.0 == call && is_cut(inner).await {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Flaw for Hangs {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        self.unless_cut(inner, "register").await;
        inner.register(it, options).await
    }

    async fn deregister(&self, inner: &MemoryRegistry, key: &InstanceKey) -> Result<()> {
        self.unless_cut(inner, "deregister").await;
        inner.deregister(key).await
    }

    async fn lookup(&self, inner: &MemoryRegistry, service: &ServiceName) -> Result<Snapshot> {
        self.unless_cut(inner, "lookup").await;
        inner.lookup(service).await
    }

    async fn services(&self, inner: &MemoryRegistry) -> Result<BTreeSet<ServiceName>> {
        self.unless_cut(inner, "services").await;
        inner.services().await
    }

    async fn close(&self, inner: &MemoryRegistry) -> Result<()> {
        self.unless_cut(inner, "close").await;
        inner.close().await
    }
}

/// Its watches of instances, or of names, tell of nothing before the error if that is what they begin with.
struct BeginsEmpty {
    names: bool,
}

fn begun<T: Clone + Send + 'static>(
    stream: BoxStream<'static, Result<T>>,
    empty: T,
) -> BoxStream<'static, Result<T>> {
    let mut empty = Some(empty);
    let told = stream.flat_map(move |item| {
        let before = empty.take().filter(|_| item.is_err());
        iter([before.map(Ok), Some(item)].into_iter().flatten())
    });
    told.boxed()
}

impl Flaw for BeginsEmpty {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        let stream = inner.watch(service);
        if self.names { stream } else { begun(stream, Snapshot::empty(service.clone())) }
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        let stream = inner.watch_services();
        if self.names { begun(stream, BTreeSet::new()) } else { stream }
    }
}

/// Its watches of instances, or of names, tell an error again and again until there is something else.
struct Nags {
    names: bool,
}

const NAGS_AFTER: Duration = Duration::from_millis(10);

/// `stream`, with its errors told again after a pause, which grows by `growth` each time, until something else comes.
pub(crate) fn nagging<T: Send + 'static>(
    stream: BoxStream<'static, Result<T>>,
    first: Duration,
    growth: u32,
) -> BoxStream<'static, Result<T>> {
    let told = unfold((stream, None), move |(mut stream, told)| async move {
        let next = stream.next();
        let (item, pause) = match told {
            None => (next.await?, first),
            Some((error, pause)) => match timeout(pause, next).await {
                Ok(item) => (item?, first),
                Err(_) => (Err(error), pause * growth),
            },
        };
        let told = item.as_ref().err().map(|error| (error.clone(), pause));
        Some((item, (stream, told)))
    });
    told.fuse().boxed()
}

impl Flaw for Nags {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        let stream = inner.watch(service);
        if self.names { stream } else { nagging(stream, NAGS_AFTER, 1) }
    }

    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        let stream = inner.watch_services();
        if self.names { nagging(stream, NAGS_AFTER, 1) } else { stream }
    }
}

/// Tells after an error, at once, what it told before.
struct Reassures;

impl Flaw for Reassures {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        let mut last = None;
        let told = inner.watch(service).flat_map(move |item| {
            let again = item.is_err().then(|| last.clone().map(Ok)).flatten();
            last = item.as_ref().ok().cloned().or(last.take());
            iter([Some(item), again].into_iter().flatten())
        });
        told.boxed()
    }
}

/// Closed in an outage, it leaves behind all that it registered.
pub(crate) struct Leaves {
    registered: Mutex<Vec<Instance>>,
    /// Has what was left, so that it stays.
    keeper: Mutex<Option<MemoryRegistry>>,
    /// What `close` fails with, if it does.
    saying: Option<Says>,
}

type Says = fn(&[Instance]) -> String;

impl Leaves {
    pub(crate) fn saying(saying: Option<Says>) -> Self {
        Self { registered: Mutex::default(), keeper: Mutex::default(), saying }
    }
}

#[async_trait]
impl Flaw for Leaves {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        self.registered.lock().expect("no panic").push(it.clone());
        inner.register(it, options).await
    }

    async fn close(&self, inner: &MemoryRegistry) -> Result<()> {
        if !is_cut(inner).await {
            return inner.close().await;
        }
        let keeper = inner.handle();
        let registered = std::mem::take(&mut *self.registered.lock().expect("no panic"));
        for instance in &registered {
            keeper.register(instance, &RegisterOptions::new()).await?;
        }
        *self.keeper.lock().expect("no panic") = Some(keeper);
        inner.close().await?;
        let Some(saying) = self.saying else { return Ok(()) };
        Err(Error::new(ErrorKind::Unavailable, "broken", "close", saying(&registered)))
    }
}

/// Names what is left when an outage hinders its close, and is not closed then.
struct StaysOpen;

#[async_trait]
impl Flaw for StaysOpen {
    async fn close(&self, inner: &MemoryRegistry) -> Result<()> {
        if !is_cut(inner).await {
            return inner.close().await;
        }
        let world = inner.handle();
        let mut left = Vec::new();
        for service in world.services().await? {
            left.extend(world.lookup(&service).await?.all().iter().map(|it| it.key().to_string()));
        }
        Err(Error::new(ErrorKind::Unavailable, "broken", "close", left.join(", ")))
    }
}
