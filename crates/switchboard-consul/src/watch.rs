//! Watching by blocking queries (<https://developer.hashicorp.com/consul/api-docs/features/blocking>).
//!
//! One watch is one stream, and one connection unless the handle has many: see `turns`. It goes on while it is polled and
//! stops when it is dropped; only a read under a share of the agent is a task, so that it ends whether it is polled or not.
//! Who wants many readers of one service shares a watch, as `switchboard-watcher` does.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::{self, BoxStream, unfold};
use switchboard_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::BACKEND;
use crate::answer::Answer;
use crate::client::Client;
use crate::feed::Sources;
use crate::grace::Grace;
use crate::pace::{Backoff, Pace};
use crate::query::Query;
use crate::rights;
use crate::turns::{self, Crowd, Turn, Turns, block, limited};

/// What all watches of a handle share.
#[derive(Debug)]
pub(crate) struct Watches {
    pub(crate) client: Arc<Client>,
    pub(crate) closed: watch::Sender<bool>,
    /// What tells which services change, for a handle that follows many.
    pub(crate) sources: Sources,
    pub(crate) crowd: Crowd,
    pub(crate) wait: Duration,
    pub(crate) rejoin_grace: Duration,
}

impl Watches {
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// One read.
    pub(crate) async fn once<Q: Query>(&self, operation: &'static str, mut query: Q) -> Result<Q::Item> {
        let answer = self.client.read(operation, query.request()).await.map_err(|failure| failure.error)?;
        let item = read(&mut query, &answer, operation)?;
        if Q::is_empty(&item) {
            rights::check(&self.client, operation, &query).await?;
        }
        Ok(item)
    }

    /// What is read, first and on every change.
    pub(crate) fn follow<Q: Query>(
        self: &Arc<Self>,
        operation: &'static str,
        query: Q,
    ) -> BoxStream<'static, Result<Q::Item>> {
        let watch = Watch {
            turns: Turns::new(self, query.service()),
            shared: self.clone(),
            operation,
            query,
            index: 0,
            last: None,
            erred: false,
            not_before: Instant::now(),
            pace: Pace::new(),
            backoff: Backoff::default(),
            grace: Grace::new(self.rejoin_grace),
        };
        let closed = self.closed.subscribe();
        unfold(Some((watch, closed)), move |state| async move {
            let (mut watch, mut closed) = state?;
            let item = match select(pin!(closed.wait_for(|closed| *closed)), pin!(watch.next())).await {
                Either::Left(_) => None,
                Either::Right((item, _)) => Some(item),
            };
            match item {
                None => Some((Err(Error::closed(BACKEND, operation)), None)),
                Some(item) => Some((item, Some((watch, closed)))),
            }
        })
        .fuse()
        .boxed()
    }

    /// A watch of what can never be read: says so once, and then waits for the end.
    pub(crate) fn refuse<T: Send + 'static>(
        &self,
        operation: &'static str,
        error: Error,
    ) -> BoxStream<'static, Result<T>> {
        let mut closed = self.closed.subscribe();
        let end = async move {
            // An error says that the handle was dropped, which is an end too.
            let _ = closed.wait_for(|closed| *closed).await;
            Err(Error::closed(BACKEND, operation))
        };
        stream::once(async { Err(error) }).chain(stream::once(end)).boxed()
    }
}

/// The state of one watch between two requests.
struct Watch<Q: Query> {
    shared: Arc<Watches>,
    operation: &'static str,
    turns: Turns,
    query: Q,
    /// The index to wait beyond; 0 asks for what is now.
    index: u64,
    /// What was published last.
    last: Option<Q::Item>,
    /// An error was told after it, so what is read next is told, equal or not.
    erred: bool,
    /// The end of the pause after a failure.
    not_before: Instant,
    pace: Pace,
    backoff: Backoff,
    grace: Grace<Q::Key>,
}

