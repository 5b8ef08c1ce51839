use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use switchboard_core::{ServiceName, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::{Freshness, Status};

/// What a service's task writes and its views read.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) service: ServiceName,
    pub(crate) since: Instant,
    state: ArcSwap<State>,
    /// Counts the writes, to wake those who wait for one.
    written: watch::Sender<u64>,
    /// How many views there are.
    leases: watch::Sender<usize>,
    /// Whether it is watched for a while after the last view is dropped.
    lingers: AtomicBool,
    /// How often somebody asked whether all that was heard is written, and how often the task has said yes.
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
    metrics: Metrics,
}

#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) status: Status,
}

impl State {
    /// Makes `snapshot` the one to be seen. An equal one, as comes after an outage, is no change.
    pub(crate) fn show(&mut self, snapshot: Snapshot) {
        if self.snapshot.as_ref() != Some(&snapshot) {
            self.snapshot = Some(snapshot);
            self.status.updated = Some(Instant::now());
        }
        self.status.held_back = None;
    }
}

impl Cell {
    pub(crate) fn new(service: ServiceName) -> Self {
        let state = State { snapshot: None, status: Status::pending() };
        Self {
            metrics: Metrics::new(&service),
            service,
            state: ArcSwap::from_pointee(state),
            written: watch::Sender::new(0),
            since: Instant::now(),
            leases: watch::Sender::new(0),
            lingers: AtomicBool::new(false),
            asked: watch::Sender::new(0),
            answered: watch::Sender::new(0),
        }
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        self.state.load().snapshot.clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state.load().status.freshness, Freshness::Closed)
    }

    /// Only the service's task writes, so read, change and write need no lock.
    pub(crate) fn update(&self, change: impl FnOnce(&mut State)) {
        let before = self.state.load();
        let mut state = State::clone(&before);
        change(&mut state);
        self.metrics.changed(&before, &state);
        self.state.store(Arc::new(state));
        self.written.send_modify(|count| *count += 1);
    }

    pub(crate) fn writes(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    pub(crate) fn leases(&self) -> watch::Receiver<usize> {
        self.leases.subscribe()
    }

    /// Waits until the task has written all that the registry's stream has ready by now.
    pub(crate) async fn caught_up(&self) {
        let mut answered = self.answered.subscribe();
        let mut turn = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            turn = *asked;
        });
        // Cannot fail: this holds the sender.
        let _ = answered.wait_for(|answered| *answered >= turn).await;
    }

    pub(crate) fn questions(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    pub(crate) fn answer(&self, turn: u64) {
        self.answered.send_replace(turn);
    }

    pub(crate) fn set_lingering(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    pub(crate) fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Relaxed)
    }

    /// Counts a view, and says whether it is the first.
    pub(crate) fn lease(&self) -> bool {
        let mut first = false;
        self.leases.send_modify(|count| {
            *count += 1;
            first = *count == 1;
        });
        first
    }

    pub(crate) fn release(&self) {
        self.leases.send_modify(|count| *count -= 1);
    }

    pub(crate) fn is_idle(&self) -> bool {
        *self.leases.borrow() == 0
    }
}
