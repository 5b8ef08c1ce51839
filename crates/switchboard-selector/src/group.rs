use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use switchboard_core::{Error, InstanceId, Result};
use switchboard_watcher::{Directory, View};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::hub::{Hub, Settings};
use crate::member::Members;
use crate::pool::Pool;
use crate::{FailureKind, Filter, Strategy, strategy};

/// How many pools are kept though nobody holds them; beyond that the oldest goes.
const KEPT: usize = 64;

/// What all balancers of one service share: its instances, what is learned of them, the pools they are picked from, and the
/// task that keeps all of it up to date.
pub(crate) struct Group {
    pub(crate) hub: Arc<Hub>,
    pub(crate) view: View,
    members: Mutex<Members>,
    /// Oldest first.
    pools: Mutex<Vec<Arc<Pool>>>,
    task: OnceLock<AbortHandle>,
}

impl Group {
    /// `Unsupported` outside a tokio runtime.
    pub(crate) fn new(directory: &Directory, view: View, settings: Settings) -> Result<Arc<Self>> {
        let runtime = Handle::try_current()
            .map_err(|error| Error::no_runtime("selector", "service").with_source(error))?;
        let hub = Arc::new(Hub::new(view.service().clone(), directory.clone(), settings));
        let (members, pools) = (Mutex::default(), Mutex::default());
        let group = Arc::new(Self { hub, view, members, pools, task: OnceLock::new() });
        group.refresh();
        let running = run(Arc::downgrade(&group), group.hub.clone(), group.view.clone());
        let _ = group.task.set(runtime.spawn(running).abort_handle());
        Ok(group)
    }

    /// The pool with this strategy and these filters, the same for equal ones as long as somebody holds it; those made last
    /// are held here.
    pub(crate) fn pool(&self, strategy: &Arc<dyn Strategy>, filters: Vec<Filter>) -> Arc<Pool> {
        let wanted = |pool: &&Arc<Pool>| pool.filters == filters && strategy::same(&pool.strategy, strategy);
        if let Some(found) = self.pools().iter().find(wanted) {
            return found.clone();
        }
        let pool = Arc::new(Pool::new(self.hub.clone(), strategy.clone(), filters));
        // A refresh waits for this lock, and then knows the pool.
        let members = self.members();
        pool.rebuild(&members);
        let mut pools = self.pools();
        let is_spare = |pool: &Arc<Pool>| Arc::strong_count(pool) == 1;
        let mut spare = pools.iter().filter(|pool| is_spare(pool)).count();
        pools.retain(|pool| {
            let goes = spare >= KEPT && is_spare(pool);
            spare -= usize::from(goes);
            !goes
        });
        pools.push(pool.clone());
        pool
    }

    /// Takes in what came of a call to the instance with this id, if it is known.
    pub(crate) fn mark(&self, id: &InstanceId, outcome: std::result::Result<(), FailureKind>) -> bool {
        let members = self.members();
        let found = members.list.binary_search_by(|member| member.instance().id().cmp(id));
        if let Ok(found) = found {
            let member = &members.list[found];
            member.stats().judge(member.instance(), outcome, None, self.hub.now());
        }
        found.is_ok()
    }

    /// Brings everything up to this moment. Returns when that is next due by the clock.
    pub(crate) fn refresh(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut members = self.members();
        if members.refresh(self.view.snapshot(), &self.hub, now) {
            self.rebuild(&members);
        }
        members.due(&self.hub, now)
    }

    pub(crate) fn reset(&self) {
        let mut members = self.members();
        members.reset();
        self.rebuild(&members);
    }

    fn rebuild(&self, members: &Members) {
        let pools = self.pools().clone();
        for pool in pools {
            pool.rebuild(members);
        }
        members.clear_ejected();
        members.tell(&self.hub.metrics);
    }

    /// Whether nothing keeps it up to date any more: the tasks behind it end with their runtime.
    pub(crate) fn is_over(&self) -> bool {
        self.task.get().is_none_or(AbortHandle::is_finished) || self.view.is_closed()
    }

    pub(crate) fn members(&self) -> MutexGuard<'_, Members> {
        // Strategies of others run under the lock and may panic; what is behind it stays usable.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pools(&self) -> MutexGuard<'_, Vec<Arc<Pool>>> {
        // Nothing panics under this lock.
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
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
    while let Some(due) = group.upgrade().map(|group| group.refresh()) {
        tokio::select! {
            () = view.changed() => {}
            () = hub.wake.notified() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}
