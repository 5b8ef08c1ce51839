use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::BoxStream;
use switchboard_core::{Change, ErrorKind, Instance, Result, Snapshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::world::Rules;

/// A watch that is being read, and everything that came out of it.
///
/// It holds every item to what the contract says of all of them: the stream never ends by itself, nothing equal is
/// repeated but after an error, and only passing errors are told.
pub(crate) struct Follow<T> {
    what: String,
    stream: BoxStream<'static, Result<T>>,
    seen: Vec<T>,
    /// Whether the latest that was told was an error.
    erred: bool,
    rules: Arc<Rules>,
}

impl<T: Clone + PartialEq + Debug> Follow<T> {
    pub(crate) fn new(what: String, stream: BoxStream<'static, Result<T>>, rules: Arc<Rules>) -> Self {
        Self { what, stream, seen: Vec::new(), erred: false, rules }
    }

    /// Everything read so far, oldest first.
    pub(crate) fn seen(&self) -> &[T] {
        &self.seen
    }

    /// The first item.
    pub(crate) async fn first(&mut self) -> T {
        self.until("a first item", |_| true).await
    }

    /// The latest item if it is as wanted, else the next one that is.
    pub(crate) async fn until(&mut self, wanted: &str, is_wanted: impl FnMut(&T) -> bool) -> T {
        self.until_within(self.rules.profile.settle, wanted, is_wanted).await
    }

    /// The same with another limit than [`Profile::settle`](crate::Profile::settle).
    pub(crate) async fn until_within(
        &mut self,
        limit: Duration,
        wanted: &str,
        mut is_wanted: impl FnMut(&T) -> bool,
    ) -> T {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(last) = self.seen.last() {
                if is_wanted(last) {
                    return last.clone();
                }
            }
            if !self.read(deadline).await {
                let last = self.seen.last();
                self.broken(&format!(
                    "did not tell of {wanted} within {limit:?}; the last it told was {last:#?}"
                ));
            }
        }
    }

    /// Reads whatever comes while `work` is being done, so that not even a passing state is missed.
    pub(crate) async fn during<W>(&mut self, work: impl Future<Output = W>) -> W {
        let mut work = pin!(work);
        loop {
            let far = Instant::now() + self.rules.profile.answer;
            match select(work.as_mut(), pin!(self.read(far))).await {
                Either::Left((done, _)) => return done,
                Either::Right(_) => {}
            }
        }
    }

    /// Reads whatever comes within `time`.
    pub(crate) async fn listen(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while self.read(deadline).await {}
    }

    /// Reads on until nothing has come for [`Profile::quiet`](crate::Profile::quiet).
    pub(crate) async fn rest(&mut self) {
        let limit = self.rules.profile.settle + self.rules.profile.quiet;
        let deadline = Instant::now() + limit;
        while self.read(Instant::now() + self.rules.profile.quiet).await {
            if Instant::now() >= deadline {
                self.broken(&format!("did not come to rest within {limit:?}, though nothing changes"));
            }
        }
    }

    /// Reads to the end: there must be one error that says `Closed`, and nothing after it.
    pub(crate) async fn closed(mut self) {
        let limit = self.rules.profile.settle;
        let deadline = Instant::now() + limit;
        loop {
            match timeout_at(deadline, self.stream.next()).await {
                Err(_) => self.broken(&format!("did not say Closed within {limit:?} of the close")),
                Ok(None) => self.broken("ended without saying Closed"),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) if error.is_transient() => {}
                Ok(Some(Err(error))) if error.kind() == ErrorKind::Closed => break,
                Ok(Some(Err(error))) => self.broken(&format!("did not say Closed but: {error}")),
            }
        }
        match timeout(limit, self.stream.next()).await {
            Err(_) => self.broken("said Closed and did not end"),
            Ok(None) => {}
            Ok(Some(more)) => self.broken(&format!("said Closed and went on with {more:#?}")),
        }
        // A loop with `select!` reads it once more.
        match timeout(limit, self.stream.next()).await {
            Ok(None) => {}
            other => self.broken(&format!("ended, and when it was read again: {other:#?}")),
        }
    }

    /// The first item must be an error of this kind.
    pub(crate) async fn refused(mut self, kind: ErrorKind) {
        match timeout(self.rules.profile.answer, self.stream.next()).await {
            Ok(Some(Err(error))) if error.kind() == kind => {}
            other => self
                .broken(&format!("should have begun with an error of kind {kind:?}, and did with {other:?}")),
        }
    }

    /// Reads on until an error is told.
    pub(crate) async fn until_error(&mut self) {
        let limit = self.rules.profile.answer;
        let deadline = Instant::now() + limit;
        while !self.erred {
            if self.one(deadline).await.is_none() {
                self.broken(&format!("told of no error within {limit:?} of the outage"));
            }
        }
    }

    /// After an error, reads on until a state is told, be it the same as before, and gives it.
    pub(crate) async fn recovered(&mut self) -> T {
        let limit = self.rules.profile.settle;
        let deadline = Instant::now() + limit;
        while self.erred {
            if self.one(deadline).await.is_none() {
                self.broken(&format!(
                    "told of an error, and nothing after it within {limit:?} of the end of the outage: the current \
                     state should be told again, equal or not"
                ));
            }
        }
        self.until("a state", |_| true).await
    }

    /// Reads on until anything is told, be it an error, but no longer than a call may take.
    pub(crate) async fn anything(&mut self) {
        self.one(Instant::now() + self.rules.profile.answer).await;
    }

    /// For `time`, nothing but errors may be told, and no more of them than `limit`.
    pub(crate) async fn only_errors(&mut self, limit: usize, time: Duration) {
        let deadline = Instant::now() + time;
        for _ in 0..=limit {
            match self.one(deadline).await {
                None => return,
                Some(false) => {}
                Some(true) => self.broken(&format!(
                    "told of an error and then, while the registry still could not be heard, {:#?}",
                    self.seen.last()
                )),
            }
        }
        self.broken(&format!("told of one outage with more than {limit} errors within {time:?}"));
    }

    /// Reads one item; `false` if none came before `deadline`.
    async fn read(&mut self, deadline: Instant) -> bool {
        loop {
            match self.one(deadline).await {
                None => return false,
                Some(true) => return true,
                Some(false) => {}
            }
        }
    }

    /// Reads an item or an error, and says whether it was an item; `None` if neither came before `deadline`.
    async fn one(&mut self, deadline: Instant) -> Option<bool> {
        match timeout_at(deadline, self.stream.next()).await {
            Err(_) => return None,
            Ok(None) => self.broken("ended, though nobody closed the registry"),
            Ok(Some(Err(error))) if error.is_transient() => self.erred = true,
            Ok(Some(Err(error))) => self.broken(&format!("told of an error: {error}")),
            Ok(Some(Ok(item))) => {
                if self.seen.last() == Some(&item) && !self.erred {
                    self.broken(&format!("repeated what it had just told: {item:#?}"));
                }
                self.erred = false;
                self.seen.push(item);
            }
        }
        Some(!self.erred)
    }

    fn broken(&self, how: &str) -> ! {
        self.rules.broken(&format!("{} {how}", self.what))
    }
}

impl Follow<Snapshot> {
    /// Reads on until there is no instance.
    pub(crate) async fn until_empty(&mut self) {
        self.until("no instance", Snapshot::is_empty).await;
    }

    /// Forgets what was read but for the latest.
    pub(crate) fn mark(&mut self) {
        self.seen.drain(..self.seen.len().saturating_sub(1));
    }

    /// Everything told since the last [`mark`](Self::mark) must have held `instance`.
    pub(crate) fn never_missed(&self, instance: &Instance) {
        let read = self.rules.profile.carried(instance);
        if self.seen.iter().any(|seen| seen.get(read.id()).is_none()) {
            self.broken(&format!("missed {:?}, which was there all the time: {:#?}", read.key(), self.seen));
        }
    }

    /// What changed since the last [`mark`](Self::mark), or since the first item.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.seen.windows(2).flat_map(|pair| pair[1].diff(&pair[0])).collect()
    }
}
