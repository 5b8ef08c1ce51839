use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use switchboard_core::time::{later, until};
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, NamesStream, RegisterOptions, Registry, Result, ServiceName,
    Snapshot, SnapshotStream,
};
use tokio::time::{Instant, timeout};

use crate::heard::{Heard, Told, Watches};
use crate::merged::Merged;
use crate::parts::Parts;

/// Reads the first registry that can be heard, and registers in all, so that it matters to nobody which one that is.
///
/// It goes on to the next when the one it reads has not been heard for its [`patience`](Self::patience), and comes back when an
/// earlier one has been heard without a break for [`return_after`](Self::return_after); a registry that comes and goes is not
/// followed. One that knows nobody does not take the place of one that knew somebody: then what stood stands, and the error is told,
/// if there is one. One that came back without some of those it knew has four times as long for them to register again.
///
/// What registering in several means is said by [the crate](crate).
pub struct Failover {
    parts: Parts,
    limits: Limits,
    /// When each registry last failed a lookup.
    failed: Mutex<Vec<Option<Instant>>>,
}

#[derive(Clone, Copy)]
struct Limits {
    patience: Duration,
    return_after: Duration,
}

impl Failover {
    /// Reads the first of these that can be heard.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if there are none.
    pub fn new(registries: Vec<Arc<dyn Registry>>) -> Result<Self> {
        let failed = Mutex::new(vec![None; registries.len()]);
        let limits = Limits { patience: Duration::from_secs(5), return_after: Duration::from_secs(30) };
        Ok(Self { parts: Parts::new("failover", registries)?, limits, failed })
    }

    /// For how long a registry may not be heard before the next one is read, in watches; and how long one may take to answer
    /// anything else while there are others. Default 5 s, in which an agent restarts.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.limits.patience = patience;
        self
    }

    /// For how long an earlier registry must have been heard without a break before it is read again. Default 30 s, in which
    /// registrars renew. Lookups ask one that failed last for as long.
    pub fn return_after(mut self, time: Duration) -> Self {
        self.limits.return_after = time;
        self
    }

    /// Asks one after the other, those last that failed of late.
    async fn ask<T: Merged, F: Future<Output = Result<T>>>(
        &self,
        operation: &'static str,
        call: impl Fn(Arc<dyn Registry>) -> F,
    ) -> Result<T> {
        let mut errors: Vec<(usize, Error)> = Vec::new();
        let mut order = VecDeque::from(self.order());
        let several = order.len() > 1;
        while let Some(at) = order.pop_front() {
            let asked = call(self.parts.list()[at].clone());
            let answer = if several {
                let mut given_up = GivenUp { failover: self, at, begun: Instant::now(), answered: false };
                let answer = timeout(self.limits.patience, asked).await;
                given_up.answered = true;
                answer.unwrap_or_else(|_| Err(self.late(operation)))
            } else {
                asked.await
            };
            match answer {
                Err(error) if error.kind() == ErrorKind::Invalid => return Err(error),
                Err(error) => {
                    self.failures()[at] = Some(Instant::now());
                    errors.push((at, error));
                }
                // Whether an earlier one knows somebody is not known yet, or never.
                Ok(state)
                    if state.is_nobody()
                        && errors.iter().map(|(failed, _)| failed).chain(&order).any(|other| *other < at) => {
                }
                Ok(state) => return Ok(state),
            }
        }
        Err(self.parts.error(operation, errors))
    }

    fn order(&self) -> Vec<usize> {
        let failed = self.failures();
        let is_out = |at: &usize| failed[*at].is_some_and(|when| when.elapsed() < self.limits.return_after);
        let (out, fine): (Vec<usize>, Vec<usize>) = (0..failed.len()).partition(is_out);
        [fine, out].concat()
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Vec<Option<Instant>>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn late(&self, operation: &'static str) -> Error {
        let message = format!("no answer within {:?}", self.limits.patience);
        Error::new(ErrorKind::Unavailable, self.parts.name(), operation, message)
    }

    fn follow<T: Merged>(
        &self,
        streams: impl IntoIterator<Item = BoxStream<'static, Result<T>>>,
    ) -> BoxStream<'static, Result<T>> {
        let watches = Watches::new(streams);
        let start = Following { watches, limits: self.limits, active: 0, told: Told::Nothing, ended: false };
        unfold(start, |mut following| async move {
            if following.ended {
                return None;
            }
            loop {
                let due = following.choose(Instant::now());
                if let Some(news) = following.news() {
                    return Some((news, following));
                }
                tokio::select! {
                    () = following.watches.next() => {}
                    () = until(due) => {}
                }
            }
        })
        .fuse()
        .boxed()
    }
}

