//! Flaws in how a handle closes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use futures::StreamExt;
use switchboard_conformance::async_trait;
use switchboard_core::{
    Error, Instance, MemoryRegistry, NamesStream, RegisterOptions, Registry, Result, ServiceName, Snapshot,
    SnapshotStream,
};
use tokio::sync::watch;
use tokio::task::yield_now;

use crate::broken::Flaw;
use crate::{Mutant, mutant};

pub(crate) fn mutants() -> Vec<Mutant> {
    vec![
        mutant(
            "leaves its instances when closed",
            &["close::deregisters_its_own_and_only_that", "close::closing_twice_succeeds"],
            || LeavesInstances::default,
        ),
        mutant("takes other handles' instances along", &["close::deregisters_its_own_and_only_that"], || {
            || TakesAll
        }),
        mutant("fails to close again", &["close::closing_twice_succeeds"], || ClosesOnce::default),
        mutant("fails to close while closing", &["close::closing_twice_at_once_succeeds"], || {
            ClosesAlone::default
        }),
        mutant("answers after it was closed", &["close::every_call_says_closed"], || Answers::default),
        mutant("waits on in open watches", &["close::open_watches_say_closed_and_end"], || Answers::default),
        mutant(
            "ends watches without a word",
            &["close::open_watches_say_closed_and_end", "close::new_watches_say_closed_and_end"],
            || || EndsSilently,
        ),
        mutant("says Closed for ever", &["close::new_watches_say_closed_and_end"], || || SaysOn),
        mutant("closes every handle", &["close::the_other_handle_goes_on"], || {
            let closed = Arc::new(watch::Sender::new(false));
            move || ClosesAll(closed.clone())
        }),
        mutant("leaves tasks behind", &["close::no_task_stays_behind"], || || LeavesTasks),
    ]
}

/// Registers by a handle of which `close` knows nothing.
#[derive(Default)]
struct LeavesInstances(OnceLock<MemoryRegistry>);

#[async_trait]
impl Flaw for LeavesInstances {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        self.0.get_or_init(|| inner.handle()).register(it, options).await
    }
}

struct TakesAll;

#[async_trait]
impl Flaw for TakesAll {
    async fn close(&self, inner: &MemoryRegistry) -> Result<()> {
        for service in inner.services().await.unwrap_or_default() {
            for it in inner.lookup(&service).await?.all() {
                inner.deregister(&it.key()).await?;
            }
        }
        inner.close().await
    }
}

#[derive(Default)]
struct ClosesOnce(AtomicBool);

#[async_trait]
impl Flaw for ClosesOnce {
    async fn close(&self, inner: &MemoryRegistry) -> Result<()> {
        if self.0.swap(true, Ordering::SeqCst) {
            return Err(Error::closed("broken", "close"));
        }
        inner.close().await
    }
}

#[derive(Default)]
struct ClosesAlone(AtomicBool);

#[async_trait]
impl Flaw for ClosesAlone {
    async fn close(&self, inner: &MemoryRegistry) -> Result<()> {
        if self.0.swap(true, Ordering::SeqCst) {
            return Err(Error::closed("broken", "close"));
        }
        yield_now().await;
        self.0.store(false, Ordering::SeqCst);
        inner.close().await
    }
}

/// Reads by a handle that stays open.
#[derive(Default)]
struct Answers(OnceLock<MemoryRegistry>);

#[async_trait]
impl Flaw for Answers {
    async fn lookup(&self, inner: &MemoryRegistry, service: &ServiceName) -> Result<Snapshot> {
        self.0.get_or_init(|| inner.handle()).lookup(service).await
    }

    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        self.0.get_or_init(|| inner.handle()).watch(service)
    }
}

struct EndsSilently;

impl Flaw for EndsSilently {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        inner.watch(service).take_while(|item| std::future::ready(item.is_ok())).boxed()
    }
}

struct SaysOn;

impl Flaw for SaysOn {
    fn watch_services(&self, inner: &MemoryRegistry) -> NamesStream {
        let closed = futures::stream::repeat_with(|| Err(Error::closed("broken", "watch_services")));
        inner.watch_services().chain(closed).boxed()
    }
}

/// Ends the watches of every handle when one is closed.
struct ClosesAll(Arc<watch::Sender<bool>>);

#[async_trait]
impl Flaw for ClosesAll {
    fn watch(&self, inner: &MemoryRegistry, service: &ServiceName) -> SnapshotStream {
        let mut closed = self.0.subscribe();
        let closed = async move { closed.wait_for(|closed| *closed).await.is_ok() };
        inner.watch(service).take_until(Box::pin(closed)).boxed()
    }

    async fn close(&self, inner: &MemoryRegistry) -> Result<()> {
        self.0.send_replace(true);
        inner.close().await
    }
}

struct LeavesTasks;

#[async_trait]
impl Flaw for LeavesTasks {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        tokio::spawn(std::future::pending::<()>());
        inner.register(it, options).await
    }
}
