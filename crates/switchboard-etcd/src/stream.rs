//! One gRPC stream for all watches.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::poll_fn;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use crate::client::{Client, Line, Token, keys_of};
use crate::failure::Failure;
use crate::wire::{WatchCancelRequest, WatchCreateRequest, WatchOp, WatchRequest, WatchResponse};

/// So many messages may wait for the reader of a watch, and so many requests for the stream.
const WAITING: usize = 64;

/// The stream; it ends with the last watch on it.
pub(crate) struct Stream {
    client: Arc<Client>,
    line: Line,
    token: Option<Token>,
    routes: Arc<Routes>,
    requests: Sender<WatchRequest>,
    task: JoinHandle<()>,
}

/// Where the messages of each watch go.
#[derive(Default)]
struct Routes(Mutex<Table>);

#[derive(Default)]
struct Table {
    last: i64,
    readers: HashMap<i64, Sender<WatchResponse>>,
    /// Those asked for and not answered. Answers come in the same order; one that says no has no number.
    asked: VecDeque<i64>,
    /// When there was a message last.
    heard: Option<Instant>,
    /// Why there are no more messages.
    ended: Option<Failure>,
}

impl Routes {
    fn with<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the messages of a new watch go, and its number; or why there are none.
    fn add(&self, reader: Sender<WatchResponse>) -> Result<i64, Failure> {
        self.with(|table| {
            if let Some(failure) = &table.ended {
                return Err(failure.clone());
            }
            table.last += 1;
            table.readers.insert(table.last, reader);
            Ok(table.last)
        })
    }

    /// Lets all readers know that this was all.
    fn end(&self, why: Failure) {
        self.with(|table| {
            table.ended.get_or_insert(why);
            table.readers.clear();
        });
    }
}

impl Stream {
    pub(crate) fn open(client: Arc<Client>, token: Option<Token>) -> Self {
        let (requests, to_send) = channel(WAITING);
        let (routes, line) = (Arc::new(Routes::default()), client.line());
        let end = End { client: client.clone(), line: line.clone(), routes: routes.clone(), why: None };
        let task = tokio::spawn(carry(end, token.clone(), requests.clone(), to_send));
        Self { client, line, token, routes, requests, task }
    }

    /// Whether a watch can be added by somebody with this token.
    pub(crate) fn is_usable(&self, token: Option<&Token>) -> bool {
        self.token.as_ref() == token && self.routes.with(|table| table.ended.is_none())
    }

    /// Has a part of the keys followed from a revision on; returns when it is.
    pub(crate) async fn watch(
        self: Arc<Self>,
        operation: &'static str,
        from: &str,
        revision: i64,
    ) -> Result<Watch, Failure> {
        let (reader, messages) = channel(WAITING);
        let number = self.routes.add(reader)?;
        // From here on dropping it takes it back.
        let mut watch = Watch { stream: self, number, operation, messages };
        let (key, range_end) = keys_of(from);
        let create =
            WatchCreateRequest { key, range_end, start_revision: revision, watch_id: number, fragment: true };
        let limit = watch.stream.client.settings.timeout;
        let created = async {
            // If the stream has ended, the message says why.
            if let Ok(room) = watch.stream.requests.clone().reserve_owned().await {
                watch.stream.routes.with(|table| {
                    table.asked.push_back(number);
                    room.send(WatchRequest { op: Some(WatchOp::Create(create)) });
                });
            }
            watch.message().await
        };
        if let Ok(first) = timeout(limit, created).await {
            return first.map(|_| watch);
        }
        let failure = watch.failed(Status::deadline_exceeded(format!("no answer within {limit:.1?}")));
        // Others may be served all the same: then it is only slow.
        let is_heard = watch.stream.routes.with(|table| table.heard).is_some_and(|at| at.elapsed() < limit);
        if !is_heard {
            watch.stream.give_up(failure.clone());
        }
        Err(failure)
    }
}

impl Stream {
    /// Ends it for all, as it no longer answers.
    fn give_up(&self, why: Failure) {
        self.client.leave(&self.line);
        self.routes.end(why);
        self.task.abort();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A part of the keys that is followed.
pub(crate) struct Watch {
    stream: Arc<Stream>,
    number: i64,
    operation: &'static str,
    messages: Receiver<WatchResponse>,
}

impl Watch {
    /// The next message. One that ends the watch is an error, unless the revision to begin with is no longer there.
    pub(crate) async fn message(&mut self) -> Result<WatchResponse, Failure> {
        let Some(message) = self.messages.recv().await else {
            let why = self.stream.routes.with(|table| table.ended.clone());
            let why =
                why.unwrap_or_else(|| self.failed(Status::unavailable("the stream of watches has ended")));
            return Err(Failure { operation: self.operation, ..why });
        };
        if message.canceled && message.compact_revision == 0 {
            let why = message.cancel_reason;
            let code =
                if why.contains("permission denied") { Code::PermissionDenied } else { Code::Unavailable };
            return Err(self.failed(Status::new(code, why)));
        }
        Ok(message)
    }

    fn failed(&self, status: Status) -> Failure {
        self.stream.client.failed(self.operation, &self.stream.line, status)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stream.routes.with(|table| table.readers.remove(&self.number));
        // If there is no room, it is told once more when a message comes for it.
        let _ = self.stream.requests.try_send(cancel(self.number));
    }
}

fn cancel(number: i64) -> WatchRequest {
    WatchRequest { op: Some(WatchOp::Cancel(WatchCancelRequest { watch_id: number })) }
}

/// Tells all readers of the end, however the task ends: also with its runtime.
struct End {
    client: Arc<Client>,
    line: Line,
    routes: Arc<Routes>,
    why: Option<Status>,
}

impl Drop for End {
    fn drop(&mut self) {
        let ended_by_itself = self.why.is_some();
        let status =
            self.why.take().unwrap_or_else(|| Status::unavailable("the runtime of the watches has ended"));
        let failure = self.client.failed("watch", &self.line, status);
        if ended_by_itself && failure.may_pass_elsewhere() {
            self.client.leave(&self.line);
        }
        self.routes.end(failure);
    }
}

async fn carry(
    mut end: End,
    token: Option<Token>,
    requests: Sender<WatchRequest>,
    to_send: Receiver<WatchRequest>,
) {
    end.why = Some(ended(&end, token, requests, to_send).await);
}

/// Hands messages out until the stream ends; why it did.
async fn ended(
    end: &End,
    token: Option<Token>,
    requests: Sender<WatchRequest>,
    mut to_send: Receiver<WatchRequest>,
) -> Status {
    let to_send = poll_fn(move |context| to_send.poll_recv(context));
    let mut messages = match end.client.open_watches(end.line.clone(), token, to_send).await {
        Ok(messages) => messages,
        Err(status) => return status,
    };
    loop {
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Status::unavailable("etcd ended the stream of watches"),
            Err(status) => return status,
        };
        let mut number = message.watch_id;
        let reader = end.routes.with(|table| {
            table.heard = Some(Instant::now());
            if message.created {
                number = table.asked.pop_front().unwrap_or(number);
            }
            table.readers.get(&number).cloned()
        });
        let Some(reader) = reader else {
            // Nobody reads it any more, and etcd has not heard of that.
            if !message.canceled && !message.created {
                let _ = requests.try_send(cancel(number));
            }
            continue;
        };
        match reader.try_send(message) {
            // All wait for the one: it reads, or is dropped.
            Err(TrySendError::Full(message)) => drop(reader.send(message).await),
            Ok(()) | Err(TrySendError::Closed(_)) => {}
        }
    }
}
