//! One browse of one DNS-SD type: a thread that always drains mdns-sd, and the snapshots it makes of what it hears.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mdns_sd::{Receiver, RecvTimeoutError, ServiceEvent};
use switchboard_core::{Error, ErrorKind, Instance, InstanceKey, Result, Store};
use tokio::sync::watch;

use crate::BACKEND;
use crate::ask::Ask;
use crate::browses::Browses;
use crate::daemon::{Daemon, Subscription};
use crate::heard::{Heard, MAX_INSTANCES, Standing};
use crate::interface::Reach;
use crate::linked::{Change, Linked};
use crate::record::{self, Found, ServiceType};
use crate::watch as listening;

/// The most events that wait here to be looked at. mdns-sd ends a subscription of which 1,000 wait in its channel.
const MAX_INBOX: usize = 2 * MAX_INSTANCES;

/// How long events are taken in before others get to see to something.
const TAKE_FOR: Duration = Duration::from_millis(5);

/// A new snapshot costs time for every instance in it. After making one, this many times as long goes by before the next.
const PUBLISH_PAUSE: u32 = 10;

/// How long to wait before subscribing again after a subscription was lost: at first, and at most.
const RESUBSCRIBE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How often to look whether somebody wants the network to be asked, and whether there is one.
const LOOK: Duration = Duration::from_secs(1);

