//! What this registry announces: laid out, announced, kept up when interfaces change, withdrawn when a TTL lapses.

use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use mdns_sd::{DaemonEvent, DnsNameChange, Receiver, ServiceInfo};
use switchboard_core::{Address, Error, ErrorKind, Host, Instance, InstanceKey, Result};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::BACKEND;
use crate::browse::Browse;
use crate::daemon::Daemon;
use crate::interface::Selection;
use crate::metrics::Metrics;
use crate::record::{Announcement, ServiceType};
use crate::registrations::{Registered, Registrations};
use crate::restarts::Restarts;
use switchboard_dnssd::txt::ONE_FRAME;

/// How long an announcement may take. Probing takes 0.9 s, 2 s with a conflict.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(5);

/// After being heard here, the moment that other listeners get to be as far.
const HEARD_BY_OTHERS: Duration = Duration::from_millis(50);

/// How long to wait to hear ourselves once an announcement is out; some links do not loop multicast back.
const HEAR_OURSELVES: Duration = Duration::from_millis(500);

/// How many announcements go out at once. More would not fit the receive buffers of others, nor the daemon's channel of
/// events, which holds 100.
const BATCH: u64 = 32;

/// How long nobody gets through to the daemon until all that wait are told so.
const STALLED: Duration = Duration::from_secs(20);

/// How long after an address came or went all is announced anew. On a new interface mdns-sd probes for what it has been told
/// before, for a second at most (RFC 6762 §8.1). It takes an announcement of ours that says something else meanwhile for
/// somebody else's, gives way to it, and then to that of the name it has given itself, without end.
const PROBED: Duration = Duration::from_millis(1500);

/// How soon a goodbye that failed is tried again.
const WITHDRAW_AGAIN: Duration = Duration::from_secs(1);

/// Everything this registry announces.
pub(crate) struct Announcer {
    daemon: Daemon,
    selection: Selection,
    registered: Mutex<Registrations>,
    /// Held while commands about registrations are given, so that the daemon gets them in the order of the map. Their
    /// answers are awaited without it: the daemon runs many commands for the price of one.
    order: tokio::sync::Mutex<Turn>,
    /// Held while finding out how many commands the daemon has run: one question is for all that wait.
    run: tokio::sync::Mutex<(Turn, u64)>,
    /// How many announcements the daemon was told to make.
    given: AtomicU64,
    /// How many withdrawals there were.
    withdrawals: AtomicU64,
    /// Told when a TTL was set that lapses before the one that `run` waits for.
    leased: Notify,
    awaited: Mutex<Option<Instant>>,
    metrics: Metrics,
}

/// Whose turn it is to wait for the daemon. When nobody has got an answer for long, those that waited for their turn
/// meanwhile are given up too: had each of them to wait as long, one after another, none would be told for hours.
#[derive(Default)]
struct Turn {
    /// When waiting was first and last in vain since it last was not, and why.
    stalled: Option<(Instant, Instant, Error)>,
}

impl Turn {
    /// Waits for `done`, for a caller who has waited since `begun`.
    async fn wait<T>(&mut self, begun: Instant, done: impl Future<Output = Result<T>>) -> Result<T> {
        if let Some((first, last, error)) = &self.stalled {
            if *last >= begun && *last - *first >= STALLED {
                return Err(error.clone());
            }
        }
        let done = done.await;
        self.stalled = match (&done, self.stalled.take()) {
            (Ok(_), _) => None,
            (Err(error), before) => {
                let now = Instant::now();
                Some((before.map_or(now, |(first, ..)| first), now, error.clone()))
            }
        };
        done
    }
}

impl Announcer {
    pub(crate) fn new(daemon: Daemon, selection: Selection) -> Arc<Self> {
        Arc::new(Self {
            daemon,
            selection,
            registered: Mutex::default(),
            order: tokio::sync::Mutex::default(),
            run: tokio::sync::Mutex::default(),
            given: AtomicU64::default(),
            withdrawals: AtomicU64::default(),
            leased: Notify::new(),
            awaited: Mutex::default(),
            metrics: Metrics::new(),
        })
    }

