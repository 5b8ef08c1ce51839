//! What all who ask one question share: the latest answer, when it is asked again, and the asking itself.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared, ready};
use switchboard_core::Instance;
use switchboard_core::time::until;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::Failed;
use crate::config::DnsBuilder;
use crate::kept::Kept;
use crate::resolve::{Found, Question, Resolve, Way};

/// After an error it is asked again after this; then after twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// But not after more than this: a server that is back should be heard soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Whoever asks within this time after the first shares the question: those of a program that starts, or of a page with many parts.
const GATHER: Duration = Duration::from_millis(1);

/// A suspicion is followed up no more often.
const SUSPECT_EVERY: Duration = Duration::from_secs(3);

/// How far an interval is stretched at random, so that a fleet does not ask in lockstep.
const JITTER: f64 = 0.1;

pub(crate) struct Feed {
    question: Question,
    resolver: Arc<dyn Resolve>,
    config: DnsBuilder,
    state: Mutex<State>,
    /// Wakes those who wait for an answer, or for being told to ask.
    changed: watch::Sender<()>,
}

struct State {
    way: Way,
    kept: Kept,
    found: Found,
    /// Why the latest question had no answer.
    failed: Option<Failed>,
    /// Counts what became of questions.
    generation: u64,
    /// When the question was asked whose outcome this is.
    asked: Option<Instant>,
    due: Instant,
    pause: Duration,
    suspected: Option<Instant>,
    /// A question under way, and since when, once it is sent. It lives as long as somebody waits for it.
    under_way: Option<(Arc<OnceLock<Instant>>, WeakShared<Asking>)>,
}

type Asking = BoxFuture<'static, ()>;

/// What is known now.
pub(crate) struct Now {
    pub(crate) generation: u64,
    /// When the question was asked whose outcome this is.
    pub(crate) asked: Option<Instant>,
    /// When to ask again.
    pub(crate) due: Instant,
}

impl Feed {
    pub(crate) fn new(question: Question, resolver: Arc<dyn Resolve>, config: DnsBuilder) -> Arc<Self> {
        let state = State {
            way: Way::default(),
            kept: Kept::default(),
            found: Found::default(),
            failed: None,
            generation: 0,
            asked: None,
            due: Instant::now(),
            pause: FIRST_PAUSE,
            suspected: None,
            under_way: None,
        };
        Arc::new(Self {
            question,
            resolver,
            config,
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
        })
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn now(&self) -> Now {
        let state = self.state();
        Now { generation: state.generation, asked: state.asked, due: state.due }
    }

    /// What `read` makes of the latest answer, or why there was none.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Kept, &Found) -> T) -> Result<T, Failed> {
        let state = self.state();
        match &state.failed {
            Some(failed) => Err(failed.clone()),
            None => Ok(read(&state.kept, &state.found)),
        }
    }

    /// Waits for the outcome of a question that is asked at `since` or later: one that was, one under way, or else another.
    pub(crate) async fn ask(self: &Arc<Self>, since: Instant) {
        self.question_of(since).await;
    }

    fn question_of(self: &Arc<Self>, since: Instant) -> Shared<Asking> {
        let mut state = self.state();
        if state.asked.is_some_and(|asked| asked >= since) {
            return ready(()).boxed().shared();
        }
        let recent =
            state.under_way.as_ref().filter(|(sent, _)| sent.get().is_none_or(|sent| *sent >= since));
        if let Some(under_way) = recent.and_then(|(_, under_way)| under_way.upgrade()) {
            return under_way;
        }
        let (feed, way, sent) = (self.clone(), state.way.clone(), Arc::new(OnceLock::new()));
        let when = sent.clone();
        let asking = async move {
            until(Some(Instant::now() + GATHER)).await;
            let begun = *when.get_or_init(Instant::now);
            let (way, found) = feed.resolver.resolve(&feed.question, way).await;
            feed.take(begun, way, found);
        };
        let asking = asking.boxed().shared();
        state.under_way = asking.downgrade().map(|weak| (sent, weak));
        asking
    }

    /// Takes the outcome of a question in, unless that of a later one is known.
    fn take(&self, begun: Instant, way: Way, found: Result<Found, Failed>) {
        {
            let mut state = self.state();
            if state.asked.is_some_and(|asked| asked > begun) {
                return;
            }
            let now = Instant::now();
            state.asked = Some(begun);
            state.generation += 1;
            match found {
                Ok(found) => {
                    let goes = state.kept.take(&found, self.config.window, now);
                    state.way = way;
                    state.failed = None;
                    state.pause = FIRST_PAUSE;
                    let refresh = now + stretched(self.refresh(&found));
                    state.due = goes.map_or(refresh, |goes| refresh.min(goes));
                    state.found = found;
                }
                Err(failed) => {
                    tracing::debug!(question = %self.question, %failed, "no answer; what was heard last stands");
                    state.failed = Some(failed);
                    let longest = LONGEST_PAUSE.min(self.config.max_refresh);
                    state.due = now + stretched(state.pause.min(longest));
                    state.pause = (state.pause * 2).min(longest);
                }
            }
        }
        self.changed.send_replace(());
    }

