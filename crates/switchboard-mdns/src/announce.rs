//! What this registry announces: laid out, announced, kept up when interfaces change, withdrawn when a TTL lapses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use mdns_sd::{DaemonEvent, DnsNameChange, Receiver, ServiceInfo};
use switchboard_core::{Error, ErrorKind, Instance, InstanceKey, Result};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::BACKEND;
use crate::browse::Browse;
use crate::daemon::Daemon;
use crate::interface::Selection;
use crate::record::{Announcement, ServiceType};
use crate::restarts::Restarts;
use crate::txt::ONE_FRAME;

/// How long an announcement may take. Probing takes 0.9 s, 2 s with a conflict.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(5);

/// After being heard here, the moment that other listeners get to be as far.
const HEARD_BY_OTHERS: Duration = Duration::from_millis(50);

/// How long to wait to hear ourselves once an announcement is out; some links do not loop multicast back.
const HEAR_OURSELVES: Duration = Duration::from_millis(500);

/// How soon a goodbye that failed is tried again.
const WITHDRAW_AGAIN: Duration = Duration::from_secs(1);

/// Everything this registry announces.
pub(crate) struct Announcer {
    daemon: Daemon,
    selection: Selection,
    registered: Mutex<BTreeMap<InstanceKey, Registered>>,
    /// Held while commands about registrations are given, so that the daemon gets them in the order of the map.
    order: tokio::sync::Mutex<()>,
    /// Told whenever a registration was announced.
    announced: watch::Sender<()>,
    /// Told whenever a TTL was set.
    leased: Notify,
}

struct Registered {
    instance: Instance,
    announcement: Announcement,
    host: String,
    /// The full name given to the daemon, escaped: the one `unregister` wants.
    fullname: String,
    /// The full name it goes by after a conflict.
    renamed: Option<String>,
    announced: bool,
    /// Whether the first announcement has been waited for, so that a renewal need not.
    confirmed: bool,
    /// Whether it was asked to go. Until the daemon has confirmed that, it must not be announced again.
    leaving: bool,
    lapses: Option<Instant>,
}

impl Registered {
    /// The label it goes by after a conflict.
    fn renamed_label(&self) -> Option<String> {
        let suffix = self.announcement.kind.domain().len() + 1;
        let name = self.renamed.as_ref()?;
        Some(name.get(..name.len().checked_sub(suffix)?)?.to_owned())
    }
}