    /// Announces `instance`, or only renews its lease if it is announced as it is.
    pub(crate) async fn announce(
        &self,
        instance: &Instance,
        ttl: Option<Duration>,
        own: &Browse,
    ) -> Result<()> {
        if self.renew(instance, ttl) {
            return Ok(());
        }
        let before = self.registered().get(&instance.key()).map(|before| before.instance.clone());
        let done = self.announce_whole(instance, ttl, own).await;
        let moved = before.as_ref().is_none_or(|before| before.addresses() != instance.addresses());
        if done.is_ok() && moved {
            self.warn_of_loopback(instance);
        }
        if done.is_err() && before.is_none() {
            // What was refused must not come up later. If this fails, `run` goes on with it.
            let _ = self.withdraw(&instance.key()).await;
        }
        done
    }

    /// Where there are links to other machines, an address that those cannot use is rarely meant.
    fn warn_of_loopback(&self, instance: &Instance) {
        let loopback = |address: &Address| match address.host() {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => name.eq_ignore_ascii_case("localhost"),
        };
        if instance.addresses().iter().all(loopback) && self.selection.links().others {
            tracing::warn!(
                instance = %instance.key(),
                address = %instance.address(),
                "registered at a loopback address, where no other machine can reach it; \
                 register one of this machine's others, or say mdns:?interface=lo"
            );
        }
    }

