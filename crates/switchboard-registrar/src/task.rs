//! The loop that keeps one instance registered.
//!
//! It makes one call to the registry at a time, and three things make it: time, health that turns, and a change of the
//! instance. Checks go on beside it. Asked to stop, it lets the call in flight finish and deregisters. All calls are made
//! here, so none can come later.

use std::future::Future;
use std::mem;
use std::pin::{Pin, pin};
use std::time::Duration;

use backon::ExponentialBackoff;
use switchboard_core::{Error, ErrorKind, Instance, InstanceKey, Result};
use tokio::select;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::calls::{Taken, is_refusal};
use crate::check::Health;
use crate::leave::Stop;
use crate::pause::{AT_LEISURE, LONGEST_RETRY, early, retries};
use crate::teller::Teller;
use crate::{CheckFailures, Registrar};

/// Renewals come in the last half of the interval.
const SPREAD: u32 = 2;

/// The instance changed, to be registered at once.
pub(crate) struct Change {
    pub(crate) instance: Instance,
    pub(crate) done: oneshot::Sender<Result<()>>,
}

/// Keeps `instance` registered until `stop`, then deregisters it; what came of that.
pub(crate) async fn run(
    registrar: &Registrar,
    instance: watch::Sender<Instance>,
    teller: &Teller,
    changes: mpsc::Receiver<Change>,
    stop: oneshot::Receiver<Stop>,
) -> Result<()> {
    let (checked, health) = watch::channel(Health::before(&registrar.check));
    // Checks go on while nobody has asked to stop, whatever else is waited for.
    let stop = pin!(async {
        select! {
            biased;
            // Without a word the handle was dropped.
            stop = stop => stop.unwrap_or(Stop::Shutdown),
            () = registrar.check.run(&checked, teller) => Stop::Shutdown,
        }
    });
    let key = registrar.instance.key();
    let due = Box::pin(sleep(Duration::ZERO));
    let mut keeper = Keeper {
        registrar,
        key,
        accepted: registrar.instance.clone(),
        instance,
        may_be_there: false,
        teller,
        health,
        due,
        retries: None,
    };
    let (stop, asked) = keeper.keep(changes, stop).await;
    registrar.leave(stop, asked, keeper.may_be_there).await
}

struct Keeper<'a> {
    registrar: &'a Registrar,
    key: InstanceKey,
    instance: watch::Sender<Instance>,
    /// What the registry took last; before that, what the registrar was made with.
    accepted: Instance,
    /// Whether the registry took a registration, or may have taken one.
    may_be_there: bool,
    teller: &'a Teller,
    health: watch::Receiver<Health>,
    /// When the registry is told again.
    due: Pin<Box<Sleep>>,
    retries: Option<(Duration, ExponentialBackoff)>,
}