/// Notes when it is dropped that a registry did not answer for most of its patience, and whoever asked has gone.
struct GivenUp<'a> {
    failover: &'a Failover,
    at: usize,
    begun: Instant,
    answered: bool,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if !self.answered && self.begun.elapsed() >= self.failover.limits.patience / 2 {
            self.failover.failures()[self.at] = Some(Instant::now());
        }
    }
}

struct Following<T> {
    watches: Watches<T>,
    limits: Limits,
    active: usize,
    told: Told<T>,
    ended: bool,
}

impl<T: Merged> Following<T> {
    /// Chooses which registry to read. Returns when that is to be done again, if nothing is heard until then.
    fn choose(&mut self, now: Instant) -> Option<Instant> {
        let parts = &self.watches.parts;
        let knew = |at: usize| parts[at].last.as_ref().is_some_and(|last| !last.is_nobody());
        let active = &parts[self.active];
        if active.is_heard() {
            // Back to an earlier one that has been heard for long.
            let back = |at: usize| Some((at, later(parts[at].since, self.returns_after(at)?)));
            let earlier = (0..self.active).filter(|&at| parts[at].is_heard()).filter_map(back);
            let (ready, waiting): (Vec<_>, Vec<_>) = earlier.partition(|(_, when)| *when <= now);
            if let Some(&(at, _)) = ready.first() {
                self.active = at;
            }
            return waiting.into_iter().map(|(_, when)| when).min();
        }
        // Where nothing stands there is nothing to be patient for.
        let until = later(active.since, self.limits.patience);
        if now < until && (active.last.is_some() || active.error.is_none()) {
            return Some(until);
        }
        // One that knows nobody is believed where all before it are heard.
        let believed = |at: usize| !knew(self.active) && parts[..at].iter().all(Heard::is_heard);
        let next = (0..parts.len()).find(|&at| parts[at].is_heard() && (knew(at) || believed(at)));
        if let Some(at) = next {
            self.active = at;
            return None;
        }
        (now < until).then_some(until)
    }

    /// For how long an earlier one must have been heard; `None` while it has forgotten all.
    fn returns_after(&self, earlier: usize) -> Option<Duration> {
        let [now, then] = [self.active, earlier].map(|at| self.watches.parts[at].last.as_ref());
        match (now?, then?) {
            (now, then) if then.covers(now) => Some(self.limits.return_after),
            (_, then) if then.is_nobody() => None,
            _ => Some(self.limits.return_after.saturating_mul(4)),
        }
    }

    /// Whether nothing has been told, and one that has not said a thing has time to.
    fn may_begin_better(&self) -> bool {
        let parts = &self.watches.parts;
        let is_silent = parts.iter().any(Heard::is_silent);
        let until = later(parts[self.active].since, self.limits.patience);
        matches!(self.told, Told::Nothing) && is_silent && Instant::now() < until
    }

    fn news(&mut self) -> Option<Result<T>> {
        if self.watches.have_ended() {
            self.ended = true;
            return Some(Err(Error::closed("failover", "watch")));
        }
        let active = &self.watches.parts[self.active];
        match (&active.last, active.outage()) {
            // Another may have something to tell.
            (None, Some(_)) if self.may_begin_better() => None,
            (_, Some(error)) => self.told.news(Err(error.clone())),
            (Some(last), None) if active.is_heard() => self.told.news(Ok(last.clone())),
            _ => None,
        }
    }
}

#[async_trait]
impl Registry for Failover {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        self.parts.register(instance, options).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.parts.deregister(key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.ask("lookup", |part| async move { part.lookup(service).await }).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.ask("services", |part| async move { part.services().await }).await
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

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.display(f, " | ")
    }
}

impl fmt::Debug for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Failover").field(&self.parts).finish()
    }
}