/// How often to look for answers by unicast while there are some to be expected.
const POLL: Duration = Duration::from_millis(5);

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
    /// Told when the store has changed, when it is closed and when an outage begins.
    changed: watch::Sender<()>,
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
            changed: watch::Sender::new(()),
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

    /// How far what is known can be trusted to be all.
    pub(crate) fn standing(&self) -> Standing {
        self.shared.heard().standing(Instant::now())
    }

    /// Told when the store has changed, and when there will be no more changes for a while.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// Whether nothing at all can be heard now.
    pub(crate) fn is_deaf(&self) -> bool {
        let heard = self.shared.heard();
        !heard.alone && self.shared.store.failure().is_some()
    }

    /// The full name under which an instance was last heard.
    pub(crate) fn fullname(&self, key: &InstanceKey) -> Option<String> {
        self.shared.heard().fullname(&self.shared.kind, key)
    }

    /// The instance heard under this full name.
    pub(crate) fn instance_named(&self, fullname: &str) -> Option<Arc<Instance>> {
        self.shared.heard().instance(fullname).cloned()
    }

    /// Asks the network again, about a second after `at`.
    pub(crate) fn ask_again(&self, at: Instant) {
        self.shared.heard().requery.at(at);
    }

    /// Ends the streams and, once it wakes or the daemon ends, the thread.
    pub(crate) fn close(&self) {
        *self.shared.stopped() = true;
        self.shared.store.close();
        self.shared.changed.send_modify(|()| {});
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
        let mut publish_at = Instant::now();
        let mut next = None;
        let mut pause = RESUBSCRIBE.0;
        let mut ask = None;
        let (mut linked, mut look_at) = (Linked::default(), Instant::now());
        let Some(mut events) = self.subscribe(first) else { return };
        loop {
            let now = Instant::now();
            if now >= look_at || self.heard().has_leaving() {
                // Before a loss is told: what goes with the last interface has not left.
                self.look_for_links(&mut linked, now);
                look_at = now + LOOK;
            }
            if linked.reach() != Reach::Nowhere {
                self.ask(&mut ask, now);
            }
            if now >= publish_at && self.heard().has_news() {
                let begun = Instant::now();
                self.publish();
                publish_at = Instant::now() + begun.elapsed() * PUBLISH_PAUSE;
            }
            if !inbox.is_empty() {
                self.take(&mut inbox, &events);
                continue;
            }
            let wake = self.look_after(now, &linked);
            let wake = if self.heard().has_news() { wake.min(publish_at) } else { wake };
            let wake = if ask.is_some() { wake.min(now + POLL) } else { wake };
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
                if self.heard().begin(generation, Instant::now()) {
                    // However soon it came: what went meanwhile may not have been heard.
                    self.begin_outage(unavailable("the mDNS thread has ended; another took its place"));
                }
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
        self.daemon.try_browse(&record::domain(&self.kind))
    }

    /// Tells that there is no network, or nothing but loopback, and begins anew when there is more again. Then removes what has
    /// left.
    fn look_for_links(&self, linked: &mut Linked, now: Instant) {
        match linked.look(self.daemon.reach(), now) {
            Some(Change::Lost(Reach::Nowhere)) => {
                self.heard().cut_off();
                self.begin_outage(unavailable("there is no network interface to hear anything on"));
            }
            Some(Change::Lost(_)) => {
                let mut heard = self.heard();
                heard.cut_off();
                // One that had just begun to hear links again tells the same anew.
                if heard.alone || self.store.failure().is_none() {
                    self.be_alone(&mut heard);
                }
            }
            Some(Change::Back) => {
                let mut heard = self.heard();
                heard.listen_anew(now);
                heard.requery.at(now);
            }
            None => {}
        }
        self.heard().let_leave();
    }

    /// Tells that loopback is all that is heard, except of what is heard there.
    fn be_alone(&self, heard: &mut Heard) {
        heard.alone = true;
        self.store.fail(unavailable(
            "loopback is the only interface up, so nothing can be said of other machines; \
             for this machine alone say mdns:?interface=lo",
        ));
        let sound = heard.sound_services().map(|service| heard.snapshot(&self.kind, service.clone()));
        self.store.publish_spared(sound, heard.names_are_sound());
        self.changed.send_modify(|()| {});
    }

    /// Asks by unicast when listening begins, and takes what is answered.
    fn ask(&self, ask: &mut Option<Ask>, now: Instant) {
        let mut heard = self.heard();
        if heard.wants_asking() {
            *ask = Some(self.daemon.ask(record::domain(&self.kind), now));
        }
        let Some(asking) = ask else { return };
        let (found, answered) = asking.take(now, &mut heard.unicast.awaited);
        for found in found {
            match record::decode(&self.kind, &found) {
                Ok(instance) => heard.add_unicast(&found.fullname, instance, now),
                Err(error) => {
                    tracing::debug!(name = found.fullname, %error, "heard something that is no instance");
                }
            }
        }
        if answered {
            // Avahi may name all by unicast and describe them only when it is asked by multicast again.
            asking.undescribed().for_each(|name| heard.announced_by_unicast(name.to_owned(), now));
        }
        heard.unicast.answered |= answered;
        if heard.misses_unicast() {
            asking.again(now);
        }
        let (asked, alone) = asking.asked();
        heard.unicast.asked = Some(asked);
        heard.unicast.asked_alone = alone;
        if asking.is_over(now) {
            // Who has not answered by now will not; then the second question by multicast says what there is.
            heard.unicast.give_up();
            *ask = None;
        }
    }

    /// Does what is due when everything has been taken in; when to do so next.
    fn look_after(&self, now: Instant, linked: &Linked) -> Instant {
        let mut heard = self.heard();
        heard.forget_unsaid(now);
        let lapse = heard.forget_unconfirmed(now);
        if heard.has_leaving() {
            return now;
        }
        let due = heard.requery.due().min(now + LOOK).min(lapse.unwrap_or(now + LOOK));
        let stays = match linked.reach() {
            Reach::Nowhere => true,
            Reach::Machine => heard.alone,
            Reach::Links => false,
        };
        if stays || self.store.failure().is_none() {
            return due;
        }
        // What is told after an outage is as whole as a first state.
        let left = listening::left(self.settle, &heard.standing(now), !heard.names.is_empty());
        if left.is_zero() && heard.is_complete() && !heard.has_news() {
            if linked.reach() == Reach::Machine {
                self.be_alone(&mut heard);
            } else if heard.drop_stale() {
                return now;
            } else {
                heard.alone = false;
                self.store.heal();
            }
            return due;
        }
        due.min(now + left.max(Duration::from_millis(10)))
    }

    /// Tells, once, that nothing can be heard.
    fn begin_outage(&self, error: Error) {
        let mut heard = self.heard();
        if std::mem::take(&mut heard.alone) || self.store.failure().is_none() {
            self.store.fail(error);
            self.changed.send_modify(|()| {});
        }
    }

    /// Takes what is in the inbox and what comes meanwhile, for a moment.
    fn take(&self, inbox: &mut VecDeque<ServiceEvent>, events: &Receiver<ServiceEvent>) {
        let mut heard = self.heard();
        let begun = Instant::now();
        while begun.elapsed() < TAKE_FOR {
            // Emptying the channel comes before everything else: the daemon waits for nobody.
            let room = MAX_INBOX.saturating_sub(inbox.len());
            inbox.extend(events.try_iter().take(room));
            let Some(event) = inbox.pop_front() else { return };
            self.take_one(event, &mut heard);
        }
    }

    fn take_one(&self, event: ServiceEvent, heard: &mut Heard) {
        match event {
            ServiceEvent::ServiceFound(_, fullname) => heard.announced(fullname),
            ServiceEvent::ServiceResolved(resolved) => {
                let found = Found::from(*resolved);
                match record::decode(&self.kind, &found) {
                    Ok(instance) => heard.add(&found.fullname, instance),
                    Err(error) => {
                        tracing::debug!(name = found.fullname, %error, "heard something that is no instance");
                        heard.remove(&found.fullname);
                    }
                }
            }
            ServiceEvent::ServiceRemoved(_, fullname) => {
                heard.leave(fullname);
                heard.requery.lost(Instant::now());
            }
            ServiceEvent::SearchStarted(_) => heard.started(Instant::now()),
            _ => {}
        }
    }

    /// Makes the changes to services known.
    fn publish(&self) {
        let mut heard = self.heard();
        let touched = heard.take_news();
        let (sound, stale): (Vec<_>, Vec<_>) =
            touched.into_iter().partition(|service| heard.is_sound(service));
        let snapshots =
            |services: Vec<_>| services.into_iter().map(|service| heard.snapshot(&self.kind, service));
        self.store.publish(snapshots(stale));
        if heard.alone {
            self.store.publish_spared(snapshots(sound), heard.names_are_sound());
        } else {
            self.store.publish(snapshots(sound));
        }
        self.changed.send_modify(|()| {});
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, "watch", message)
}
