//! One feed for many watches of a handle: two blocking queries tell which services changed, and those are read.
//!
//! A watch alone is better off with a blocking query of its own, which says nothing of other services. The many cost the
//! agent a connection each, and it takes few. The feed runs in a task that ends with the last watch on it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt, select, unfold};
use switchboard_core::time::until;
use switchboard_core::{Error, ErrorKind, ServiceName};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::BACKEND;
use crate::answer::{Answer, Failure};
use crate::changes::{Catalog, Changes, Checks};
use crate::client::{Client, Request};
use crate::pace::{Backoff, Pace};
use crate::sweep::Sweep;
use crate::turns::{block, limited, poll_pause, read};

const OPERATION: &str = "watch";
/// How much of the answers about everything is read in the long run: a large catalog is asked for less often.
const BYTES_A_SECOND: f64 = 4e6;
/// But as often as by asking without waiting.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// When a service that has changed is read once more, where answers lag.
const ECHO: Duration = Duration::from_secs(1);

/// What a watch is told.
#[derive(Clone, Debug)]
enum Word {
    /// Nothing yet.
    Wait,
    /// Its service may have changed.
    Read,
    /// Nothing is heard: why, and whether an agent did answer, with an error.
    Failing(Error, bool),
}

/// The feed of a handle.
#[derive(Debug)]
pub(crate) struct Feed {
    readers: Arc<Readers>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Begins it on the runtime of the caller.
    pub(crate) fn start(client: Arc<Client>, sources: Sources, wait: Duration) -> Arc<Self> {
        let readers =
            Arc::new(Readers { state: Mutex::new(State { by_name: HashMap::new(), all: Word::Wait }) });
        let run = Run { client, sources, wait, readers: Ending(readers.clone()) };
        Arc::new(Self { readers, task: tokio::spawn(run.run()) })
    }

    /// Whether its task is there; it ends with the runtime it was begun on.
    pub(crate) fn is_alive(&self) -> bool {
        !self.task.is_finished()
    }

    /// What is told about `service`: first that it is to be read, as soon as nothing after that can be missed.
    pub(crate) fn subscribe(self: &Arc<Self>, service: &ServiceName) -> Subscription {
        let name = service.as_str().to_lowercase();
        let mut state = self.readers.lock();
        let all = state.all.clone();
        let reader = state
            .by_name
            .entry(name.clone())
            .or_insert_with(|| Reader { count: 0, signal: watch::Sender::new(all) });
        reader.count += 1;
        let mut words = reader.signal.subscribe();
        words.mark_changed();
        Subscription { feed: self.clone(), name, words }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A watch's place at a feed.
#[derive(Debug)]
pub(crate) struct Subscription {
    feed: Arc<Feed>,
    name: String,
    words: watch::Receiver<Word>,
}

impl Subscription {
    /// Waits until the service may have changed since the last time; an error each time the feed fails.
    pub(crate) async fn next(&mut self) -> Result<(), Failure> {
        loop {
            let told = self.words.changed().await;
            let word = if told.is_ok() { self.words.borrow_and_update().clone() } else { Word::Read };
            match word {
                Word::Wait => {}
                Word::Read => return Ok(()),
                Word::Failing(error, answered) => return Err(Failure { error, untouched: false, answered }),
            }
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.feed.is_alive()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.feed.readers.lock();
        if let Some(reader) = state.by_name.get_mut(&self.name) {
            reader.count -= 1;
            if reader.count == 0 {
                state.by_name.remove(&self.name);
            }
        }
    }
}

#[derive(Debug)]
struct Readers {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By the name in lower case.
    by_name: HashMap<String, Reader>,
    /// What everybody was told last, and whoever comes is told first.
    all: Word,
}

#[derive(Debug)]
struct Reader {
    count: usize,
    signal: watch::Sender<Word>,
}

impl Readers {
    fn tell(&self, services: &BTreeSet<String>) {
        let state = self.lock();
        for reader in services.iter().filter_map(|service| state.by_name.get(service)) {
            reader.signal.send_replace(Word::Read);
        }
    }

    fn tell_all(&self, word: Word) -> usize {
        let mut state = self.lock();
        for reader in state.by_name.values() {
            reader.signal.send_replace(word.clone());
        }
        state.all = word;
        state.by_name.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and the map is whole even if something did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the readers read when the task ends, however it does, such as with its runtime: their next turn begins another.
struct Ending(Arc<Readers>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.tell_all(Word::Read);
    }
}

/// The requests for everything.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) checks: Request,
    pub(crate) catalog: Request,
    /// Whether one server, or a cache, may know what another does not yet: what is read of a service that has changed may
    /// be how it was.
    pub(crate) lagging: bool,
}

struct Run {
    client: Arc<Client>,
    sources: Sources,
    wait: Duration,
    readers: Ending,
}

impl Run {
    async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            let (failure, heard) = self.follow().await;
            if heard {
                backoff.reset();
            }
            if heard && self.client.agents.len() > 1 && failure.error.is_transient() {
                // Another agent may know it all.
                tracing::debug!(error = %failure.error, "turning to another agent");
                continue;
            }
            self.readers.0.tell_all(Word::Failing(failure.error, failure.answered));
            sleep(backoff.next()).await;
        }
    }

    /// Follows both sources until one fails; whether it had begun.
    async fn follow(&self) -> (Failure, bool) {
        let sides = self.sides();
        let (mut checks, mut catalog) = (Box::pin(sides.0.run()), Box::pin(sides.1.run()));
        let (mut heard, mut sweep) = (false, Sweep::new());
        // Both first answers are what changes are told from.
        let (first, second) = futures::join!(checks.next(), catalog.next());
        for first in [first, second].into_iter().flatten() {
            if let Err(failure) = first {
                return (failure, heard);
            }
        }
        heard = true;
        sweep.done(self.readers.0.tell_all(Word::Read));
        let checks = checks.map(|told| told.map(|told| (Which::Checks, told)));
        let catalog = catalog.map(|told| told.map(|told| (Which::Catalog, told)));
        let mut both = select(checks, catalog);
        let mut echo: Option<(Instant, BTreeSet<String>)> = None;
        loop {
            let due = sweep.due();
            let told = tokio::select! {
                () = until(echo.as_ref().map(|(at, _)| *at)) => {
                    self.readers.0.tell(&echo.take().unwrap_or((Instant::now(), BTreeSet::new())).1);
                    continue;
                }
                told = both.next() => told,
                () = until(due) => {
                    sweep.done(self.readers.0.tell_all(Word::Read));
                    continue;
                }
            };
            let (which, told) = match told {
                Some(Ok(told)) => told,
                Some(Err(failure)) => return (failure, heard),
                // Neither ends.
                None => return (over(), heard),
            };
            let Told { changes, index, moved, anew } = told;
            self.readers.0.tell(&changes.services);
            if self.sources.lagging && !changes.services.is_empty() {
                let (_, services) = echo.get_or_insert_with(|| (Instant::now() + ECHO, BTreeSet::new()));
                services.extend(changes.services.iter().cloned());
            }
            if anew || changes.nodes {
                sweep.now();
            }
            match which {
                Which::Checks if changes.registered => sweep.explain(changes.at.into_iter().chain([index])),
                // The names say what it was.
                Which::Catalog if changes.registered => sweep.explain([index]),
                Which::Catalog if moved => sweep.moved(index),
                Which::Checks | Which::Catalog => {}
            }
        }
    }

    fn sides(&self) -> (Side<Checks>, Side<Catalog>) {
        let Sources { checks, catalog, .. } = &self.sources;
        (self.side(checks, Checks::default()), self.side(catalog, Catalog::default()))
    }

    fn side<S>(&self, request: &Request, state: S) -> Side<S> {
        Side {
            client: self.client.clone(),
            request: request.clone(),
            wait: self.wait,
            state,
            index: 0,
            not_before: Instant::now(),
            pace: Pace::new(),
        }
    }
}

#[derive(Clone, Copy)]
enum Which {
    Checks,
    Catalog,
}

/// What an answer tells.
struct Told {
    changes: Changes,
    index: u64,
    /// Whether the index is another.
    moved: bool,
    /// Whether Consul began anew.
    anew: bool,
}

/// Reads answers of one kind.
trait Source: Send + Sync + 'static {
    fn take(&mut self, body: &[u8]) -> serde_json::Result<Changes>;
}