impl Announcer {
    pub(crate) fn new(daemon: Daemon, selection: Selection) -> Arc<Self> {
        Arc::new(Self {
            daemon,
            selection,
            registered: Mutex::default(),
            order: tokio::sync::Mutex::default(),
            announced: watch::Sender::new(()),
            leased: Notify::new(),
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
        let known = self.registered().contains_key(&instance.key());
        let done = self.announce_whole(instance, ttl, own).await;
        if done.is_err() && !known {
            // What was refused must not come up later. If this fails, `run` goes on with it.
            let _ = self.withdraw(&instance.key()).await;
        }
        done
    }

    async fn announce_whole(&self, instance: &Instance, ttl: Option<Duration>, own: &Browse) -> Result<()> {
        let key = instance.key();
        let mut announced = self.announced.subscribe();
        let kind = {
            let _order = self.order.lock().await;
            let info = self.enter(instance, lapse(ttl))?;
            self.daemon.register(info).await?;
            self.leased.notify_one();
            ServiceType::of(instance.service())
        };
        let out = async { while !self.is_announced(&key) && announced.changed().await.is_ok() {} };
        let done = async {
            if kind != Ok(ServiceType::Own) {
                out.await;
                return Ok(());
            }
            let out_but_not_looped_back = async {
                out.await;
                sleep(HEAR_OURSELVES).await;
            };
            tokio::select! {
                heard = heard(own, instance) => heard,
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
        let _order = self.order.lock().await;
        let fullname = match self.registered().get_mut(key) {
            Some(entry) if due(entry) => {
                // From here on it may be half gone, which no renewal mends.
                entry.confirmed = false;
                entry.leaving = true;
                entry.lapses = Some(Instant::now() + WITHDRAW_AGAIN);
                entry.fullname.clone()
            }
            _ => return Ok(()),
        };
        self.leased.notify_one();
        self.daemon.unregister(&fullname).await?;
        self.registered().remove(key);
        Ok(())
    }

    /// Withdraws everything; how many could not be.
    pub(crate) async fn withdraw_all(&self) -> usize {
        let keys: Vec<InstanceKey> = self.registered().keys().cloned().collect();
        join_all(keys.iter().map(|key| self.withdraw(key))).await.iter().filter(|done| done.is_err()).count()
    }

    /// The instance label an instance goes by, which differs from its id when another host had that label first.
    pub(crate) fn label(&self, key: &InstanceKey) -> Option<String> {
        let registered = self.registered();
        let registered = registered.get(key)?;
        Some(registered.renamed_label().unwrap_or_else(|| registered.announcement.label.clone()))
    }

    /// Follows the daemon's events and the leases until the daemon is shut down.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut events: Receiver<DaemonEvent>,
        own: std::sync::Weak<Browse>,
    ) {
        let mut restarts = Restarts::default();
        loop {
            let next = self.registered().values().filter_map(|registered| registered.lapses).min();
            let lapse = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.recv_async() => match event {
                    Ok(DaemonEvent::Announce(fullname, _)) => self.note_announced(&fullname),
                    Ok(DaemonEvent::NameChange(change)) => self.note_renamed(&change),
                    Ok(DaemonEvent::IpAdd(ip) | DaemonEvent::IpDel(ip)) => {
                        tracing::debug!(%ip, "an address came or went");
                        self.announce_anew(|entry| !entry.leaving).await;
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
                () = lapse => self.withdraw_lapsed().await,
                () = self.leased.notified() => {}
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
                        restarted = true;
                    }
                    Err(error) => tracing::warn!(%error, "the mDNS thread ended by itself; no other started"),
                }
            }
            match self.daemon.monitor().await {
                Ok(events) if restarted => {
                    self.forget_renaming();
                    // What leaves and has been heard of needs a goodbye, and only what is announced gets one.
                    self.announce_anew(|entry| entry.announced || !entry.leaving).await;
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

    /// A new daemon knows of no conflicts, so it is given the names that resulted from them.
    fn forget_renaming(&self) {
        for entry in self.registered().values_mut() {
            if let Some(label) = entry.renamed_label() {
                entry.announcement.label = label;
                entry.renamed = None;
            }
        }
    }

    /// Puts the instance into the map and gives what to register.
    fn enter(&self, instance: &Instance, lapses: Option<Instant>) -> Result<ServiceInfo> {
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
        } else {
            find_free_label(&mut announcement, &registered);
        }
        if announcement.txt_len() > ONE_FRAME {
            let bytes = announcement.txt_len();
            tracing::warn!(instance = %key, bytes, limit = ONE_FRAME, "a TXT record this long travels in fragments");
        }
        // Each instance has a host name of its own, for its goodbye takes back the addresses of its host; and a new one
        // with new addresses, so that nobody sees old and new ones together. Random, it needs no probing.
        let same_ips = before.filter(|before| before.announcement.ips == announcement.ips);
        let random = || format!("sb-{}.local.", uuid::Uuid::new_v4().simple());
        let host = same_ips.map_or_else(random, |before| before.host.clone());
        let info = announcement.service_info(&host, probe).map_err(|error| {
            Error::new(ErrorKind::Invalid, BACKEND, "register", "mDNS cannot carry this").with_source(error)
        })?;
        let entry = Registered {
            instance: instance.clone(),
            announcement,
            host,
            fullname: info.get_fullname().to_owned(),
            renamed: before.and_then(|before| before.renamed.clone()),
            announced: false,
            confirmed: false,
            leaving: false,
            lapses,
        };
        registered.insert(key, entry);
        Ok(info)
    }

    /// Moves the deadline of an instance that is announced as it is; whether it is.
    fn renew(&self, instance: &Instance, ttl: Option<Duration>) -> bool {
        let mut registered = self.registered();
        let same = registered
            .get_mut(&instance.key())
            .filter(|entry| entry.confirmed && entry.instance == *instance);
        let renewed = same.map(|entry| entry.lapses = lapse(ttl));
        if renewed.is_some() {
            self.leased.notify_one();
        }
        renewed.is_some()
    }

    async fn withdraw_lapsed(&self) {
        let now = Instant::now();
        let lapsed = move |entry: &Registered| entry.lapses.is_some_and(|at| at <= now);
        let keys: Vec<InstanceKey> =
            self.registered().iter().filter(|(_, entry)| lapsed(entry)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            tracing::info!(instance = %key, "its TTL lapsed without a renewal, or its goodbye failed before");
            if let Err(error) = self.withdraw_if(&key, lapsed).await {
                tracing::warn!(instance = %key, %error, "could not withdraw it");
            }
        }
    }

    /// Announces these again, for the interfaces there are now.
    async fn announce_anew(&self, which: impl Fn(&Registered) -> bool) {
        let _order = self.order.lock().await;
        let keys: Vec<InstanceKey> =
            self.registered().iter().filter(|(_, entry)| which(entry)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Err(error) = self.announce_one_anew(&key).await {
                tracing::warn!(instance = %key, %error, "could not be announced again");
            }
        }
    }

    async fn announce_one_anew(&self, key: &InstanceKey) -> Result<()> {
        let before = self
            .registered()
            .get(key)
            .map(|entry| (entry.instance.clone(), entry.lapses, entry.confirmed, entry.leaving));
        let Some((instance, lapses, confirmed, leaving)) = before else { return Ok(()) };
        let info = self.enter(&instance, lapses)?;
        if let Some(entry) = self.registered().get_mut(key) {
            (entry.confirmed, entry.leaving) = (confirmed, leaving);
        }
        self.daemon.register(info).await
    }

    fn note_announced(&self, fullname: &str) {
        for entry in self.registered().values_mut() {
            let renamed =
                entry.renamed.as_deref().is_some_and(|renamed| renamed.eq_ignore_ascii_case(fullname));
            entry.announced |= renamed || entry.fullname.eq_ignore_ascii_case(fullname);
        }
        self.announced.send_replace(());
    }

    fn note_renamed(&self, change: &DnsNameChange) {
        for entry in self.registered().values_mut() {
            let known = [Some(&entry.fullname), entry.renamed.as_ref()];
            let ours = known.into_iter().flatten().any(|name| name.eq_ignore_ascii_case(&change.original));
            if ours && entry.renamed.as_ref() != Some(&change.new_name) {
                tracing::warn!(instance = %entry.instance.key(), name = change.new_name, "another host has this label; renamed");
                entry.renamed = Some(change.new_name.clone());
            }
        }
    }

    fn is_announced(&self, key: &InstanceKey) -> bool {
        self.registered().get(key).is_none_or(|entry| entry.announced)
    }

    fn registered(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, Registered>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns when `instance` is heard as it is, and others have had a moment to hear it too.
async fn heard(own: &Browse, instance: &Instance) -> Result<()> {
    use futures::StreamExt;

    let mut snapshots = own.store().watch(instance.service());
    while let Some(snapshot) = snapshots.next().await {
        let snapshot = match snapshot {
            // There may be an interface in time.
            Err(error) if error.kind() == ErrorKind::Unavailable => continue,
            told => told?,
        };
        if snapshot.get(instance.id()).is_some_and(|heard| says_the_same(heard, instance)) {
            sleep(HEARD_BY_OTHERS).await;
            return Ok(());
        }
    }
    Err(Error::closed(BACKEND, "register"))
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

/// Puts a number behind the label if this host already has another instance under it.
fn find_free_label(announcement: &mut Announcement, registered: &BTreeMap<InstanceKey, Registered>) {
    let wanted = announcement.clone();
    for number in 2.. {
        let mut others = registered.values().map(|other| &other.announcement);
        if !others.any(|other| other.kind == announcement.kind && other.label == announcement.label) {
            return;
        }
        announcement.clone_from(&wanted);
        announcement.relabel(number);
    }
}
