//! One browse of one DNS-SD type: a thread that always drains mdns-sd, and the snapshots it makes of what it hears.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mdns_sd::{Receiver, RecvTimeoutError, ResolvedService, ServiceEvent};
use switchboard_core::{Error, ErrorKind, Instance, InstanceKey, Result, ServiceName, Snapshot, Store};
use tokio::sync::watch;

use crate::BACKEND;
use crate::browses::Browses;
use crate::daemon::{Daemon, Subscription};
use crate::record::{self, ServiceType};
use crate::requery::Requery;
use crate::watch as listening;

/// The most instances of one type that are kept; more than any link can carry, and a limit for a hostile one.
const MAX_INSTANCES: usize = 100_000;

/// The most events that wait here to be looked at. mdns-sd ends a subscription of which 1,000 wait in its channel.
const MAX_INBOX: usize = 2 * MAX_INSTANCES;

/// How long events are taken in before others get to see to something.
const TAKE_FOR: Duration = Duration::from_millis(5);

/// A new snapshot costs time for every instance in it. After making one, this many times as long goes by before the next.
const PUBLISH_PAUSE: u32 = 10;

/// How long to wait before subscribing again after a subscription was lost: at first, and at most.
const RESUBSCRIBE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How often to look whether somebody wants the network to be asked.
const LOOK: Duration = Duration::from_secs(1);

/// A daemon sends its first question within 120 ms (RFC 6762 §5.2). Nobody waits longer than this for it.
const ASKS_WITHIN: Duration = Duration::from_secs(1);

/// How long after a daemon without memory has begun what was heard before is kept without being heard again.
const RELEARN: Duration = Duration::from_secs(5);

/// How long after the first question to have the daemon tell all it knows. By then what said goodbye at the first and came
/// back has been announced again.
const SECOND_LOOK: Duration = Duration::from_secs(5);

/// A running browse; dropping it ends the thread and forgets what was heard.
pub(crate) struct Browse {
    shared: Arc<Shared>,
    browses: Arc<Browses>,
}

struct Shared {
    kind: ServiceType,
    daemon: Daemon,
    settle: Duration,
    store: Store,
    /// When the store last changed. Told as well when it is closed and when an outage begins.
    changed: watch::Sender<Instant>,
    heard: Mutex<Heard>,
    /// Held while a browse is asked for, so that none is after the stop.
    stopped: Mutex<bool>,
}

impl Browse {
    pub(crate) fn start(
        browses: &Arc<Browses>,
        daemon: Daemon,
        kind: ServiceType,
        settle: Duration,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            kind,
            daemon,
            settle,
            store: Store::new(BACKEND),
            changed: watch::Sender::new(Instant::now()),
            heard: Mutex::new(Heard::new()),
            stopped: Mutex::new(false),
        });
        // Asked for at once, so that what is registered after this is heard.
        let first = shared.browse().ok().flatten();
        let running = shared.clone();
        // A thread and not a task: a runtime busy for a few milliseconds would lose the subscription.
        let spawned = thread::Builder::new().name("mdns-browse".into()).spawn(move || running.run(first));
        spawned.map_err(|error| {
            Error::new(ErrorKind::Unavailable, BACKEND, "browse", "the thread did not start")
                .with_source(error)
        })?;
        Ok(Self { shared, browses: browses.clone() })
    }

    pub(crate) fn kind(&self) -> &ServiceType {
        &self.shared.kind
    }

    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    /// How long ago the daemon that is there now first asked for this type.
    pub(crate) fn age(&self) -> Duration {
        self.shared.heard().age(Instant::now())
    }

    /// When the store last changed, told too when there will be no more changes for a while.
    pub(crate) fn changed(&self) -> watch::Receiver<Instant> {
        self.shared.changed.subscribe()
    }

    /// The full name under which an instance was last heard.
    pub(crate) fn fullname(&self, key: &InstanceKey) -> Option<String> {
        self.shared.heard().fullname(&self.shared.kind, key)
    }

    /// The instance heard under this full name.
    pub(crate) fn instance_named(&self, service: &ServiceName, fullname: &str) -> Option<Arc<Instance>> {
        self.shared.heard().services.get(service)?.get(fullname).cloned()
    }

    /// Asks the network again, about a second after `at`.
    pub(crate) fn ask_again(&self, at: Instant) {
        self.shared.heard().requery.at(at);
    }

    /// Ends the streams and, once it wakes or the daemon ends, the thread.
    pub(crate) fn close(&self) {
        *self.shared.stopped() = true;
        self.shared.store.close();
        self.shared.changed.send_modify(|_| {});
    }
}

