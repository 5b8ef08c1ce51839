//! When a watch asks, and how: in a blocking query of its own, or when the feed says that its service changed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use switchboard_core::{Error, ErrorKind, ServiceName};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::BACKEND;
use crate::answer::{Answer, Failure};
use crate::budget::{BLOCKING, Budget};
use crate::client::{Client, Request};
use crate::feed::{Feed, Subscription};
use crate::watch::Watches;

/// The pause of who has no share of the blocking queries.
const POLL_EVERY: Duration = Duration::from_secs(3);
/// With so few services again, a handle leaves the feed.
const FEW: usize = BLOCKING * 3 / 4;
/// How often a watch on the feed reads its service although it was told of no change: whatever goes wrong is not for ever.
const ALL_THE_SAME: Duration = Duration::from_secs(300);

/// The services that a handle follows, and its feed if they are many.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    following: Arc<AtomicUsize>,
    feed: Mutex<Weak<Feed>>,
}

impl Crowd {
    fn feed(&self, watches: &Watches) -> Arc<Feed> {
        // Nothing panics while it is held.
        let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = feed.upgrade().filter(|feed| feed.is_alive()) {
            return feed;
        }
        let new = Feed::start(watches.client.clone(), watches.sources.clone(), watches.wait);
        *feed = Arc::downgrade(&new);
        new
    }
}

/// How a watch may ask now. Its share is held until the answer is there.
pub(crate) enum Turn {
    /// For what is now.
    Read(OwnedSemaphorePermit),
    /// For what comes.
    Block(#[allow(dead_code, reason = "held")] OwnedSemaphorePermit),
}

/// The turns of one watch.
pub(crate) struct Turns {
    /// What it follows, if it is one service.
    service: Option<(ServiceName, Counted)>,
    subscription: Option<Subscription>,
    /// The feed has told of a change that is not read yet.
    owed: bool,
}

impl Turns {
    pub(crate) fn new(watches: &Watches, service: Option<&ServiceName>) -> Self {
        let service = service.map(|service| (service.clone(), Counted::new(&watches.crowd.following)));
        Self { service, subscription: None, owed: false }
    }

    /// Waits for a turn, for no longer than `limit` if there is one. `index` is what the watch would wait beyond, 0 to read
    /// at once.
    pub(crate) async fn next(
        &mut self,
        watches: &Watches,
        index: u64,
        limit: Option<Duration>,
    ) -> Result<Turn, Failure> {
        let budget = watches.client.budget();
        if self.is_crowded() {
            if !self.owed {
                self.told(watches, limit).await?;
                self.owed = true;
            }
        } else {
            self.subscription = None;
            if index > 0 {
                if let Ok(permit) = budget.blocking.clone().try_acquire_owned() {
                    return Ok(Turn::Block(permit));
                }
                sleep(poll_pause()).await;
            }
        }
        Ok(Turn::Read(limited(&budget, watches.client.timeout, "watch").await?))
    }

    /// What was owed is read.
    pub(crate) fn done(&mut self) {
        self.owed = false;
    }

    fn is_crowded(&self) -> bool {
        let few = if self.subscription.is_some() { FEW } else { BLOCKING };
        self.service.as_ref().is_some_and(|(_, counted)| counted.0.load(Ordering::Relaxed) > few)
    }

    async fn told(&mut self, watches: &Watches, limit: Option<Duration>) -> Result<(), Failure> {
        let Some((service, _)) = &self.service else { return Ok(()) };
        if self.subscription.as_ref().is_none_or(|subscription| !subscription.is_alive()) {
            self.subscription = Some(watches.crowd.feed(watches).subscribe(service));
        }
        let Some(subscription) = &mut self.subscription else { return Ok(()) };
        let limit = limit.unwrap_or_else(|| ALL_THE_SAME.mul_f64(0.75 + fastrand::f64() / 2.0));
        // When the time is over it is read without a word.
        timeout(limit, subscription.next()).await.unwrap_or(Ok(()))
    }
}

/// Counts a watch for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `request`, waiting for what comes after `index`.
pub(crate) fn block(request: Request, index: u64, wait: Duration) -> Request {
    request
        .query("index", index.to_string())
        .query("wait", crate::check::go_duration(wait))
        // The server adds up to a sixteenth.
        .patience(wait + wait / 16)
}

/// The pause between two reads of who cannot wait in a query.
pub(crate) fn poll_pause() -> Duration {
    POLL_EVERY.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// A share of the reads; an error when none of those under way is answered within `limit`: behind an agent that hangs
/// nobody waits in silence.
pub(crate) async fn limited(
    budget: &Budget,
    limit: Duration,
    operation: &'static str,
) -> Result<OwnedSemaphorePermit, Failure> {
    loop {
        let before = budget.answered.load(Ordering::Relaxed);
        if let Ok(Ok(permit)) = timeout(limit, budget.reads.clone().acquire_owned()).await {
            return Ok(permit);
        }
        if budget.answered.load(Ordering::Relaxed) == before {
            let message =
                format!("no turn to ask the agent within {limit:?}: it has not answered those before");
            let error = Error::new(ErrorKind::Unavailable, BACKEND, operation, message);
            return Err(Failure { error, untouched: true, answered: false });
        }
    }
}

/// Reads with a share that was got, in a task of its own, which ends with this call: the share is given back however long
/// the stream that waits here is not polled.
pub(crate) async fn read(
    client: &Arc<Client>,
    permit: OwnedSemaphorePermit,
    operation: &'static str,
    request: &Request,
) -> Result<Answer, Failure> {
    let (client, request) = (client.clone(), request.clone());
    let mut task = JoinSet::new();
    task.spawn(async move {
        let read = client.read(operation, &request).await;
        if read.as_ref().map_or_else(|failure| failure.answered, |_| true) {
            client.budget().answered.fetch_add(1, Ordering::Relaxed);
        }
        drop(permit);
        read
    });
    task.join_next().await.and_then(Result::ok).unwrap_or_else(|| {
        let error = Error::new(ErrorKind::Unavailable, BACKEND, operation, "the read was cut off");
        Err(Failure { error, untouched: false, answered: true })
    })
}
