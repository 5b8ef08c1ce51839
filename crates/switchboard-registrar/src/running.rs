use std::time::Duration;

use switchboard_core::{Error, ErrorKind, Instance, InstanceKey, Invalid, Result};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::leave::Stop;
use crate::task::Change;
use crate::teller::Teller;
use crate::{Registrar, Status, task};

/// A registration that is being kept up.
///
/// Dropping it withdraws the instance in the background, as long as the runtime runs; [`shutdown`](Self::shutdown) does it
/// and waits.
#[derive(Debug)]
#[must_use = "dropping it withdraws the instance"]
pub struct Running {
    key: InstanceKey,
    instance: watch::Receiver<Instance>,
    status: watch::Receiver<Status>,
    changes: mpsc::Sender<Change>,
    /// Sending on it, or dropping it, begins the shutdown.
    stop: oneshot::Sender<Stop>,
    stopped: oneshot::Receiver<Result<()>>,
}

impl Running {
    pub(crate) fn start(registrar: Registrar, runtime: &Handle) -> Self {
        let (instance_sender, instance) = watch::channel(registrar.instance.clone());
        // One change at a time; who brings the next waits.
        let (changes, changed) = mpsc::channel(1);
        let (stop, stopping) = oneshot::channel();
        let (mut done, stopped) = oneshot::channel();
        let key = registrar.instance.key();
        let teller = Teller::new(key.clone());
        let status = teller.watch();
        runtime.spawn(async move {
            let left = task::run(&registrar, instance_sender, &teller, changed, stopping).await;
            drop(teller);
            // Nobody waits if the handle was dropped.
            let _ = timeout(registrar.drain, done.closed()).await;
            let _ = done.send(left);
        });
        Self { key, instance, status, changes, stop, stopped }
    }

    /// Which instance this is.
    pub fn key(&self) -> &InstanceKey {
        &self.key
    }

    /// What is registered, or will be when nothing stands in its way any more.
    pub fn instance(&self) -> Instance {
        self.instance.borrow().clone()
    }

    /// How the registration stands now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The status as a channel to wait on; it can be cloned and outlives this.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Registers the instance changed: another weight, other metadata, tags or addresses. There is no moment between in
    /// which clients do not find it.
    ///
    /// ```
    /// # async fn example(running: switchboard_registrar::Running) -> Result<(), switchboard_core::Error> {
    /// let warmed_up = running.instance().to_builder().weight(10).build()?;
    /// running.update(warmed_up).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It is registered at once, or after the call to the registry that is in flight, and `Ok` says that the registry has
    /// it. While the instance is withdrawn, or waits for its first check, the change is kept until the check passes, and
    /// `Ok` comes at once. Changes are made one after the other in the order of the calls; the last one stands. Dropping
    /// the future leaves open whether the change is made.
    ///
    /// # Errors
    ///
    /// `Invalid` for an instance of another key, or one that the registry refuses as invalid: nothing is changed. With
    /// what else the registry fails the change stands, and is tried again as a renewal is. `Unavailable` when the runtime
    /// has ended, `Closed` when the registry was closed.
    ///
    /// A change that was kept, or stands after a failure, and that the registry calls invalid when it is tried again is given
    /// up with a warning in the log: the instance is what the registry took last, or what the registrar was made with.
    pub async fn update(&self, instance: Instance) -> Result<()> {
        if instance.key() != self.key {
            let invalid = Invalid::new(
                format!("instance {}", instance.key()),
                format!("is another one than {}, which is registered", self.key),
            );
            return Err(Error::invalid("registrar", "update", &invalid));
        }
        let (done, told) = oneshot::channel();
        self.changes.send(Change { instance, done }).await.map_err(|_| ended("update"))?;
        told.await.unwrap_or_else(|_| Err(ended("update")))
    }

    /// Deregisters, then waits for the drain time.
    ///
    /// A registration in flight is let finish first, so that it cannot reach the registry after the deregistration, but no
    /// longer than half of the shutdown limit. None begins after this was called.
    ///
    /// # Errors
    ///
    /// Why the instance could not be deregistered within the shutdown limit. It stays listed until its TTL lapses.
    pub async fn shutdown(self) -> Result<()> {
        let _ = self.stop.send(Stop::Shutdown);
        self.stopped.await.unwrap_or_else(|_| Err(ended("shutdown")))
    }

    /// Ends what could not be started, and does not drain: no client was to find it.
    pub(crate) async fn give_up(mut self) {
        let _ = self.stop.send(Stop::GiveUp);
        // It says so before it would drain; it does not when nobody waits for it any more.
        let _ = self.status.wait_for(|status| matches!(status, Status::Stopped)).await;
    }

    /// Waits until the first registration is done, or it is withdrawn by its check.
    pub(crate) async fn started(&self, limit: Duration) -> Result<()> {
        let mut status = self.status.clone();
        let settled = |status: &Status| match status {
            Status::Registering { error } => error.as_ref().is_some_and(|error| !error.is_transient()),
            _ => true,
        };
        if let Ok(Err(_)) = timeout(limit, status.wait_for(settled)).await {
            return Err(ended("start"));
        }
        match self.status() {
            Status::Registering { error: Some(error) } | Status::Closed { error } => Err(error),
            Status::Registering { error: None } => {
                let message = format!("{} was not registered within {limit:?}", self.key);
                Err(Error::new(ErrorKind::Unavailable, "registrar", "start", message))
            }
            Status::Stopped => Err(ended("start")),
            _ => Ok(()),
        }
    }
}

/// The task lives as long as the handle, unless its runtime does not.
fn ended(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, "registrar", operation, "the task ended with its runtime")
}
