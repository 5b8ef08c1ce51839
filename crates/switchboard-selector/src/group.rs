use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use switchboard_core::time::later;
use switchboard_core::{Error, ErrorKind, InstanceId, Result};
use switchboard_watcher::{Directory, View};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::hub::Hub;
use crate::member::Members;
use crate::outlier::OutlierDetection;
use crate::pool::Pool;
use crate::slow_start::SlowStart;
use crate::{FailureKind, Filter, Strategy, pick, strategy};

/// How many pools are kept though nobody holds them; beyond that the oldest goes.
const KEPT: usize = 64;

/// What all balancers of one service share: its instances, what is learned of them, the pools they are picked from, and the
/// task that keeps all of it up to date.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) hub: Arc<Hub>,
    pub(crate) view: View,
    settings: Settings,
    state: Mutex<State>,
    pools: Mutex<Pools>,
    task: OnceLock<AbortHandle>,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) outlier: Option<OutlierDetection>,
    pub(crate) slow_start: Option<SlowStart>,
    pub(crate) panic_threshold: f64,
    pub(crate) latency_decay: Duration,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) members: Members,
    next_sweep: Instant,
}

#[derive(Debug, Default)]
struct Pools {
    /// All that somebody holds.
    all: Vec<Weak<Pool>>,
    /// The last ones, oldest first.
    kept: VecDeque<Arc<Pool>>,
}

impl Group {
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] outside a tokio runtime.
    pub(crate) fn new(directory: &Directory, view: View, settings: Settings) -> Result<Arc<Self>> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Unsupported, "selector", "service", "called outside a tokio runtime")
                .with_source(error)
        })?;
        let outlier = settings.outlier.as_ref();
        let consecutive = outlier.map_or(0, |detection| detection.consecutive);
        let interval = outlier.map_or(Duration::ZERO, |detection| detection.interval);
        let service = view.service().clone();
        let hub = Arc::new(Hub::new(service, directory.clone(), settings.latency_decay, consecutive));
        let state = State { members: Members::default(), next_sweep: later(Instant::now(), interval) };
        let task = OnceLock::new();
        let group =
            Arc::new(Self { hub, view, settings, state: Mutex::new(state), pools: Mutex::default(), task });
        group.refresh();
        let running = run(Arc::downgrade(&group), group.hub.clone(), group.view.clone());
        let _ = group.task.set(runtime.spawn(running).abort_handle());
        Ok(group)
    }

    /// The pool with this strategy and these filters, the same for equal ones as long as somebody holds it; those asked for
    /// last are held here.
    pub(crate) fn pool(&self, strategy: &Arc<dyn Strategy>, filters: Vec<Filter>) -> Arc<Pool> {
        if let Some(found) = self.pools().find(strategy, &filters) {
            return found;
        }
        let pool = Arc::new(Pool::new(self.hub.clone(), strategy.clone(), filters));
        // A refresh waits for this lock, and then knows the pool.
        let state = self.state();
        pool.rebuild(&state.members, self.settings.panic_threshold);
        self.pools().add(&pool);
        pool
    }

    /// Takes in what came of a call to the instance with this id, if it is known.
    pub(crate) fn mark(&self, id: &InstanceId, outcome: std::result::Result<(), FailureKind>) -> bool {
        let state = self.state();
        let list = state.members.list();
        let found = list.binary_search_by(|member| member.instance().id().cmp(id));
        if let Ok(found) = found {
            pick::judge(&list[found].candidate, outcome, None, self.hub.now());
        }
        found.is_ok()
    }

    /// Waits until the registry has been heard and the picks know of it.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.view.ready().await?;
        self.refresh();
        Ok(())
    }

    /// Brings everything up to this moment, and the pools with it if they are touched.
    pub(crate) fn refresh(&self) {
        let now = Instant::now();
        let (hub, slow) = (&self.hub, self.settings.slow_start);
        let mut state = self.state();
        let State { members, next_sweep } = &mut *state;
        let mut changed = members.sync(self.view.snapshot(), hub, slow, now);
        if let Some(detection) = &self.settings.outlier {
            changed |= members.eject_failing(detection, hub, now);
            if *next_sweep <= now {
                *next_sweep = later(now, detection.interval);
                changed |= members.sweep(detection, hub, now);
            }
            changed |= members.readmit(detection, hub, now);
            changed |= members.pass(slow, now);
        }
        if let Some(slow) = slow {
            changed |= members.ramp(slow, now);
        }
        if changed {
            self.rebuild(members);
        }
    }

    pub(crate) fn reset(&self) {
        let mut state = self.state();
        state.members.reset();
        self.rebuild(&state.members);
    }

    fn rebuild(&self, members: &Members) {
        let pools: Vec<Arc<Pool>> = self.pools().all.iter().filter_map(Weak::upgrade).collect();
        for pool in pools {
            pool.rebuild(members, self.settings.panic_threshold);
        }
        members.clear_ejected();
    }

    /// When [`refresh`](Self::refresh) is next due by the clock.
    fn due(&self) -> Option<Instant> {
        let state = self.state();
        let sweep = self.settings.outlier.as_ref().map(|_| state.next_sweep);
        let starting = state.members.is_anyone_starting();
        let slow = self.settings.slow_start.filter(|_| starting);
        let step = slow.map(|slow| later(Instant::now(), slow.step()));
        [sweep, step, state.members.next_return()].into_iter().flatten().min()
    }

    pub(crate) fn panic_threshold(&self) -> f64 {
        self.settings.panic_threshold
    }

    /// Whether nothing keeps it up to date any more: the tasks behind it end with their runtime.
    pub(crate) fn is_over(&self) -> bool {
        self.task.get().is_none_or(AbortHandle::is_finished) || self.view.is_closed()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Strategies of others run under the lock and may panic; what is behind it stays usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pools(&self) -> MutexGuard<'_, Pools> {
        // Nothing panics under this lock.
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pools {
    fn find(&self, strategy: &Arc<dyn Strategy>, filters: &[Filter]) -> Option<Arc<Pool>> {
        let wanted = |pool: &Arc<Pool>| pool.filters == filters && strategy::same(&pool.strategy, strategy);
        self.all.iter().filter_map(Weak::upgrade).find(wanted)
    }

    fn add(&mut self, pool: &Arc<Pool>) {
        self.all.retain(|pool| pool.strong_count() > 0);
        self.all.push(Arc::downgrade(pool));
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(pool.clone());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Refreshes the group when its view changes, an instance asks for it, or something is due; ends with it.
async fn run(group: Weak<Group>, hub: Arc<Hub>, mut view: View) {
    loop {
        let due = match group.upgrade() {
            Some(group) => group.due(),
            None => return,
        };
        let alarm = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = view.changed() => {}
            () = hub.wake.notified() => {}
            () = alarm => {}
        }
        match group.upgrade() {
            Some(group) => group.refresh(),
            None => return,
        }
    }
}
