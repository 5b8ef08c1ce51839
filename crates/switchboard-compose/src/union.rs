use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use switchboard_core::time::until;
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, NamesStream, RegisterOptions, Registry, Result, ServiceName,
    Snapshot, SnapshotStream,
};
use tokio::time::Instant;

use crate::heard::{Heard, Told, Watches};
use crate::merged::Merged;
use crate::parts::{Parts, answers};

/// So long the first to answer waits for the others.
const PATIENCE: Duration = Duration::from_secs(3);

/// Of so many services lookups remember what each registry last said; of others a lookup in an outage is a part.
const REMEMBERED: usize = 4096;

/// All that several registries have, each id once: of two instances with one id, that of the earlier registry.
///
/// Registers in all of them; see [the crate](crate).
///
/// While at least one can be heard, the others contribute what they said last. Such a snapshot is not
/// [complete](Snapshot::is_complete). A watch tells an `Err` when none can be heard any more, or when those that can know nobody
/// and another never said a thing. One that hangs holds up a first answer by three seconds.
pub struct Union {
    parts: Parts,
    /// What each registry last said of a service when it was looked up.
    lookups: Memory<ServiceName, Snapshot>,
    names: Memory<(), BTreeSet<ServiceName>>,
}

type Memory<K, T> = Mutex<BTreeMap<K, Vec<Option<T>>>>;

impl Union {
    /// Unites these; the earlier ones win.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if there are none.
    pub fn new(registries: Vec<Arc<dyn Registry>>) -> Result<Self> {
        let parts = Parts::new("union", registries)?;
        Ok(Self { parts, lookups: Memory::default(), names: Memory::default() })
    }

    /// Asks all, and answers with what they say together.
    async fn ask<K: Ord, T: Merged, F: Future<Output = Result<T>>>(
        &self,
        operation: &'static str,
        memory: &Memory<K, T>,
        key: K,
        call: impl Fn(Arc<dyn Registry>) -> F,
    ) -> Result<T> {
        let said = answers(self.parts.list().iter().cloned().map(call), PATIENCE).await;
        let mut failed: Vec<(usize, Error)> = Vec::new();
        let mut heard = Vec::new();
        for (at, answer) in said.into_iter().enumerate() {
            match answer {
                Some(Ok(state)) => heard.push(Some(state)),
                Some(Err(error)) => {
                    failed.push((at, error));
                    heard.push(None);
                }
                None => {
                    failed.push((at, late(self.parts.name(), operation)));
                    heard.push(None);
                }
            }
        }
        if failed.len() == heard.len() {
            return Err(self.parts.error(operation, failed));
        }
        let known = remember(memory, key, heard);
        let unknown = known.iter().any(Option::is_none);
        let known: Vec<T> = known.into_iter().flatten().collect();
        let merged = T::merged(&known, failed.is_empty());
        if unknown && merged.is_nobody() { Err(self.parts.error(operation, failed)) } else { Ok(merged) }
    }

    fn follow<T: Merged>(
        &self,
        streams: impl IntoIterator<Item = BoxStream<'static, Result<T>>>,
    ) -> BoxStream<'static, Result<T>> {
        follow(self.parts.name(), streams)
    }
}

fn late(name: &'static str, operation: &'static str) -> Error {
    let why = format!("no answer {PATIENCE:?} after another registry had one");
    Error::new(ErrorKind::Unavailable, name, operation, why)
}

/// Takes in what was heard, and tells what each registry said last.
fn remember<K: Ord, T: Merged>(memory: &Memory<K, T>, key: K, heard: Vec<Option<T>>) -> Vec<Option<T>> {
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    let before = memory.remove(&key).unwrap_or_default();
    let mut before = before.into_iter();
    let known: Vec<Option<T>> = heard.into_iter().map(|heard| heard.or(before.next().flatten())).collect();
    if memory.len() < REMEMBERED {
        memory.insert(key, known.clone());
    }
    known
}

struct Following<T> {
    name: &'static str,
    watches: Watches<T>,
    told: Told<T>,
    /// Until when the first state waits for those that have not said a thing.
    waits: Option<Instant>,
    ended: bool,
}

/// One watch over several, which tells what they say together.
pub(crate) fn follow<T: Merged>(
    name: &'static str,
    streams: impl IntoIterator<Item = BoxStream<'static, Result<T>>>,
) -> BoxStream<'static, Result<T>> {
    let start =
        Following { name, watches: Watches::new(streams), told: Told::Nothing, waits: None, ended: false };
    unfold(start, |mut following| async move {
        if following.ended {
            return None;
        }
        loop {
            if let Some(news) = following.news() {
                return Some((news, following));
            }
            let waits = following.waits;
            tokio::select! {
                () = following.watches.next() => {}
                () = until(waits) => {}
            }
        }
    })
    .fuse()
    .boxed()
}

impl<T: Merged> Following<T> {
    fn news(&mut self) -> Option<Result<T>> {
        if self.watches.have_ended() {
            self.ended = true;
            return Some(Err(Error::closed(self.name, "watch")));
        }
        let parts = &self.watches.parts;
        let silent = parts.iter().any(Heard::is_silent);
        if silent
            && matches!(self.told, Told::Nothing)
            && parts.iter().any(|part| part.is_heard() || part.error.is_some())
        {
            // Whoever has not said a thing gets some time to.
            let until = *self.waits.get_or_insert_with(|| Instant::now() + PATIENCE);
            if Instant::now() < until {
                return None;
            }
        }
        self.waits = None;
        let known: Vec<T> = parts.iter().filter_map(|part| part.last.clone()).collect();
        let error = parts.iter().find_map(|part| part.outage().cloned());
        let is_heard = parts.iter().any(Heard::is_heard);
        let unknown = known.len() < parts.len();
        let whole = parts.iter().all(Heard::is_heard);
        let merged =
            is_heard.then(|| T::merged(&known, whole)).filter(|merged| !unknown || !merged.is_nobody());
        match (merged, error) {
            (Some(merged), _) => self.told.news(Ok(merged)),
            (None, Some(error)) => self.told.news(Err(error)),
            (None, None) if is_heard => self.told.news(Err(late(self.name, "watch"))),
            (None, None) => None,
        }
    }
}

#[async_trait]
impl Registry for Union {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        self.parts.register(instance, options).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.parts.deregister(key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        let call = |part: Arc<dyn Registry>| async move { part.lookup(service).await };
        self.ask("lookup", &self.lookups, service.clone(), call).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        let call = |part: Arc<dyn Registry>| async move { part.services().await };
        self.ask("services", &self.names, (), call).await
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        self.follow(self.parts.list().iter().map(|part| part.watch(service)))
    }

    fn watch_services(&self) -> NamesStream {
        self.follow(self.parts.list().iter().map(Registry::watch_services))
    }

    async fn suspect(&self, key: &InstanceKey) {
        self.parts.suspect(key).await;
    }

    async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        self.parts.set_maintenance(key, reason).await
    }

    async fn local_ip(&self) -> Option<IpAddr> {
        self.parts.local_ip().await
    }

    fn parts(&self) -> Vec<Arc<dyn Registry>> {
        self.parts.list().to_vec()
    }

    async fn close(&self) -> Result<()> {
        self.parts.close().await
    }
}

impl fmt::Display for Union {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.display(f, " + ")
    }
}

impl fmt::Debug for Union {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Union").field(&self.parts).finish()
    }
}
