use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use switchboard_core::Result;
use switchboard_watcher::{Directory, View};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::hub::Hub;
use crate::member::Members;
use crate::outlier::OutlierDetection;
use crate::slow_start::SlowStart;
use crate::variant::Variant;

/// What all balancers of one service share: its instances, what is learned of them, and the task that keeps both up
/// to date.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) hub: Arc<Hub>,
    pub(crate) settings: Settings,
    pub(crate) view: View,
    state: Mutex<State>,
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
    variants: Vec<Weak<Variant>>,
    next_sweep: Instant,
}

impl Group {
    pub(crate) fn new(directory: &Directory, view: View, settings: Settings) -> Arc<Self> {
        let consecutive = settings.outlier.as_ref().map_or(0, |detection| detection.consecutive);
        let hub = Hub::new(view.service().clone(), directory.clone(), settings.latency_decay, consecutive);
        let interval = settings.outlier.as_ref().map_or(Duration::ZERO, |detection| detection.interval);
        let state = State {
            members: Members::default(),
            variants: Vec::new(),
            next_sweep: Instant::now() + interval,
        };
        let group = Arc::new(Self {
            hub: Arc::new(hub),
            settings,
            view: view.clone(),
            state: Mutex::new(state),
            task: OnceLock::new(),
        });
        group.refresh();
        let task = tokio::spawn(run(Arc::downgrade(&group), group.hub.clone(), view));
        let _ = group.task.set(task.abort_handle());
        group
    }

    /// Adds a balancer, and makes its first picker.
    pub(crate) fn attach(&self, variant: &Arc<Variant>) {
        let mut state = self.state();
        state.variants.retain(|variant| variant.strong_count() > 0);
        state.variants.push(Arc::downgrade(variant));
        variant.rebuild(&state.members);
    }

    /// Waits until the registry has been heard and the picks know of it.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.view.ready().await?;
        self.refresh();
        Ok(())
    }

    /// Brings everything up to this moment, and the pickers with it if they are touched.
    pub(crate) fn refresh(&self) {
        let now = Instant::now();
        let (hub, slow) = (&self.hub, self.settings.slow_start);
        let mut state = self.state();
        let State { members, next_sweep, .. } = &mut *state;
        let mut changed = members.sync(self.view.snapshot(), hub, slow, now);
        if let Some(detection) = &self.settings.outlier {
            changed |= members.eject_failing(detection, hub, now);
            if *next_sweep <= now {
                *next_sweep = now + detection.interval;
                changed |= members.sweep(detection, hub, now);
            }
            changed |= members.readmit(detection, slow, hub, now);
        }
        if let Some(slow) = slow {
            changed |= members.ramp(slow, now);
        }
        if changed {
            state.rebuild();
        }
    }

    pub(crate) fn reset(&self) {
        let mut state = self.state();
        state.members.reset();
        state.rebuild();
    }

    /// When [`refresh`](Self::refresh) is next due by the clock.
    fn due(&self) -> Option<Instant> {
        let state = self.state();
        let sweep = self.settings.outlier.as_ref().map(|_| state.next_sweep);
        let starting = state.members.is_anyone_starting();
        let step = self.settings.slow_start.filter(|_| starting).map(|slow| Instant::now() + slow.step());
        [sweep, step, state.members.next_return()].into_iter().flatten().min()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Strategies of others run under the lock and may panic; what is behind it stays usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn rebuild(&mut self) {
        for variant in self.variants.iter().filter_map(Weak::upgrade) {
            variant.rebuild(&self.members);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Refreshes the group when its view changes, a failing instance asks for it, or something is due; ends with it.
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
