//! What all who ask one question share: the latest answer, when it is asked again, and the asking itself.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use switchboard_core::Instance;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::Failed;
use crate::config::DnsBuilder;
use crate::kept::Kept;
use crate::resolve::{Found, Question, Resolve, Way};

/// After an error it is asked again after this; then after twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

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
    /// A question under way, and since when. It lives as long as somebody waits for it.
    under_way: Option<(Instant, WeakShared<BoxFuture<'static, ()>>)>,
}

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

    /// Waits for the outcome of a question that is asked at `since` or later: one under way if there is such, or else another.
    pub(crate) async fn ask(self: &Arc<Self>, since: Instant) {
        self.question_of(since).await;
    }

    fn question_of(self: &Arc<Self>, since: Instant) -> Shared<BoxFuture<'static, ()>> {
        let mut state = self.state();
        if let Some((begun, under_way)) = &state.under_way {
            if let Some(under_way) = under_way.upgrade().filter(|_| *begun >= since) {
                return under_way;
            }
        }
        let (feed, begun, way) = (self.clone(), Instant::now(), state.way.clone());
        let asking = async move {
            let (way, found) = feed.resolver.resolve(&feed.question, way).await;
            feed.take(begun, way, found);
        };
        let asking = asking.boxed().shared();
        state.under_way = asking.downgrade().map(|weak| (begun, weak));
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
                    state.due = now + stretched(state.pause.min(self.config.max_refresh));
                    state.pause = (state.pause * 2).min(self.config.max_refresh);
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