    /// The address at which others on the links in use reach this machine.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        self.selection.links().local_ip()
    }

    async fn announce_whole(&self, instance: &Instance, ttl: Option<Duration>, own: &Browse) -> Result<()> {
        let key = instance.key();
        let (kind, announced, number) = self.give(instance, lapse(ttl)).await?;
        self.has_run(number).await?;
        let done = async {
            if kind != ServiceType::Own {
                out(announced).await;
                return Ok(());
            }
            let out_but_not_looped_back = async {
                out(announced.clone()).await;
                sleep(HEAR_OURSELVES).await;
            };
            tokio::select! {
                heard = self.heard(own, instance, announced.clone()) => heard,
                () = out_but_not_looped_back => Ok(()),
            }
        };
        let Ok(done) = timeout(ANNOUNCE_WITHIN, done).await else {
            let seconds = ANNOUNCE_WITHIN.as_secs();
            let message = format!("{key} could be announced on no interface within {seconds} s");
            return Err(Error::new(ErrorKind::Unavailable, BACKEND, "register", message));
        };
        done?;
        if let Some(registered) = self.registered().get_mut(&key) {
            registered.confirmed = registered.instance == *instance;
        }
        Ok(())
    }

    /// Withdraws an instance, if it is announced. It is forgotten when the daemon has said goodbye; where that fails, this
    /// can be called again, and [`run`](Self::run) does so too.
    pub(crate) async fn withdraw(&self, key: &InstanceKey) -> Result<()> {
        self.withdraw_if(key, |_| true).await
    }

    async fn withdraw_if(&self, key: &InstanceKey, due: impl Fn(&Registered) -> bool) -> Result<()> {
        let begun = Instant::now();
        let (number, done) = {
            let mut order = self.order.lock().await;
            let lapses = Instant::now() + WITHDRAW_AGAIN;
            let number = self.withdrawals.fetch_add(1, Ordering::Relaxed);
            let fullname = match self.registered().get_mut(key) {
                Some(entry) if due(entry) => {
                    // From here on it may be half gone, which no renewal mends.
                    entry.confirmed = false;
                    entry.leaving = Some(number);
                    entry.lapses = Some(lapses);
                    entry.fullname.clone()
                }
                _ => return Ok(()),
            };
            self.lease(Some(lapses));
            (number, order.wait(begun, self.daemon.begin_unregister(&fullname)).await?)
        };
        self.daemon.unregistered(&done).await?;
        let mut registered = self.registered();
        // Registered again meanwhile, it stays.
        if registered.get(key).is_some_and(|entry| entry.leaving == Some(number)) {
            registered.remove(key);
        }
        Ok(())
    }

    /// Withdraws everything, within `limit` in all; how many could not be.
    pub(crate) async fn withdraw_all(&self, limit: Duration) -> usize {
        let keys = self.registered().keys(|_| true);
        let _ = timeout(limit, join_all(keys.iter().map(|key| self.withdraw(key)))).await;
        let registered = self.registered();
        keys.iter().filter(|key| registered.get(key).is_some()).count()
    }

    /// The instance label an instance goes by, which differs from its id when another host had that label first.
    pub(crate) fn label(&self, key: &InstanceKey) -> Option<String> {
        self.registered().get(key).map(Registered::label)
    }

    /// Follows the daemon's events and the leases until the daemon is shut down.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut events: Receiver<DaemonEvent>,
        own: std::sync::Weak<Browse>,
    ) {
        let mut restarts = Restarts::default();
        let (mut next, mut anew) = (None, None);
        loop {
            tokio::select! {
                event = events.recv_async() => match event {
                    Ok(DaemonEvent::Announce(fullname, _)) => self.note_announced(&fullname),
                    Ok(DaemonEvent::NameChange(change)) => self.note_renamed(&change),
                    Ok(DaemonEvent::IpAdd(ip) | DaemonEvent::IpDel(ip)) => {
                        tracing::debug!(%ip, "an address came or went");
                        anew = Some(Instant::now() + PROBED);
                        if let Some(own) = own.upgrade() {
                            own.ask_again(std::time::Instant::now());
                        }
                    }
                    Ok(DaemonEvent::Error(error)) => tracing::warn!(%error, "mDNS reports an error"),
                    Ok(_) => {}
                    Err(_) => match self.follow_again(&mut restarts).await {
                        Some(receiver) => events = receiver,
                        None => return,
                    },
                },
                () = at(anew) => {
                    anew = None;
                    self.announce_anew(|entry| entry.leaving.is_none()).await;
                }
                () = at(next) => {
                    self.withdraw_lapsed().await;
                    next = self.await_next_lapse();
                }
                () = self.leased.notified() => next = self.await_next_lapse(),
            }
        }
    }

    /// Either the daemon ended by itself, or a burst of events filled the channel and it hung up on us.
    async fn follow_again(&self, restarts: &mut Restarts) -> Option<Receiver<DaemonEvent>> {
        let mut restarted = false;
        loop {
            if self.daemon.has_ended() {
                sleep(restarts.pause()).await;
                match self.daemon.restart().await {
                    Ok(()) => {
                        tracing::warn!("the mDNS thread ended by itself; another took its place");
                        self.metrics.restarts.count();
                        restarted = true;
                    }
                    Err(error) => tracing::warn!(%error, "the mDNS thread ended by itself; no other started"),
                }
            }
            match self.daemon.monitor().await {
                Ok(events) if restarted => {
                    self.registered().forget_renaming();
                    // What leaves and has been heard of needs a goodbye, and only what is announced gets one.
                    self.announce_anew(|entry| *entry.announced.borrow() || entry.leaving.is_none()).await;
                    return Some(events);
                }
                Ok(events) => return Some(events),
                Err(error) if error.kind() == ErrorKind::Closed => return None,
                Err(error) => {
                    tracing::warn!(%error, "cannot follow the mDNS thread");
                    sleep(restarts.pause()).await;
                }
            }
        }
    }

    /// Enters the instance and tells the daemon to announce it; how it is announced, and whether it has been.
    async fn give(
        &self,
        instance: &Instance,
        lapses: Option<Instant>,
    ) -> Result<(ServiceType, watch::Receiver<bool>, u64)> {
        let begun = Instant::now();
        let mut order = self.order.lock().await;
        let (info, kind, announced) = self.enter(instance, lapses)?;
        self.lease(lapses);
        let number = self.register(&mut order, begun, info).await?;
        Ok((kind, announced, number))
    }

    /// Has the daemon announce this, not too many at once; the number of the command.
    async fn register(&self, order: &mut Turn, begun: Instant, info: ServiceInfo) -> Result<u64> {
        order.wait(begun, self.daemon.begin_register(info)).await?;
        let number = self.given.fetch_add(1, Ordering::Relaxed) + 1;
        if number % BATCH == 0 {
            order.wait(begun, self.daemon.catch_up("register")).await?;
        }
        Ok(number)
    }

    /// Returns when the daemon has run the command of this number.
    async fn has_run(&self, number: u64) -> Result<()> {
        let begun = Instant::now();
        let mut run = self.run.lock().await;
        let (turn, known) = &mut *run;
        if *known < number {
            let given = self.given.load(Ordering::Relaxed);
            turn.wait(begun, self.daemon.catch_up("register")).await?;
            *known = given;
        }
        Ok(())
    }

    /// Puts the instance into the map and gives what to register.
    fn enter(
        &self,
        instance: &Instance,
        lapses: Option<Instant>,
    ) -> Result<(ServiceInfo, ServiceType, watch::Receiver<bool>)> {
        let links = self.selection.links();
        let layout = Announcement::new(instance, |ip| links.contain(ip));
        let mut announcement = layout.map_err(|invalid| Error::invalid(BACKEND, "register", &invalid))?;
        let key = instance.key();
        let mut registered = self.registered();
        let before = registered.get(&key);
        // A name once probed for is ours; probing again would only delay the change.
        let probe = before.is_none() && !announcement.is_unique();
        if let Some(before) = before {
            announcement.label.clone_from(&before.announcement.label);
        }
        if announcement.txt_len() > ONE_FRAME {
            let bytes = announcement.txt_len();
            tracing::warn!(instance = %key, bytes, limit = ONE_FRAME, "a TXT record this long travels in fragments");
        }
        // Each instance has a host name of its own, for its goodbye takes back the addresses of its host; and a new one
        // with new addresses, so that nobody sees old and new ones together. Random, it needs no probing.
        let same_ips = before.filter(|before| before.announcement.ips == announcement.ips);
        let random = || format!("sb-{:032x}.local.", switchboard_core::random::bits());
        let host = same_ips.map_or_else(random, |before| before.host.clone());
        let info = service_info(&mut announcement, &host, probe, |name| registered.is_taken(name, &key))
            .map_err(|error| {
                Error::new(ErrorKind::Invalid, BACKEND, "register", "mDNS cannot carry this")
                    .with_source(error)
            })?;
        let announced = before.map(|before| before.announced.clone()).unwrap_or_default();
        announced.send_replace(false);
        let kind = announcement.kind.clone();
        let receiver = announced.subscribe();
        let entry = Registered {
            instance: instance.clone(),
            announcement,
            host,
            fullname: info.get_fullname().to_owned(),
            renamed: before.and_then(|before| before.renamed.clone()),
            announced,
            confirmed: false,
            leaving: None,
            lapses,
        };
        registered.insert(key, entry);
        Ok((info, kind, receiver))
    }

    /// Moves the deadline of an instance that is announced as it is; whether it is.
    fn renew(&self, instance: &Instance, ttl: Option<Duration>) -> bool {
        let mut registered = self.registered();
        let same = registered
            .get_mut(&instance.key())
            .filter(|entry| entry.confirmed && entry.instance == *instance);
        let lapses = lapse(ttl);
        let renewed = same.map(|entry| entry.lapses = lapses);
        self.lease(lapses);
        renewed.is_some()
    }

    /// Has `run` wake at this time, if it would wake later.
    fn lease(&self, lapses: Option<Instant>) {
        let awaited = *self.awaited();
        if lapses.is_some_and(|at| awaited.is_none_or(|awaited| at < awaited)) {
            self.leased.notify_one();
        }
    }

    fn await_next_lapse(&self) -> Option<Instant> {
        // Noted under the lock of the map: what is entered after that compares itself to it.
        let registered = self.registered();
        let next = registered.next_lapse();
        *self.awaited() = next;
        next
    }

    fn awaited(&self) -> MutexGuard<'_, Option<Instant>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn withdraw_lapsed(&self) {
        let now = Instant::now();
        let lapsed = move |entry: &Registered| entry.lapses.is_some_and(|at| at <= now);
        let keys = self.registered().keys(lapsed);
        for key in keys {
            tracing::info!(instance = %key, "its TTL lapsed without a renewal, or its goodbye failed before");
            if let Err(error) = self.withdraw_if(&key, lapsed).await {
                tracing::warn!(instance = %key, %error, "could not withdraw it");
            }
        }
    }

    /// Announces these again, for the interfaces there are now.
    async fn announce_anew(&self, which: impl Fn(&Registered) -> bool) {
        let begun = Instant::now();
        let mut order = self.order.lock().await;
        let keys = self.registered().keys(which);
        for key in keys {
            if let Err(error) = self.announce_one_anew(&key, begun, &mut order).await {
                tracing::warn!(instance = %key, %error, "could not be announced again");
            }
        }
    }

    async fn announce_one_anew(&self, key: &InstanceKey, begun: Instant, order: &mut Turn) -> Result<()> {
        let before = self
            .registered()
            .get(key)
            .map(|entry| (entry.instance.clone(), entry.lapses, entry.confirmed, entry.leaving));
        let Some((instance, lapses, confirmed, leaving)) = before else { return Ok(()) };
        let (info, ..) = self.enter(&instance, lapses)?;
        if let Some(entry) = self.registered().get_mut(key) {
            (entry.confirmed, entry.leaving) = (confirmed, leaving);
        }
        self.register(order, begun, info).await.map(drop)
    }

    fn note_announced(&self, fullname: &str) {
        if let Some(entry) = self.registered().named(fullname) {
            entry.announced.send_replace(true);
        }
    }

    fn note_renamed(&self, change: &DnsNameChange) {
        if let Some(key) = self.registered().rename(&change.original, &change.new_name) {
            tracing::warn!(instance = %key, name = change.new_name, "another host has this label; renamed");
            self.metrics.renames.count();
        }
    }

    /// Returns when `instance` is heard as it is, and others have had a moment to hear it too.
    async fn heard(
        &self,
        own: &Browse,
        instance: &Instance,
        mut announced: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut changed = own.changed();
        loop {
            changed.borrow_and_update();
            // By the name it goes by: another program may have the same id.
            let name = self.registered().get(&instance.key()).map(Registered::heard_as);
            let heard = name.and_then(|name| own.instance_named(&name));
            let heard = heard.filter(|heard| heard.service() == instance.service());
            if heard.is_some_and(|heard| says_the_same(&heard, instance)) {
                sleep(HEARD_BY_OTHERS).await;
                return Ok(());
            }
            if own.store().is_closed() {
                return Err(Error::closed(BACKEND, "register"));
            }
            // A daemon or an interface may come in time.
            if let Some(error) = own.store().failure().filter(|error| !error.is_transient()) {
                return Err(error);
            }
            tokio::select! {
                // It may have been renamed before that.
                Ok(()) = announced.changed() => {}
                told = changed.changed() => if told.is_err() {
                    return Err(Error::closed(BACKEND, "register"));
                },
            }
        }
    }

    fn registered(&self) -> MutexGuard<'_, Registrations> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns then, and never if there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Returns when it has been announced, or is registered no more.