impl Drop for Browse {
    fn drop(&mut self) {
        self.close();
        // The daemon drops its end of the channel, which ends the thread.
        self.browses.forget(self);
    }
}

impl Shared {
    fn run(&self, first: Option<Subscription>) {
        let mut inbox = VecDeque::new();
        let mut touched = HashSet::new();
        let mut publish_at = Instant::now();
        let mut next = None;
        let mut pause = RESUBSCRIBE.0;
        let Some(mut events) = self.subscribe(first) else { return };
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
            let wake = self.look_after(now, &mut touched);
            let wake = if touched.is_empty() { wake } else { wake.min(publish_at) };
            match events.recv_timeout(wake.saturating_duration_since(now)) {
                Ok(event) => inbox.push_back(event),
                Err(RecvTimeoutError::Timeout) => {
                    if *self.stopped() {
                        return;
                    }
                    if next.is_none() && self.heard().requery.is_due(Instant::now()) {
                        // Browsing again without a stop asks again; the old channel ends when the new one begins.
                        next = self.browse().ok().flatten();
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
                    }
                    let Some(receiver) = self.subscribe(next.take()) else { return };
                    events = receiver;
                }
            }
        }
    }

    /// Begins the subscription `given`, or one asked for until there is a daemon to answer; `None` at the end.
    fn subscribe(&self, given: Option<Subscription>) -> Option<Receiver<ServiceEvent>> {
        let mut given = given;
        let mut pause = RESUBSCRIBE.0;
        loop {
            if let Some(Subscription { events, generation }) = given {
                self.heard().begin(generation, Instant::now());
                return Some(events);
            }
            given = match self.browse() {
                Ok(subscription) => subscription,
                Err(error) if error.kind() == ErrorKind::Closed => return None,
                Err(error) => {
                    self.begin_outage(error);
                    None
                }
            };
            if given.is_none() {
                thread::sleep(pause);
                pause = RESUBSCRIBE.1.min(pause * 2);
            }
        }
    }

    /// Asks the daemon to browse, unless this browse has ended; `None` while the daemon is busy.
    fn browse(&self) -> Result<Option<Subscription>> {
        let stopped = self.stopped();
        if *stopped {
            return Err(Error::closed(BACKEND, "watch"));
        }
        self.daemon.try_browse(&self.kind.domain())
    }

    /// Does what is due when everything has been taken in; when to do so next.
    fn look_after(&self, now: Instant, touched: &mut HashSet<ServiceName>) -> Instant {
        let mut heard = self.heard();
        heard.forget_unsaid(now, touched);
        let due = heard.requery.due().min(now + LOOK);
        if self.store.failure().is_none() {
            return due;
        }
        // What is told after an outage is as whole as a first state.
        let quiet = now.saturating_duration_since(*self.changed.borrow());
        let age = heard.age(now);
        let left = listening::left(self.settle, age, quiet, !heard.names.is_empty());
        if left.is_zero() && heard.is_complete() && touched.is_empty() {
            self.store.heal();
            return due;
        }
        due.min(now + left.max(Duration::from_millis(10)))
    }

    /// Tells, once, that nothing can be heard.
    fn begin_outage(&self, error: Error) {
        if self.store.failure().is_none() {
            self.store.fail(error);
            self.changed.send_modify(|_| {});
        }
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
            ServiceEvent::SearchStarted(_) => heard.started(Instant::now()),
            _ => {}
        }
    }

    /// Makes the changes to these services known.
    fn publish(&self, touched: &mut HashSet<ServiceName>) {
        let heard = self.heard();
        self.store.publish(touched.drain().map(|service| heard.snapshot(&self.kind, service)));
        self.changed.send_replace(Instant::now());
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has been heard and not been taken back, by full name.
struct Heard {
    services: BTreeMap<ServiceName, BTreeMap<String, Arc<Instance>>>,
    names: BTreeMap<String, ServiceName>,
    /// The names that the current subscription has not said yet, and how long they may stay.
    unsaid: Option<(HashSet<String>, Instant)>,
    /// How often the subscription has said that a search started.
    starts: usize,
    /// The generation of the daemon, when it began to listen, and whether it has asked the network since.
    generation: u64,
    begun: Instant,
    asked: bool,
    requery: Requery,
}

impl Heard {
    fn new() -> Self {
        Self {
            services: BTreeMap::new(),
            names: BTreeMap::new(),
            unsaid: None,
            starts: 0,
            generation: 0,
            begun: Instant::now(),
            asked: false,
            requery: Requery::default(),
        }
    }

    fn add(&mut self, resolved: &ResolvedService, instance: Instance, touched: &mut HashSet<ServiceName>) {
        let fullname = &resolved.fullname;
        if let Some((unsaid, _)) = &mut self.unsaid {
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

    fn fullname(&self, kind: &ServiceType, key: &InstanceKey) -> Option<String> {
        let entries = self.services.get(key.service())?;
        record::tell_apart(kind, entries)
            .find(|(_, instance)| instance.id() == key.id())
            .map(|(fullname, _)| fullname.clone())
    }

    fn snapshot(&self, kind: &ServiceType, service: ServiceName) -> Snapshot {
        let entries = self.services.get(&service).into_iter().flatten();
        Snapshot::new(service, record::tell_apart(kind, entries).map(|(_, instance)| instance))
    }

    /// A new subscription begins: what it does not say is gone. A daemon that has just begun has to hear it first.
    fn begin(&mut self, generation: u64, now: Instant) {
        let mut until = now;
        if generation != self.generation {
            self.generation = generation;
            self.begun = now;
            self.asked = false;
            until += RELEARN;
        }
        self.unsaid = Some((self.names.keys().cloned().collect(), until));
        self.starts = 0;
    }

    /// mdns-sd says that a search started when a subscription begins, then says all it knows, and says it again when
    /// it sends the first question.
    fn started(&mut self, now: Instant) {
        self.starts += 1;
        if self.is_complete() && !self.asked {
            self.begun = now;
            self.asked = true;
            // mdns-sd tells of a record when it is new. One that it first heard in a goodbye, having missed the announcement
            // before, and again within the second that a goodbye takes, it knows and never tells of. Nor does anybody answer a
            // question for it, since the question says that it is known. The next subscription tells all that is known.
            self.requery.at(now + SECOND_LOOK);
        }
        self.requery.known(self.names.len());
    }

    /// How long answers have had time to arrive: since the first question.
    fn age(&self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.begun);
        if self.asked { age } else { age.saturating_sub(ASKS_WITHIN) }
    }

    fn forget_unsaid(&mut self, now: Instant, touched: &mut HashSet<ServiceName>) {
        if !self.is_complete() || self.unsaid.as_ref().is_none_or(|(_, until)| now < *until) {
            return;
        }
        for fullname in self.unsaid.take().into_iter().flat_map(|(unsaid, _)| unsaid) {
            self.remove(&fullname, touched);
            self.requery.lost(now);
        }
    }

    /// Whether the subscription has said all that the daemon knew when it began.
    fn is_complete(&self) -> bool {
        self.starts > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_time_from_the_first_question_of_each_daemon() {
        let mut heard = Heard::new();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut age = |generation| {
            heard.begin(generation, at(0));
            heard.started(at(0));
            let unasked = heard.age(at(100));
            heard.started(at(100));
            // Asking again does not begin anew.
            heard.begin(generation, at(5000));
            (unasked, heard.age(at(6000)))
        };
        for generation in [1, 2] {
            assert_eq!(age(generation), (Duration::ZERO, Duration::from_millis(5900)));
        }
        heard.begin(3, at(0));
        assert_eq!(
            heard.age(at(3000)),
            Duration::from_secs(2),
            "a daemon that never asks keeps nobody waiting"
        );
    }
}
