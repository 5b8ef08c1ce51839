//! Tells how the registration stands: those who watch it, the log and the metrics, each change once.

use switchboard_core::{InstanceKey, Result};
use tokio::sync::watch;

use crate::Status;
use crate::calls::Taken;
use crate::metrics::Metrics;

/// Says `Stopped` when it is dropped, so that this is told also when the task ends with its runtime.
pub(crate) struct Teller {
    key: InstanceKey,
    status: watch::Sender<Status>,
    metrics: Metrics,
}

impl Teller {
    pub(crate) fn new(key: InstanceKey) -> Self {
        let status = Status::Registering { error: None };
        let metrics = Metrics::new(key.service());
        metrics.stands(&status);
        Self { key, status: watch::Sender::new(status), metrics }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.status.borrow(), Status::Closed { .. })
    }

    /// Takes note of a try to register.
    pub(crate) fn tried(&self, tried: &Result<Taken>) {
        self.metrics.tried(tried);
    }

    /// Changes the status by `change`, which says whether there is something to tell.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Status) -> bool) {
        // Not told under the lock: whoever hears it may ask for the status.
        let mut turn = None;
        self.status.send_if_modified(|status| {
            let before = status.clone();
            let changed = change(status);
            turn = (before.name() != status.name()).then(|| (before, status.clone()));
            changed
        });
        if let Some((before, now)) = turn {
            self.metrics.stands(&now);
            self.log(&before, &now);
        }
    }

    /// That it is not registered is said where that is found out, each time.
    fn log(&self, before: &Status, now: &Status) {
        let instance = &self.key;
        match (before, now) {
            (Status::Failing { since, .. }, Status::Registered { .. }) => {
                tracing::info!(%instance, after = ?since.elapsed(), "recovered: renewals go well again");
            }
            (Status::Withdrawn { since, .. }, Status::Registered { .. }) => {
                tracing::info!(%instance, after = ?since.elapsed(), "recovered: its check passes, and it is registered again");
            }
            (_, Status::Registered { .. }) => tracing::info!(%instance, "registered"),
            (_, Status::ReadOnly { registered_by, .. }) => {
                tracing::info!(%instance, %registered_by, "not registered: the registry can only be read");
            }
            (_, Status::Withdrawn { why, .. }) => tracing::info!(%instance, %why, "withdrawn by its check"),
            (_, Status::Stopped) => tracing::info!(%instance, "stopped"),
            _ => {}
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.change(|status| {
            *status = Status::Stopped;
            true
        });
    }
}