async fn out(mut announced: watch::Receiver<bool>) {
    let _ = announced.wait_for(|announced| *announced).await;
}

/// Whether `heard` is all of `instance` that a TXT record can carry.
fn says_the_same(heard: &Instance, instance: &Instance) -> bool {
    fn names(instance: &Instance) -> impl Iterator<Item = &str> {
        instance.endpoints().iter().map(|endpoint| endpoint.name.as_str())
    }
    let has = |address| heard.addresses().contains(address);
    heard.version() == instance.version()
        && heard.tags() == instance.tags()
        && heard.metadata() == instance.metadata()
        && heard.weight() == instance.weight()
        && heard.warning_weight() == instance.warning_weight()
        && heard.addresses().len() == instance.addresses().len()
        && instance.addresses().iter().all(has)
        && names(heard).eq(names(instance))
}

fn lapse(ttl: Option<Duration>) -> Option<Instant> {
    ttl.and_then(|ttl| Instant::now().checked_add(ttl))
}

/// What to register, with a number behind the label if this host already has another instance under it.
fn service_info(
    announcement: &mut Announcement,
    host: &str,
    probe: bool,
    is_taken: impl Fn(&str) -> bool,
) -> mdns_sd::Result<ServiceInfo> {
    let wanted = announcement.clone();
    let mut info = announcement.service_info(host, probe)?;
    let mut number = 2;
    while is_taken(info.get_fullname()) {
        announcement.clone_from(&wanted);
        announcement.relabel(number);
        info = announcement.service_info(host, probe)?;
        number += 1;
    }
    Ok(info)
}
