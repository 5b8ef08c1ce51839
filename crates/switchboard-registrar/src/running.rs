use std::time::Duration;

use switchboard_core::{Error, ErrorKind, InstanceKey, Result};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::{Registrar, Status, task};

/// A registration that is being kept up.
///
/// Dropping it withdraws the instance in the background, as long as the runtime runs; [`shutdown`](Self::shutdown) does it
/// and waits.
#[derive(Debug)]
#[must_use = "dropping it withdraws the instance"]
pub struct Running {
    key: InstanceKey,
    status: watch::Receiver<Status>,
    /// Sending on it, or dropping it, begins the shutdown.
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<Result<()>>,
    drain: Duration,
}

impl Running {
    pub(crate) fn start(registrar: Registrar) -> Self {
        let (status_sender, status) = watch::channel(Status::Registering { error: None });
        let (stop, stopping) = oneshot::channel();
        let (done, stopped) = oneshot::channel();
        let (key, drain) = (registrar.instance.key(), registrar.drain);
        tokio::spawn(async move {
            let left = task::run(&registrar, &status_sender, stopping).await;
            status_sender.send_replace(Status::Stopped);
            // Nobody listens if the handle was dropped.
            let _ = done.send(left);
        });
        Self { key, status, stop, stopped, drain }
    }

    /// Which instance this is.
    pub fn key(&self) -> &InstanceKey {
        &self.key
    }

    /// How the registration stands now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The status as a channel to wait on; it can be cloned and outlives this.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Deregisters, then waits for the drain time.
    ///
    /// A renewal in flight is let finish first, so that it cannot register after the deregistration, but no longer than
    /// half of the shutdown limit. Nothing is registered after this was called.
    ///
    /// # Errors
    ///
    /// Why the instance could not be deregistered within the shutdown limit. It stays listed until its TTL lapses.
    pub async fn shutdown(self) -> Result<()> {
        let _ = self.stop.send(());
        let done = self.stopped.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "registrar",
                "shutdown",
                "the task ended with its runtime",
            ))
        });
        if !self.drain.is_zero() {
            tokio::time::sleep(self.drain).await;
        }
        done
    }

    /// Waits until the first registration is done, or it is withdrawn by its check.
    pub(crate) async fn started(&self, limit: Duration) -> Result<()> {
        let mut status = self.status.clone();
        let settled = |status: &Status| match status {
            Status::Registering { error } => error.as_ref().is_some_and(|error| !error.is_transient()),
            _ => true,
        };
        // The task that sends the status ends only after this handle.
        let _ = timeout(limit, status.wait_for(settled)).await;
        match self.status() {
            Status::Registering { error: Some(error) } => Err(error),
            Status::Registering { error: None } => {
                let message = format!("{} was not registered within {limit:?}", self.key);
                Err(Error::new(ErrorKind::Unavailable, "registrar", "start", message))
            }
            _ => Ok(()),
        }
    }
}
