//! Following a part of the keys: a range, then a watch from its revision, and both again after whatever ends it.
//!
//! Going on from the last revision would be cheaper, and wrong: a cluster that was restored counts other revisions, and may have
//! passed that one. So compaction while etcd is not heard does not matter either.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use switchboard_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::BACKEND;
use crate::client::Client;
use crate::scope::{Known, Scope};
use crate::wire::{EventType, Header};

/// What is known of a part of the keys.
#[derive(Clone)]
pub(crate) struct State<T> {
    /// The last state; it stands while etcd is not heard.
    last: Option<T>,
    /// Why etcd is not heard.
    error: Option<Error>,
    /// Whether nobody follows any more, as the runtime that did has ended.
    is_orphan: bool,
    closed: bool,
}

/// A part of the keys that is followed for as long as somebody holds this.
pub(crate) struct Followed<S: Scope> {
    client: Arc<Client>,
    scope: S,
    state: watch::Sender<State<S::State>>,
    task: Mutex<Option<AbortHandle>>,
}

impl<S: Scope> Drop for Followed<S> {
    fn drop(&mut self) {
        self.abort();
    }
}

impl<S: Scope> Followed<S> {
    /// Begins to follow, on the runtime of the caller.
    pub(crate) fn new(client: Arc<Client>, scope: S) -> Self {
        let state = State { last: None, error: None, is_orphan: true, closed: false };
        let followed = Self { client, scope, state: watch::Sender::new(state), task: Mutex::default() };
        followed.adopt();
        followed
    }

    /// Has the caller's runtime follow if none does.
    fn adopt(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state.send_if_modified(|state| std::mem::take(&mut state.is_orphan)) {
            let orphan = Orphan(self.state.clone());
            *task =
                Some(runtime.spawn(follow(self.client.clone(), self.scope.clone(), orphan)).abort_handle());
        }
    }

    fn abort(&self) {
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }

    /// Ends all readers' streams, and following.
    pub(crate) fn close(&self) {
        self.state.send_modify(|state| state.closed = true);
        self.abort();
    }

    /// What the contract of `watch` asks for.
    pub(crate) fn stream(self: Arc<Self>, operation: &'static str) -> BoxStream<'static, Result<S::State>> {
        let told_of = self.state.subscribe();
        let start = Reader { followed: self, told_of, operation, told: Told::Nothing, ended: false };
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
        .fuse()
        .boxed()
    }
}

/// Says when it is dropped that nobody follows any more.
struct Orphan<T>(watch::Sender<State<T>>);

impl<T> Drop for Orphan<T> {
    fn drop(&mut self) {
        let why = "the runtime that followed this watch has ended; it goes on with that of the reader";
        let error = Error::new(ErrorKind::Unavailable, BACKEND, "watch", why);
        self.0.send_modify(|state| (state.is_orphan, state.error) = (true, Some(error)));
    }
}

struct Reader<S: Scope> {
    followed: Arc<Followed<S>>,
    told_of: watch::Receiver<State<S::State>>,
    operation: &'static str,
    told: Told<S::State>,
    ended: bool,
}

/// What a reader was told last.
enum Told<T> {
    Nothing,
    State(T),
    Outage,
}

impl<S: Scope> Reader<S> {
    /// What the reader has not been told.
    fn news(&mut self) -> Option<Result<S::State>> {
        let state = self.told_of.borrow_and_update().clone();
        if state.closed {
            self.ended = true;
            return Some(Err(Error::closed(BACKEND, self.operation)));
        }
        if state.is_orphan {
            self.followed.adopt();
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
        // With jitter up to twice that.
        .with_max_delay(Duration::from_millis(2500))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Follows for ever.
async fn follow<S: Scope>(client: Arc<Client>, scope: S, state: Orphan<S::State>) {
    let (mut known, state) = (Known::new(scope, client.notices.clone()), &state.0);
    let mut follower = Follower { client, heard: None, keep_until: Instant::now(), waits: pauses() };
    loop {
        match follower.once(&mut known, state).await {
            // The revision to go on from is no longer kept: what there is now is read again.
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, root = known.scope().root(), "not heard");
                state.send_modify(|state| state.error = Some(error));
            }
        }
        tokio::time::sleep(follower.waits.next().unwrap_or_default()).await;
    }
}

struct Follower {
    client: Arc<Client>,
    /// Where the cluster was when it was last heard.
    heard: Option<Header>,
    /// How long to keep what a cluster that began anew has not said yet.
    keep_until: Instant,
    waits: ExponentialBackoff,
}

impl Follower {
    /// Reads all and follows it until something ends that.
    async fn once<S: Scope>(
        &mut self,
        known: &mut Known<S>,
        state: &watch::Sender<State<S::State>>,
    ) -> Result<()> {
        let operation = "watch";
        let root = known.scope().root().to_owned();
        let (found, header) = self.client.range(operation, &root, known.scope().keys_only()).await?;
        let began_anew = self.heard.as_ref().is_some_and(|before| header.began_anew(before));
        if began_anew {
            tracing::warn!(cluster = %self.client.settings, "etcd has lost what it knew; what is missing is kept for a while");
            self.keep_until = Instant::now() + self.client.settings.rejoin_grace;
        }
        known.replace(&found, began_anew);
        drop(found);
        let from = header.revision + 1;
        self.heard = Some(header);
        let mut events = self.client.watch(operation, &root, from).await?;
        tell(known, state);
        loop {
            let message = tokio::select! {
                message = events.message() => message?,
                () = sleep_until(self.keep_until), if known.keeps() => {
                    known.let_go();
                    tell(known, state);
                    continue;
                }
            };
            if message.canceled {
                return Ok(());
            }
            // It goes on.
            self.waits = pauses();
            self.heard = message.header.or(self.heard.take());
            for event in &message.events {
                let Some(entry) = &event.kv else { continue };
                match event.r#type() {
                    EventType::Put => known.insert(entry),
                    EventType::Delete => known.remove(&entry.key),
                }
            }
            // What is of one revision is told as one.
            if !message.events.is_empty() && !message.fragment {
                tell(known, state);
            }
        }
    }
}

fn tell<S: Scope>(known: &Known<S>, state: &watch::Sender<State<S::State>>) {
    let now = known.state();
    state.send_if_modified(|state| {
        let is_news = state.error.take().is_some() || state.last.as_ref() != Some(&now);
        state.last = Some(now);
        is_news
    });
}