    /// How long an answer counts.
    fn refresh(&self, found: &Found) -> Duration {
        let DnsBuilder { min_refresh, max_refresh, .. } = self.config;
        let ttl = found.ttl.map_or(min_refresh, |ttl| Duration::from_secs(ttl.into()));
        ttl.clamp(min_refresh, max_refresh)
    }

    /// Somebody could not be reached: asks at once, if that was not done just now.
    pub(crate) fn suspect(&self) {
        let now = Instant::now();
        {
            let mut state = self.state();
            if state.suspected.is_some_and(|before| now - before < SUSPECT_EVERY) {
                return;
            }
            state.suspected = Some(now);
            state.due = now;
        }
        self.changed.send_replace(());
    }

    /// Whether an instance of this id is known.
    pub(crate) fn knows(&self, is: impl Fn(&Instance) -> bool) -> bool {
        self.state().kept.instances().any(|(_, instance)| is(instance))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while holding the lock, and what is in it is consistent even if one did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stretched(interval: Duration) -> Duration {
    interval + interval.mul_f64(JITTER * fastrand::f64())
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Type(kind) => f.write_str(kind.name()),
            Self::Names => f.write_str("all names"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use switchboard_core::{ErrorKind, Invalid, ServiceName};

    use super::*;

    /// Answers at once: with a time to live, or with an error.
    struct Scripted {
        asked: AtomicUsize,
        ttl: Mutex<Result<Option<u32>, ()>>,
    }

    #[async_trait]
    impl Resolve for Scripted {
        async fn resolve(&self, _: &Question, way: Way) -> (Way, Result<Found, Failed>) {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let said = *self.ttl.lock().unwrap();
            let found = said.map(|ttl| Found { ttl, whole: true, ..Found::default() });
            (way, found.map_err(|()| Failed::new(ErrorKind::Unavailable, "SERVFAIL")))
        }

        fn check(&self, _: &Question) -> Result<(), Invalid> {
            Ok(())
        }
    }

    fn feed(ttl: Result<Option<u32>, ()>) -> (Arc<Scripted>, Arc<Feed>) {
        let resolver = Arc::new(Scripted { asked: AtomicUsize::new(0), ttl: Mutex::new(ttl) });
        let question = Question::Service(ServiceName::new("orders").unwrap());
        let feed = Feed::new(question, resolver.clone(), DnsBuilder::default());
        (resolver, feed)
    }

    async fn due_in(feed: &Arc<Feed>) -> Duration {
        // Later than the question before.
        tokio::time::advance(Duration::from_millis(1)).await;
        feed.ask(Instant::now()).await;
        feed.now().due - Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_its_time_to_live_within_bounds_and_a_tenth_more() {
        for (ttl, at_least) in [(Some(0), 5), (Some(1), 5), (Some(20), 20), (Some(86_400), 30), (None, 5)] {
            let (_, feed) = feed(Ok(ttl));
            let (least, most) = (Duration::from_secs(at_least), Duration::from_millis(at_least * 1100));
            let due = due_in(&feed).await;
            assert!(due >= least && due <= most, "{ttl:?}: {due:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_errors_it_waits_twice_as_long_each_time_and_an_answer_resets_it() {
        let (resolver, feed) = feed(Err(()));
        let mut least = Duration::from_millis(250);
        for _ in 0..12 {
            let due = due_in(&feed).await;
            assert!(due >= least && due <= least.mul_f64(1.1), "{due:?} for {least:?}");
            least = (least * 2).min(Duration::from_secs(10));
        }
        *resolver.ttl.lock().unwrap() = Ok(Some(10));
        due_in(&feed).await;
        *resolver.ttl.lock().unwrap() = Err(());
        assert!(due_in(&feed).await < Duration::from_millis(300));
    }

    #[tokio::test(start_paused = true)]
    async fn suspicions_make_one_question_in_three_seconds() {
        let (_, feed) = feed(Ok(Some(30)));
        assert!(due_in(&feed).await >= Duration::from_secs(30));
        feed.suspect();
        assert_eq!(feed.now().due, Instant::now());
        due_in(&feed).await;
        feed.suspect();
        assert!(feed.now().due > Instant::now(), "that was just now");
        tokio::time::advance(Duration::from_secs(3)).await;
        feed.suspect();
        assert_eq!(feed.now().due, Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_in_one_moment_shares_the_question_and_who_asks_later_has_another() {
        let (resolver, feed) = feed(Ok(Some(30)));
        let each = || async {
            tokio::time::advance(Duration::from_nanos(1)).await;
            feed.ask(Instant::now()).await;
        };
        futures::future::join_all((0..100).map(|_| each())).await;
        assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        feed.ask(Instant::now()).await;
        assert_eq!(resolver.asked.load(Ordering::SeqCst), 2);
    }
}