impl Source for Checks {
    fn take(&mut self, body: &[u8]) -> serde_json::Result<Changes> {
        Checks::take(self, body)
    }
}

impl Source for Catalog {
    fn take(&mut self, body: &[u8]) -> serde_json::Result<Changes> {
        Catalog::take(self, body)
    }
}

/// One of the two queries, between two requests.
struct Side<S> {
    client: Arc<Client>,
    request: Request,
    wait: Duration,
    state: S,
    index: u64,
    not_before: Instant,
    pace: Pace,
}

impl<S: Source> Side<S> {
    fn run(self) -> BoxStream<'static, Result<Told, Failure>> {
        unfold(self, |mut side| async move { Some((side.next().await, side)) }).boxed()
    }

    async fn next(&mut self) -> Result<Told, Failure> {
        sleep_until(self.not_before.max(self.pace.next())).await;
        let answer = self.ask().await?;
        let changes = self.state.take(&answer.body).map_err(|error| Failure {
            error: answer.malformed(OPERATION, error),
            untouched: false,
            answered: false,
        })?;
        let index = answer.index.unwrap_or(0).max(1);
        let (moved, anew) = (index != self.index, index < self.index);
        self.index = if anew || answer.index.is_none() { 0 } else { index };
        self.pace.spend(!changes.is_empty());
        #[allow(clippy::cast_precision_loss, reason = "a length; a byte more or less does not matter")]
        let pause = Duration::from_secs_f64(answer.body.len() as f64 / BYTES_A_SECOND).min(LONGEST_PAUSE);
        self.not_before = Instant::now() + pause;
        Ok(Told { changes, index, moved, anew })
    }

    async fn ask(&self) -> Result<Answer, Failure> {
        let budget = self.client.budget();
        if self.index > 0 {
            if let Ok(_permit) = budget.feeds.try_acquire() {
                let request = block(self.request.clone(), self.index, self.wait);
                return self.client.read_preferred(OPERATION, &request).await;
            }
            sleep(poll_pause()).await;
        }
        let permit = limited(&budget, self.client.timeout, OPERATION).await?;
        read(&self.client, permit, OPERATION, &self.request).await
    }
}

fn over() -> Failure {
    let error = Error::new(ErrorKind::Unavailable, BACKEND, OPERATION, "the catalog is followed no more");
    Failure { error, untouched: false, answered: true }
}
