//! One browse of one DNS-SD type: a thread that always drains mdns-sd, and the snapshots it makes of what it hears.

use std::collections::{BTreeMap, HashSet, VecDeque};
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

/// The most events that wait here to be looked at. mdns-sd ends a subscription of which 1,000 wait in its channel.
const MAX_INBOX: usize = 2 * MAX_INSTANCES;

/// How long events are taken in before others get to see to something.
const TAKE_FOR: Duration = Duration::from_millis(5);

/// A new snapshot costs time for every instance in it. After making one, this many times as long goes by before the next.
const PUBLISH_PAUSE: u32 = 10;

/// How long to wait before subscribing again after a subscription was lost: at first, and at most.
const RESUBSCRIBE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));

/// How often to look whether somebody wants the network to be asked.
const LOOK: Duration = Duration::from_secs(1);

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

    /// Asks the network again, about a second after `at`.
    pub(crate) fn ask_again(&self, at: Instant) {
        self.shared.heard().requery.at(at);
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
        let mut inbox = VecDeque::new();
        let mut touched = HashSet::new();
        let mut publish_at = Instant::now();
        let mut next = None;
        let mut pause = RESUBSCRIBE.0;
        loop {
            let now = Instant::now();
            if now >= publish_at && !touched.is_empty() {
                self.publish(&mut touched);
                publish_at = Instant::now() + now.elapsed() * PUBLISH_PAUSE;
            }
            if !inbox.is_empty() {
                self.take(&mut inbox, &events, &mut touched);
                continue;
            }
            let due = self.heard().requery.due().min(now + LOOK);
            let wake = if touched.is_empty() { due } else { due.min(publish_at) };
            match events.recv_timeout(wake.saturating_duration_since(now)) {
                Ok(event) => inbox.push_back(event),
                Err(RecvTimeoutError::Timeout) => {
                    if next.is_none() && self.heard().requery.is_due(Instant::now()) {
                        // Browsing again without a stop asks again; the old channel ends when the new one begins.
                        next = self.browse();
                        if next.is_none() {
                            return;
                        }
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    if next.is_none() {
                        // The daemon found the channel full, or is gone. What was said meanwhile is lost, and said again
                        // by the next subscription: it begins with all that the daemon knows.
                        pause = if self.heard().is_complete() {
                            RESUBSCRIBE.0
                        } else {
                            RESUBSCRIBE.1.min(pause * 2)
                        };
                        thread::sleep(pause);
                        next = self.browse();
                    }
                    let Some(receiver) = next.take() else { return };
                    events = receiver;
                    self.heard().begin();
                }
            }
        }
    }

    /// Browses again, unless this browse or the daemon has ended.
    fn browse(&self) -> Option<Receiver<ServiceEvent>> {
        let stopped = self.stopped();
        if *stopped { None } else { self.daemon.browse_blocking(&self.kind.domain()) }
    }

    /// Takes what is in the inbox and what comes meanwhile, for a moment.
    fn take(
        &self,
        inbox: &mut VecDeque<ServiceEvent>,
        events: &Receiver<ServiceEvent>,
        touched: &mut HashSet<ServiceName>,
    ) {
        let mut heard = self.heard();
        let begun = Instant::now();
        while begun.elapsed() < TAKE_FOR {
            // Emptying the channel comes before everything else: the daemon waits for nobody.
            let room = MAX_INBOX.saturating_sub(inbox.len());
            inbox.extend(events.try_iter().take(room));
            let Some(event) = inbox.pop_front() else { return };
            self.take_one(event, &mut heard, touched);
        }
    }

    fn take_one(&self, event: ServiceEvent, heard: &mut Heard, touched: &mut HashSet<ServiceName>) {
        match event {
            ServiceEvent::ServiceResolved(resolved) => match record::decode(&self.kind, &resolved) {
                Ok(instance) => heard.add(&resolved, instance, touched),
                Err(error) => {
                    tracing::debug!(name = resolved.fullname, %error, "heard something that is no instance");
                    heard.remove(&resolved.fullname, touched);
                }
            },
            ServiceEvent::ServiceRemoved(_, fullname) => {
                heard.remove(&fullname, touched);
                heard.requery.lost(Instant::now());
            }
            ServiceEvent::SearchStarted(_) => heard.started(touched),
            _ => {}
        }
    }

    /// Makes the changes to these services known.
    fn publish(&self, touched: &mut HashSet<ServiceName>) {
        let heard = self.heard();
        self.store.publish(touched.drain().map(|service| heard.snapshot(service)));
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
    /// While a new subscription says what the daemon knows: the names it has not said yet.
    unsaid: Option<HashSet<String>>,
    /// How often the subscription has said that a search started.
    starts: usize,
    requery: Requery,
}

impl Heard {
    fn add(&mut self, resolved: &ResolvedService, instance: Instance, touched: &mut HashSet<ServiceName>) {
        let fullname = &resolved.fullname;
        if let Some(unsaid) = &mut self.unsaid {
            unsaid.remove(fullname);
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

    /// A new subscription begins: what it does not say is gone.
    fn begin(&mut self) {
        self.unsaid = Some(self.names.keys().cloned().collect());
        self.starts = 0;
    }

    /// mdns-sd says that a search started when a subscription begins, then says all it knows, and says it again when
    /// it sends the first question.
    fn started(&mut self, touched: &mut HashSet<ServiceName>) {
        self.starts += 1;
        if self.is_complete() {
            for fullname in self.unsaid.take().into_iter().flatten() {
                self.remove(&fullname, touched);
                self.requery.lost(Instant::now());
            }
        }
        self.requery.known(self.names.len());
    }

    /// Whether the subscription has said all that the daemon knew when it began.
    fn is_complete(&self) -> bool {
        self.starts > 1
    }
}
