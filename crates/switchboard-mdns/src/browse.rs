//! One browse of one DNS-SD type: a thread that always drains mdns-sd, and the snapshots it makes of what it hears.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mdns_sd::{Receiver, RecvTimeoutError, ResolvedService, ServiceEvent};
use switchboard_core::{Error, ErrorKind, Instance, InstanceKey, Result, ServiceName, Snapshot, Store};

use crate::BACKEND;
use crate::daemon::Daemon;
use crate::record::{self, ServiceType};
use crate::requery::Requery;

/// The most instances of one type that are kept; more than any link can carry, and a limit for a hostile one.
const MAX_INSTANCES: usize = 100_000;

/// After a gap in what was heard, how long an instance has to be heard again.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);

/// A running browse; dropping it ends the thread and forgets what was heard.
pub(crate) struct Browse {
    shared: Arc<Shared>,
}

struct Shared {
    kind: ServiceType,
    daemon: Daemon,
    store: Store,
    heard: Mutex<Heard>,
    started: Instant,
    /// Held while a browse is asked for, so that none is after the stop.
    stopped: Mutex<bool>,
}

impl Browse {
    pub(crate) async fn start(daemon: Daemon, kind: ServiceType) -> Result<Self> {
        let events = daemon.browse(&kind.domain()).await?;
        let shared = Arc::new(Shared {
            kind,
            daemon,
            store: Store::new(BACKEND),
            heard: Mutex::default(),
            started: Instant::now(),
            stopped: Mutex::new(false),
        });
        let browse = Self { shared: shared.clone() };
        // A thread and not a task: a runtime busy for a few milliseconds would lose the subscription.
        let spawned = thread::Builder::new().name("mdns-browse".into()).spawn(move || shared.run(events));
        spawned.map_err(|error| {
            Error::new(ErrorKind::Unavailable, BACKEND, "browse", "the thread did not start")
                .with_source(error)
        })?;
        Ok(browse)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    /// How long this browse has been listening.
    pub(crate) fn age(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// The full name under which an instance was last heard.
    pub(crate) fn fullname(&self, key: &InstanceKey) -> Option<String> {
        self.shared.heard().fullname(key)
    }

    /// Asks the network again, now.
    pub(crate) fn ask_again(&self) {
        self.shared.heard().requery.soon();
    }
}

impl Drop for Browse {
    fn drop(&mut self) {
        self.shared.store.close();
        *self.shared.stopped() = true;
        // The daemon drops its end of the channel, which ends the thread.
        self.shared.daemon.stop_browse(&self.shared.kind.domain());
    }
}

impl Shared {
    fn run(&self, mut events: Receiver<ServiceEvent>) {
        let mut next = None;
        loop {
            let wait = self.heard().wait(Instant::now());
            match events.recv_timeout(wait) {
                Ok(event) => self.take(std::iter::once(event).chain(events.try_iter())),
                Err(RecvTimeoutError::Timeout) => {
                    self.publish(Heard::drop_unconfirmed);
                    if self.heard().requery.is_due(Instant::now()) {
                        // Browsing again without a stop asks again; the old channel ends when the new one begins.
                        match self.browse() {
                            Some(receiver) => next = Some(receiver),
                            None => return,
                        }
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let receiver = next.take().or_else(|| {
                        // The daemon found the channel full, or is gone. What was said meanwhile is lost.
                        self.heard().doubt_all(Instant::now());
                        self.browse()
                    });
                    match receiver {
                        Some(receiver) => events = receiver,
                        None => return,
                    }
                }
            }
        }
    }

    /// Browses again, unless this browse or the daemon has ended.
    fn browse(&self) -> Option<Receiver<ServiceEvent>> {
        let stopped = self.stopped();
        if *stopped { None } else { self.daemon.browse_blocking(&self.kind.domain()) }
    }

    fn take(&self, events: impl Iterator<Item = ServiceEvent>) {
        self.publish(|heard| {
            let mut touched = HashSet::new();
            for event in events {
                match event {
                    ServiceEvent::ServiceResolved(resolved) => match record::decode(&self.kind, &resolved) {
                        Ok(instance) => heard.add(&resolved, instance, &mut touched),
                        Err(error) => {
                            tracing::debug!(name = resolved.fullname, %error, "heard something that is no instance");
                            heard.remove(&resolved.fullname, &mut touched);
                        }
                    },
                    ServiceEvent::ServiceRemoved(_, fullname) => {
                        heard.remove(&fullname, &mut touched);
                        heard.requery.lost(Instant::now());
                    }
                    _ => {}
                }
            }
            touched
        });
    }

    /// Makes a change and publishes the services it touched.
    fn publish(&self, change: impl FnOnce(&mut Heard) -> HashSet<ServiceName>) {
        let mut heard = self.heard();
        let touched = change(&mut heard);
        self.store.publish(touched.into_iter().map(|service| heard.snapshot(service)));
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has been heard and not been taken back, by full name.
#[derive(Default)]
struct Heard {
    services: BTreeMap<ServiceName, BTreeMap<String, Arc<Instance>>>,
    names: BTreeMap<String, ServiceName>,
    /// Names not heard again since a gap, and until when they may be.
    doubted: Option<(Instant, HashSet<String>)>,
    requery: Requery,
}

impl Heard {
    fn add(&mut self, resolved: &ResolvedService, instance: Instance, touched: &mut HashSet<ServiceName>) {
        let fullname = &resolved.fullname;
        if let Some((_, doubted)) = &mut self.doubted {
            doubted.remove(fullname);
        }
        let service = instance.service().clone();
        if self.names.get(fullname).is_some_and(|before| *before != service) {
            self.remove(fullname, touched);
        }
        if !self.names.contains_key(fullname) && self.names.len() >= MAX_INSTANCES {
            tracing::warn!(
                name = fullname,
                limit = MAX_INSTANCES,
                "too many instances on this link; one is left out"
            );
            return;
        }
        let entries = self.services.entry(service.clone()).or_default();
        if entries.get(fullname).is_none_or(|before| **before != instance) {
            entries.insert(fullname.clone(), Arc::new(instance));
            self.names.insert(fullname.clone(), service.clone());
            touched.insert(service);
        }
    }

    fn remove(&mut self, fullname: &str, touched: &mut HashSet<ServiceName>) {
        let Some(service) = self.names.remove(fullname) else { return };
        if let Some(entries) = self.services.get_mut(&service) {
            entries.remove(fullname);
            if entries.is_empty() {
                self.services.remove(&service);
            }
        }
        touched.insert(service);
    }

    fn fullname(&self, key: &InstanceKey) -> Option<String> {
        let entries = self.services.get(key.service())?;
        entries.iter().find(|(_, instance)| instance.id() == key.id()).map(|(fullname, _)| fullname.clone())
    }

    fn snapshot(&self, service: ServiceName) -> Snapshot {
        let entries = self.services.get(&service).into_iter().flatten();
        Snapshot::new(service, entries.map(|(_, instance)| instance.clone()))
    }

    fn doubt_all(&mut self, now: Instant) {
        self.doubted = Some((now + CONFIRM_WITHIN, self.names.keys().cloned().collect()));
    }

    fn drop_unconfirmed(&mut self) -> HashSet<ServiceName> {
        let mut touched = HashSet::new();
        if let Some((_, doubted)) = self.doubted.take_if(|(deadline, _)| *deadline <= Instant::now()) {
            for fullname in doubted {
                self.remove(&fullname, &mut touched);
            }
        }
        touched
    }

    /// How long there is nothing to do but listen.
    fn wait(&self, now: Instant) -> Duration {
        let requery = self.requery.due();
        let next = self.doubted.as_ref().map_or(requery, |(deadline, _)| requery.min(*deadline));
        next.saturating_duration_since(now)
    }
}
