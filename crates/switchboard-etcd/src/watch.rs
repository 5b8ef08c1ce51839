//! Following a part of the keys: a range, then a watch from its revision, and both again after whatever ends it.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use switchboard_core::{Error, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::BACKEND;
use crate::client::Client;
use crate::scope::Scope;
use crate::wire::EventType;

/// What is known of a part of the keys.
#[derive(Clone)]
pub(crate) struct State<T> {
    /// The last state; it stands while etcd is not heard.
    last: Option<T>,
    /// Why etcd is not heard.
    error: Option<Error>,
    closed: bool,
}

/// A part of the keys that is followed for as long as somebody holds this.
pub(crate) struct Followed<T> {
    state: watch::Sender<State<T>>,
    task: JoinHandle<()>,
}

impl<T> Drop for Followed<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T: Clone + PartialEq + Send + Sync + 'static> Followed<T> {
    /// Begins to follow.
    pub(crate) fn new<S: Scope<State = T>>(client: Arc<Client>, scope: S) -> Self {
        let state = watch::Sender::new(State { last: None, error: None, closed: false });
        let task = tokio::spawn(follow(client, scope, state.clone()));
        Self { state, task }
    }

    /// Ends all readers' streams, and following.
    pub(crate) fn close(&self) {
        self.task.abort();
        self.state.send_modify(|state| state.closed = true);
    }

    /// What the contract of `watch` asks for.
    pub(crate) fn stream(self: Arc<Self>, operation: &'static str) -> BoxStream<'static, Result<T>> {
        let told_of = self.state.subscribe();
        let start = Reader { _followed: self, told_of, operation, told: Told::Nothing, ended: false };
        unfold(start, |mut reader| async move {
            while !reader.ended {
                if let Some(news) = reader.news() {
                    return Some((news, reader));
                }
                // The reader holds the sender.
                let _ = reader.told_of.changed().await;
            }
            None
        })
        .boxed()
    }
}

struct Reader<T> {
    _followed: Arc<Followed<T>>,
    told_of: watch::Receiver<State<T>>,
    operation: &'static str,
    told: Told<T>,
    ended: bool,
}

/// What a reader was told last.
enum Told<T> {
    Nothing,
    State(T),
    Outage,
}

impl<T: Clone + PartialEq> Reader<T> {
    /// What the reader has not been told.
    fn news(&mut self) -> Option<Result<T>> {
        let state = self.told_of.borrow_and_update();
        if state.closed {
            self.ended = true;
            return Some(Err(Error::closed(BACKEND, self.operation)));
        }
        if let Some(error) = &state.error {
            if matches!(self.told, Told::Outage) {
                return None;
            }
            self.told = Told::Outage;
            return Some(Err(error.clone()));
        }
        let now = state.last.as_ref()?;
        if matches!(&self.told, Told::State(last) if last == now) {
            return None;
        }
        self.told = Told::State(now.clone());
        Some(Ok(now.clone()))
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Follows for ever.
async fn follow<S: Scope>(client: Arc<Client>, mut scope: S, state: watch::Sender<State<S::State>>) {
    let mut waits = pauses();
    loop {
        match once(&client, &mut scope, &state, &mut waits).await {
            // The revision to go on from is no longer kept: what there is now is read again.
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, root = scope.root(), "not heard");
                state.send_modify(|state| state.error = Some(error));
            }
        }
        tokio::time::sleep(waits.next().unwrap_or_default()).await;
    }
}

/// Reads all and follows it until something ends that.
async fn once<S: Scope>(
    client: &Arc<Client>,
    scope: &mut S,
    state: &watch::Sender<State<S::State>>,
    waits: &mut ExponentialBackoff,
) -> Result<()> {
    let operation = "watch";
    let (found, revision) = client.range(operation, scope.root(), scope.keys_only()).await?;
    scope.clear();
    for entry in &found {
        scope.put(&entry.key, &entry.value);
    }
    drop(found);
    let mut events = client.watch(operation, scope.root(), revision + 1).await?;
    tell(scope, state);
    loop {
        let message = events.message().await?;
        if message.canceled {
            return Ok(());
        }
        // It goes on.
        *waits = pauses();
        for event in &message.events {
            let Some(entry) = &event.kv else { continue };
            match event.r#type() {
                EventType::Put => scope.put(&entry.key, &entry.value),
                EventType::Delete => scope.delete(&entry.key),
            }
        }
        // What is of one revision is told as one.
        if !message.events.is_empty() && !message.fragment {
            tell(scope, state);
        }
    }
}

fn tell<S: Scope>(scope: &S, state: &watch::Sender<State<S::State>>) {
    let now = scope.state();
    state.send_if_modified(|state| {
        let is_news = state.error.take().is_some() || state.last.as_ref() != Some(&now);
        state.last = Some(now);
        is_news
    });
}