impl Keeper<'_> {
    /// Keeps the registry up to date until `stop`; how to end, and when that was asked.
    async fn keep(
        &mut self,
        mut changes: mpsc::Receiver<Change>,
        mut stop: Pin<&mut impl Future<Output = Stop>>,
    ) -> (Stop, Instant) {
        loop {
            // A closed registry stays closed.
            let open = !self.teller.is_closed();
            let change = select! {
                biased;
                stop = &mut stop => return (stop, Instant::now()),
                () = &mut self.due, if open => None,
                Ok(()) = self.health.changed(), if open => None,
                Some(change) = changes.recv() => Some(change),
            };
            let registrar = self.registrar;
            let mut turn = pin!(self.turn(change));
            select! {
                biased;
                () = &mut turn => {}
                stop = &mut stop => {
                    let asked = Instant::now();
                    // A registration is not dropped on stop: it might reach the registry after the deregistration.
                    let _ = timeout(stop.limit(registrar) / 2, turn).await;
                    return (stop, asked);
                }
            }
        }
    }

    /// Tells the registry what is to be, by one call.
    async fn turn(&mut self, change: Option<Change>) {
        if let Some(change) = change {
            return self.change(change).await;
        }
        let health = self.health.borrow_and_update().clone();
        match &health {
            // The first check is waited for.
            Health::Unknown => self.due.set(sleep(Duration::MAX)),
            Health::Well(_) => {
                let begun = Instant::now();
                let tried = self.register().await;
                self.registered(&tried, begun);
            }
            // At each interval again: the last time may have failed, and it costs nothing.
            Health::Unwell { failures, .. } => self.withdraw(failures).await,
        }
    }

    /// Puts the changed instance in place. One that the registry refuses as invalid is forgotten: each renewal would be
    /// refused, and what is registered would lapse.
    async fn change(&mut self, Change { instance, done }: Change) {
        let before = self.instance.send_replace(instance);
        let begun = Instant::now();
        let well = matches!(*self.health.borrow(), Health::Well(_));
        let tried = if well { Some(self.register().await) } else { None };
        match &tried {
            Some(Err(error)) if error.kind() == ErrorKind::Invalid => {
                drop(self.instance.send_replace(before));
            }
            Some(tried) => self.registered(tried, begun),
            None => {}
        }
        // Nobody listens if the caller gave up.
        let _ = done.send(tried.map_or(Ok(()), |tried| tried.map(drop)));
    }

    async fn register(&mut self) -> Result<Taken> {
        let instance = self.instance.borrow().clone();
        // Also when it is given up half-way.
        let before = mem::replace(&mut self.may_be_there, true);
        let tried = self.registrar.register(&instance).await;
        self.teller.tried(&tried);
        match &tried {
            Ok(Taken::Here) => self.accepted = instance,
            Ok(Taken::Elsewhere(_)) => self.may_be_there = before,
            Err(error) if is_refusal(error) => self.may_be_there = before,
            Err(_) => {}
        }
        tried
    }

    /// Takes note of a try to register that began then.
    fn registered(&mut self, tried: &Result<Taken>, begun: Instant) {
        let ends = self.registrar.effective_ttl().and_then(|ttl| begun.checked_add(ttl));
        self.teller.change(|status| status.tried(tried, ends, &self.health.borrow()));
        self.schedule(tried.as_ref().err());
        let Err(error) = tried else { return };
        match error.kind() {
            ErrorKind::Closed => {
                tracing::warn!(instance = %self.key, %error, "not registered, and will not be");
            }
            ErrorKind::Invalid if *self.instance.borrow() != self.accepted => {
                tracing::warn!(instance = %self.key, %error, "refused; going back to what was accepted last");
                self.instance.send_replace(self.accepted.clone());
                self.due.set(sleep(Duration::ZERO));
            }
            _ => tracing::warn!(instance = %self.key, %error, "not registered; will try again"),
        }
    }

    async fn withdraw(&mut self, failures: &CheckFailures) {
        let begun = Instant::now();
        let limit = self.registrar.call_limit();
        let tried = if self.registrar.withdraw { self.registrar.deregister(limit).await } else { Ok(()) };
        match &tried {
            Err(error) if error.kind() == ErrorKind::Closed => {
                return self.registered(&Err(error.clone()), begun);
            }
            Err(error) => tracing::warn!(instance = %self.key, %error, "not withdrawn; will try again"),
            Ok(()) => {}
        }
        self.teller.change(|status| status.withdrawn(failures));
        self.schedule(tried.as_ref().err());
    }

    /// Has the registry told again: in time for the TTL, or soon after a failure.
    fn schedule(&mut self, failure: Option<&Error>) {
        let interval = self.registrar.effective_interval();
        let pause = if let Some(error) = failure {
            let longest = if error.is_transient() { LONGEST_RETRY } else { AT_LEISURE };
            let longest = if interval.is_zero() { longest } else { interval.min(longest) };
            // Another limit makes other pauses.
            if self.retries.as_ref().is_none_or(|(limit, _)| *limit != longest) {
                self.retries = Some((longest, retries(longest)));
            }
            self.retries.as_mut().and_then(|(_, pauses)| pauses.next()).unwrap_or(longest)
        } else if interval.is_zero() {
            Duration::MAX
        } else {
            early(interval, SPREAD)
        };
        if failure.is_none() {
            self.retries = None;
        }
        self.due.set(sleep(pause));
    }
}