impl<Q: Query> Watch<Q> {
    async fn next(&mut self) -> Result<Q::Item> {
        loop {
            sleep_until(self.not_before.max(self.pace.next())).await;
            match self.ask().await {
                Ok(answer) => {
                    let read = match read(&mut self.query, &answer, self.operation) {
                        Ok(item) if self.is_doubtful(&item) => self.make_sure().await,
                        read => read.map(|item| (answer, item)),
                    };
                    let (answer, item) = match read {
                        Ok(read) => read,
                        Err(error) => return Err(self.failed(error)),
                    };
                    if let Some(item) = self.answered(&answer, item) {
                        return Ok(item);
                    }
                }
                Err(error) => {
                    // A read without an index asks every agent, so it is the one to fail for all.
                    if self.index > 0 && self.shared.client.agents.len() > 1 && error.is_transient() {
                        tracing::debug!(%error, "turning to another agent");
                        self.index = 0;
                    } else {
                        return Err(self.failed(error));
                    }
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<Answer> {
        let (client, operation) = (&self.shared.client, self.operation);
        let grace = self.grace.left(Instant::now());
        let request = self.query.request();
        match self.turns.next(&self.shared, self.index, grace).await {
            Err(failure) => Err(failure),
            Ok(Turn::Read(permit)) => turns::read(client, permit, operation, request).await,
            Ok(Turn::Block(_permit)) => {
                let wait = grace.map_or(self.shared.wait, |left| left.min(self.shared.wait));
                let request = block(request.clone(), self.index, wait.max(Duration::from_millis(1)));
                client.read_preferred(operation, &request).await
            }
        }
        .map_err(|failure| self.grace.failed(failure))
    }

    /// Whether it is news that there is nobody.
    fn is_doubtful(&self, item: &Q::Item) -> bool {
        Q::is_empty(item) && self.last.as_ref().is_none_or(|last| !Q::is_empty(last))
    }

    /// Asks again before it is told that there is nobody: who loses the right to read during a blocking query is told so by
    /// an answer without anything in it, and by nothing else.
    async fn make_sure(&mut self) -> Result<(Answer, Q::Item)> {
        let (client, operation) = (&self.shared.client, self.operation);
        // Many may be told at once that there is nobody.
        let permit = limited(&client.budget(), client.timeout, operation).await;
        let permit = permit.map_err(|failure| self.grace.failed(failure))?;
        let answer = turns::read(client, permit, operation, self.query.request()).await;
        let answer = answer.map_err(|failure| self.grace.failed(failure))?;
        let item = read(&mut self.query, &answer, operation)?;
        if Q::is_empty(&item) {
            rights::check(client, operation, &self.query).await?;
        }
        Ok((answer, item))
    }

    /// Takes note of a good answer; what there is to publish.
    fn answered(&mut self, answer: &Answer, item: Q::Item) -> Option<Q::Item> {
        let index = answer.index.unwrap_or(0).max(1);
        // An index that went back, or is missing, is not waited for.
        self.index = if index < self.index || answer.index.is_none() { 0 } else { index };
        self.backoff.reset();
        self.turns.done();

        let item = self.grace.keep::<Q>(index, self.last.as_ref(), item, Instant::now());
        let news = self.last.as_ref() != Some(&item);
        self.pace.spend(news);
        let recovered = std::mem::take(&mut self.erred);
        (news || recovered).then(|| {
            self.last = Some(item.clone());
            item
        })
    }

    fn failed(&mut self, error: Error) -> Error {
        self.index = 0;
        if error.kind() == ErrorKind::Protocol {
            self.grace.shake();
        }
        self.not_before = Instant::now() + self.backoff.next();
        self.erred = true;
        error
    }
}

/// Reads an answer; one that access rules have emptied is no answer.
fn read<Q: Query>(query: &mut Q, answer: &Answer, operation: &'static str) -> Result<Q::Item> {
    let item = query.decode(&answer.body).map_err(|error| answer.malformed(operation, error))?;
    if answer.filtered && Q::is_empty(&item) {
        return Err(rights::denied(
            operation,
            "the token may not read what was asked for, and Consul left it all out",
        ));
    }
    Ok(item)
}
