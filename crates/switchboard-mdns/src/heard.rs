//! What one browse has heard, by multicast and by unicast, and how far that can be trusted to be all.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchboard_core::{Address, Instance, InstanceBuilder, InstanceKey, ServiceName, Snapshot};

use crate::record::{self, ServiceType};
use crate::requery::Requery;

/// The most instances of one type that are kept; more than any link can carry, and a limit for a hostile one.
pub(crate) const MAX_INSTANCES: usize = 100_000;

/// A daemon sends its first question within 120 ms (RFC 6762 §5.2). Nobody waits longer than this for it.
const ASKS_WITHIN: Duration = Duration::from_secs(1);

/// A daemon sends its second question that long after the first (RFC 6762 §5.2), and later on a busy machine.
const ASKS_AGAIN: Duration = Duration::from_secs(1);

/// How long after a daemon without memory has begun what was heard before is kept without being heard again: on a busy machine
/// what this host announces itself takes a while to be heard, too.
const RELEARN: Duration = Duration::from_secs(10);

/// How long after the first question to have the daemon tell all it knows. By then what said goodbye at the first and came
/// back has been announced again.
const SECOND_LOOK: Duration = Duration::from_secs(5);

/// How long what only a unicast answer has said is kept: as long as plain DNS may keep it (RFC 6762 §6.7). mdns-sd has asked
/// four times by then.
const UNICAST_TTL: Duration = Duration::from_secs(10);

/// What has been heard and not been taken back, by full name.
pub(crate) struct Heard {
    services: BTreeMap<ServiceName, BTreeMap<String, Arc<Instance>>>,
    pub(crate) names: BTreeMap<String, ServiceName>,
    /// The services of which something has changed that nobody has been told yet, and when anything last changed.
    touched: HashSet<ServiceName>,
    changed: Instant,
    /// The names that are announced and not described yet, and how long they count, if not until mdns-sd says otherwise.
    unresolved: HashMap<String, Option<Instant>>,
    pub(crate) unicast: Unicast,
    /// The names that the current subscription has not said yet, and how long they may stay.
    unsaid: Option<(HashSet<String>, Instant)>,
    /// How often the subscription has said that a search started.
    starts: usize,
    /// The generation of the daemon, when it began to listen or, if it has asked the network since, asked first, and when it
    /// asked the second time.
    generation: Option<u64>,
    begun: Instant,
    asked: bool,
    asked_again: Option<Instant>,
    /// The names that are to go once it is certain that not only the link to them has gone.
    leaving: HashSet<String>,
    /// The names whose links have gone: they may still be there, and stay until the links are back.
    stale: HashSet<String>,
    /// Whether loopback is all that is heard, and more is wanted.
    pub(crate) alone: bool,
    /// Whether to ask by unicast: something has just begun to listen.
    wants_asking: bool,
    pub(crate) requery: Requery,
}

/// What unicast answers have said, as far as it is needed to judge what is known.
#[derive(Default)]
pub(crate) struct Unicast {
    /// Whether there was an answer.
    pub(crate) answered: bool,
    /// When the last question was asked.
    pub(crate) asked: Option<Instant>,
    /// Whether a host was asked by itself. What it then multicasts may be known no other way.
    pub(crate) asked_alone: bool,
    /// The hosts asked by themselves that have not answered, and whether they have multicast something new since: perhaps a part,
    /// and to somebody else.
    pub(crate) awaited: HashMap<IpAddr, bool>,
    /// The names they have said.
    told: HashSet<String>,
    /// Those of them that mdns-sd has not said, and how long they are kept.
    unconfirmed: HashMap<String, Instant>,
    /// The names that mdns-sd has said and they have not.
    missed: HashSet<String>,
}

impl Unicast {
    /// Expects no more answers. Where some have not come, those that have say nothing of what there is.
    pub(crate) fn give_up(&mut self) {
        self.answered &= self.awaited.is_empty();
        self.awaited.clear();
    }
}

/// How far what is known can be trusted to be all.
#[derive(Debug)]
pub(crate) struct Standing {
    /// How long answers have had time to arrive: since the first question by multicast.
    pub(crate) age: Duration,
    /// The same, but no more than a second before the second question: those who may not have answered the first, since they
    /// had just multicast the same, answer that.
    pub(crate) silence: Duration,
    /// How long ago somebody was last asked by unicast.
    pub(crate) asked: Duration,
    /// Whether everybody has answered by unicast, as far as one can tell, and all is described that is announced.
    pub(crate) vouched: bool,
    /// How many instances are announced and not described, and hosts have more to say and have said nothing.
    pub(crate) unheard: usize,
    /// How long ago something new was last heard.
    pub(crate) quiet: Duration,
    /// Whether something has been heard that is not in the store yet: a large snapshot is made only now and then.
    pub(crate) unpublished: bool,
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self {
            services: BTreeMap::new(),
            names: BTreeMap::new(),
            touched: HashSet::new(),
            changed: Instant::now(),
            unresolved: HashMap::new(),
            unicast: Unicast::default(),
            unsaid: None,
            starts: 0,
            generation: None,
            begun: Instant::now(),
            asked: false,
            asked_again: None,
            leaving: HashSet::new(),
            stale: HashSet::new(),
            alone: false,
            wants_asking: true,
            requery: Requery::default(),
        }
    }

    /// mdns-sd has heard of an instance, of which nothing more may be known yet. It says when that has lapsed.
    pub(crate) fn announced(&mut self, fullname: String) {
        self.announced_until(fullname, None);
    }

    /// The same of an answer by unicast, of which nobody will.
    pub(crate) fn announced_by_unicast(&mut self, fullname: String, now: Instant) {
        if !self.unresolved.contains_key(&fullname) {
            self.announced_until(fullname, Some(now + UNICAST_TTL));
        }
    }

    fn announced_until(&mut self, fullname: String, until: Option<Instant>) {
        if !self.names.contains_key(&fullname) && self.unresolved.len() < MAX_INSTANCES {
            self.unresolved.insert(fullname, until);
        }
    }

    /// An instance has gone, or the link to it: which, is for [`let_leave`](Self::let_leave) to be told by then.
    pub(crate) fn leave(&mut self, fullname: String) {
        self.leaving.insert(fullname);
    }

    /// Whether something is about to go.
    pub(crate) fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Whether something has changed that nobody has been told yet.
    pub(crate) fn has_news(&self) -> bool {
        !self.touched.is_empty()
    }

    /// The services of which something has changed, to be told before the lock is given back.
    pub(crate) fn take_news(&mut self) -> HashSet<ServiceName> {
        std::mem::take(&mut self.touched)
    }

    fn touch(&mut self, service: ServiceName) {
        self.touched.insert(service);
        self.changed = Instant::now();
    }

    /// Removes what is to go.
    pub(crate) fn let_leave(&mut self) {
        for fullname in std::mem::take(&mut self.leaving) {
            // A unicast answer that has lapsed is asked for no more.
            self.unicast.unconfirmed.remove(&fullname);
            if !self.stale.contains(&fullname) {
                self.remove(&fullname);
            }
        }
    }

    /// All links but loopback have gone. What was heard over them stays as it is.
    pub(crate) fn cut_off(&mut self) {
        let names =
            self.names.keys().filter(|name| !self.instance(name).is_some_and(|known| is_local(known)));
        self.stale = names.cloned().collect();
    }

    /// Every link has been heard again for long enough: what is still stale is to go. Whether there is any.
    pub(crate) fn drop_stale(&mut self) -> bool {
        let stale = std::mem::take(&mut self.stale);
        let any = !stale.is_empty();
        self.leaving.extend(stale);
        any
    }

    /// Those of `services` of which all that is known has been heard on links that are there.
    pub(crate) fn is_sound(&self, service: &ServiceName) -> bool {
        // Asked of few services, or while few are known.
        let entries = self.services.get(service);
        self.stale.is_empty()
            || !entries.is_some_and(|entries| entries.keys().any(|name| self.stale.contains(name)))
    }

    /// The services of which something is known, and nothing that is stale.
    pub(crate) fn sound_services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys().filter(|service| self.is_sound(service))
    }

    /// Whether the names that are known can be told though loopback is all that is heard.
    pub(crate) fn names_are_sound(&self) -> bool {
        self.stale.is_empty() && !self.services.is_empty()
    }

    /// mdns-sd has heard all of an instance.
    pub(crate) fn add(&mut self, fullname: &str, instance: Instance) {
        self.leaving.remove(fullname);
        if self.stale.remove(fullname) {
            self.names.get(fullname).cloned().into_iter().for_each(|service| self.touch(service));
        }
        if let Some((unsaid, _)) = &mut self.unsaid {
            unsaid.remove(fullname);
        }
        if !self.unicast.told.contains(fullname) {
            self.unicast.missed.insert(fullname.to_owned());
            for address in instance.addresses().iter().filter_map(Address::socket_addr) {
                if let Some(spoke) = self.unicast.awaited.get_mut(&address.ip()) {
                    *spoke = true;
                }
            }
        }
        // The addresses of IPv4 and IPv6 come in different packets. Those that are known already stay until all are heard.
        let first = self.unicast.unconfirmed.remove(fullname).is_some();
        if !first || !self.instance(fullname).is_some_and(|known| covers(known, &instance)) {
            self.put(fullname, instance);
        }
    }

    /// An instance that a unicast answer describes.
    pub(crate) fn add_unicast(&mut self, fullname: &str, instance: Instance, now: Instant) {
        self.unicast.missed.remove(fullname);
        self.unicast.told.insert(fullname.to_owned());
        // What mdns-sd has said is at least as new, unless it has lost the link since.
        let stale = self.stale.remove(fullname);
        if stale || !self.names.contains_key(fullname) || self.unicast.unconfirmed.contains_key(fullname) {
            self.unicast.unconfirmed.insert(fullname.to_owned(), now + UNICAST_TTL);
            self.put(fullname, instance);
        }
    }

    /// The instance that has this full name.
    pub(crate) fn instance(&self, fullname: &str) -> Option<&Arc<Instance>> {
        self.services.get(self.names.get(fullname)?)?.get(fullname)
    }

    fn put(&mut self, fullname: &str, instance: Instance) {
        self.unresolved.remove(fullname);
        let service = instance.service().clone();
        if self.names.get(fullname).is_some_and(|before| *before != service) {
            self.remove(fullname);
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
            entries.insert(fullname.to_owned(), Arc::new(instance));
            self.names.insert(fullname.to_owned(), service.clone());
            self.touch(service);
        }
    }

    pub(crate) fn remove(&mut self, fullname: &str) {
        self.leaving.remove(fullname);
        self.stale.remove(fullname);
        self.unresolved.remove(fullname);
        self.unicast.unconfirmed.remove(fullname);
        self.unicast.missed.remove(fullname);
        let Some(service) = self.names.remove(fullname) else { return };
        if let Some(entries) = self.services.get_mut(&service) {
            entries.remove(fullname);
            if entries.is_empty() {
                self.services.remove(&service);
            }
        }
        self.touch(service);
    }

    pub(crate) fn fullname(&self, kind: &ServiceType, key: &InstanceKey) -> Option<String> {
        let entries = self.services.get(key.service())?;
        record::tell_apart(kind, entries)
            .find(|(_, instance)| instance.id() == key.id())
            .map(|(fullname, _)| fullname.clone())
    }

    pub(crate) fn snapshot(&self, kind: &ServiceType, service: ServiceName) -> Snapshot {
        let entries = self.services.get(&service).into_iter().flatten();
        Snapshot::new(service, record::tell_apart(kind, entries).map(|(_, instance)| instance))
    }

    /// A new subscription begins: what it does not say is gone. A daemon that has just begun has to hear it first. Whether it
    /// has taken the place of another.
    pub(crate) fn begin(&mut self, generation: u64, now: Instant) -> bool {
        let mut until = now;
        let before = self.generation.replace(generation);
        let is_new = before != Some(generation);
        if is_new {
            self.listen_anew(now);
            until += RELEARN;
        }
        let unsaid = self.names.keys().filter(|name| !self.unicast.unconfirmed.contains_key(*name));
        self.unsaid = Some((unsaid.cloned().collect(), until));
        self.starts = 0;
        is_new && before.is_some()
    }

    /// What is known now says nothing of what there is: a daemon or a network has only just come.
    pub(crate) fn listen_anew(&mut self, now: Instant) {
        self.begun = now;
        self.asked = false;
        self.asked_again = None;
        self.wants_asking = true;
        self.unicast.answered = false;
        self.unicast.told.clear();
        self.unicast.awaited.clear();
        self.unicast.missed = self.names.keys().cloned().collect();
    }

    /// Whether to ask by unicast now; if so, that counts as done.
    pub(crate) fn wants_asking(&mut self) -> bool {
        std::mem::take(&mut self.wants_asking)
    }

    /// Whether there is an instance that has not answered by unicast though another way of knowing all there is has not been
    /// found.
    pub(crate) fn misses_unicast(&self) -> bool {
        !self.unicast.asked_alone && !self.unicast.missed.is_empty()
    }

    pub(crate) fn standing(&self, now: Instant) -> Standing {
        let asked = self.unicast.asked.map_or(Duration::MAX, |asked| now.saturating_duration_since(asked));
        let awaited = &self.unicast.awaited;
        let unheard = self.unresolved.len() + awaited.values().filter(|spoke| !**spoke).count();
        let vouched = self.unicast.answered && !self.misses_unicast() && unheard == 0 && awaited.is_empty();
        let again = self.asked_again.map_or(Duration::ZERO, |again| now.saturating_duration_since(again));
        let age = self.age(now);
        Standing {
            age,
            silence: age.min(ASKS_AGAIN + again),
            asked,
            vouched,
            unheard,
            quiet: now.saturating_duration_since(self.changed),
            unpublished: self.has_news(),
        }
    }

    /// Has leave what a unicast answer has said and nobody has said since; when to look again.
    pub(crate) fn forget_unconfirmed(&mut self, now: Instant) -> Option<Instant> {
        self.unresolved.retain(|_, until| until.is_none_or(|until| now < until));
        let Self { unicast, leaving, unresolved, .. } = self;
        let due = unicast.unconfirmed.iter().filter(|(_, until)| **until <= now);
        leaving.extend(due.map(|(name, _)| name.clone()));
        unicast.unconfirmed.values().chain(unresolved.values().flatten()).min().copied()
    }

    /// mdns-sd says that a search started when a subscription begins, then says all it knows, and says it again when
    /// it sends the first question.
    pub(crate) fn started(&mut self, now: Instant) {
        self.starts += 1;
        if self.is_complete() && self.asked {
            self.asked_again.get_or_insert(now);
        } else if self.is_complete() {
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
    pub(crate) fn age(&self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.begun);
        if self.asked { age } else { age.saturating_sub(ASKS_WITHIN) }
    }

    /// Has leave what the subscription has not said.
    pub(crate) fn forget_unsaid(&mut self, now: Instant) {
        if !self.is_complete() || self.unsaid.as_ref().is_none_or(|(_, until)| now < *until) {
            return;
        }
        for fullname in self.unsaid.take().into_iter().flat_map(|(unsaid, _)| unsaid) {
            self.leaving.insert(fullname);
            self.requery.lost(now);
        }
    }

    /// Whether the subscription has said all that the daemon knew when it began.
    pub(crate) fn is_complete(&self) -> bool {
        self.starts > 1
    }
}

/// Whether an instance has an address of loopback, so that it is of this machine and heard there.
fn is_local(instance: &Instance) -> bool {
    instance.addresses().iter().filter_map(Address::socket_addr).any(|socket| socket.ip().is_loopback())
}

/// Whether `known` is `heard` with more addresses, or the same.
fn covers(known: &Instance, heard: &Instance) -> bool {
    let has = |address| known.addresses().contains(address);
    let readdressed = heard
        .addresses()
        .iter()
        .cloned()
        .fold(known.to_builder().clear_addresses(), InstanceBuilder::address);
    heard.addresses().iter().all(has) && readdressed.build_lossy().as_ref() == Ok(heard)
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
            let replaces = heard.begin(generation, at(0));
            heard.started(at(0));
            let unasked = heard.age(at(100));
            heard.started(at(100));
            // Asking again does not begin anew.
            assert!(!heard.begin(generation, at(5000)));
            (replaces, unasked, heard.age(at(6000)))
        };
        for generation in [1, 2] {
            let replaces = generation > 1;
            assert_eq!(age(generation), (replaces, Duration::ZERO, Duration::from_millis(5900)));
        }
        let silence = |heard: &Heard| heard.standing(at(6000)).silence;
        assert_eq!(silence(&heard), Duration::from_secs(1), "not asked a second time");
        heard.started(at(5000));
        heard.started(at(5100));
        assert_eq!(silence(&heard), Duration::from_millis(1900));
        assert!(heard.begin(3, at(0)));
        assert_eq!(silence(&heard), Duration::from_secs(1), "not by this daemon");
        assert_eq!(
            heard.age(at(3000)),
            Duration::from_secs(2),
            "a daemon that never asks keeps nobody waiting"
        );
    }

    fn web(addresses: &[&str]) -> Instance {
        addresses
            .iter()
            .fold(Instance::builder("s").id("1"), |builder, a| builder.address(*a))
            .build()
            .unwrap()
    }

    #[test]
    fn what_only_a_unicast_answer_has_said_lapses_and_what_mdns_sd_says_stays() {
        let mut heard = Heard::new();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for name in ["a", "b"] {
            heard.add_unicast(name, web(&["10.0.0.1:80", "[fe80::1%2]:80"]), start);
        }
        // A daemon that begins again does not take back what it has not heard yet.
        heard.begin(0, start);
        heard.started(start);
        heard.started(start);
        heard.forget_unsaid(start);
        heard.let_leave();
        assert_eq!(heard.names.len(), 2);
        // IPv4's packet comes first.
        heard.add("a", web(&["10.0.0.1:80"]));
        assert_eq!(heard.instance("a").unwrap().addresses().len(), 2, "no address goes for a moment");
        let mut forget = |seconds| {
            heard.forget_unconfirmed(at(seconds));
            heard.let_leave();
            heard.forget_unconfirmed(at(seconds))
        };
        assert_eq!(forget(9), Some(at(10)));
        assert_eq!(forget(10), None);
        assert_eq!(heard.names.keys().collect::<Vec<_>>(), ["a"]);
        heard.add("a", web(&["10.0.0.1:81"]));
        assert_eq!(heard.instance("a").unwrap().address().port(), 81);
    }

    #[test]
    fn all_is_known_when_all_have_answered_by_unicast_and_are_described() {
        let mut heard = Heard::new();
        let now = Instant::now();
        let vouched = |heard: &Heard| heard.standing(now).vouched;
        assert!(!vouched(&heard), "nobody has answered");
        heard.unicast.answered = true;
        heard.add_unicast("a", web(&["10.0.0.1:80"]), now);
        assert!(vouched(&heard));
        heard.announced("b".into());
        assert!(!vouched(&heard), "it is not described");
        heard.announced_by_unicast("c".into(), now);
        heard.add("b", web(&["10.0.0.2:80"]));
        assert!(!vouched(&heard), "it has not answered by unicast");
        heard.add_unicast("b", web(&["10.0.0.2:80"]), now);
        assert!(!vouched(&heard), "the third is not described");
        heard.forget_unconfirmed(now + UNICAST_TTL);
        heard.let_leave();
        assert!(vouched(&heard), "nobody has said it since");
        let unheard = |heard: &Heard| heard.standing(now).unheard;
        heard.unicast.awaited.insert("10.0.0.3".parse().unwrap(), false);
        assert!(!vouched(&heard) && unheard(&heard) == 1, "a host that was asked by itself has not answered");
        heard.add("d", web(&["10.0.0.3:80"]));
        heard.add_unicast("d", web(&["10.0.0.3:80"]), now);
        assert!(!vouched(&heard) && unheard(&heard) == 0, "it said something, perhaps to another");
        heard.unicast.give_up();
        assert!(!vouched(&heard), "and will not answer any more");
        heard.unicast.answered = true;
        assert!(vouched(&heard));
        heard.listen_anew(now);
        assert!(!vouched(&heard), "what was known says nothing of what there is");
    }

    #[test]
    fn what_is_not_published_yet_is_known_and_news_breaks_the_quiet() {
        let mut heard = Heard::new();
        let later = |heard: &Heard| heard.standing(heard.changed + Duration::from_secs(1));
        // A clock may be coarse.
        let tick = |from| while Instant::now() <= from {};
        let begun = heard.changed;
        tick(begun);
        heard.add_unicast("a", web(&["10.0.0.1:80"]), begun);
        assert!(later(&heard).unpublished);
        assert_eq!(heard.take_news(), HashSet::from([ServiceName::new("s").unwrap()]));
        assert!(!later(&heard).unpublished);
        let changed = heard.changed;
        assert!(changed > begun && later(&heard).quiet == Duration::from_secs(1));
        heard.add("a", web(&["10.0.0.1:80"]));
        assert!(!heard.has_news() && heard.changed == changed, "it is known");
        tick(changed);
        heard.remove("a");
        assert!(later(&heard).unpublished && heard.changed > changed);
    }

    #[test]
    fn what_was_heard_over_a_lost_link_stays_until_that_is_heard_again() {
        let mut heard = Heard::new();
        let service = ServiceName::new("s").unwrap();
        heard.add("far", web(&["10.0.0.2:80"]));
        heard.add("gone", web(&["10.0.0.3:80"]));
        heard.add("local", web(&["127.0.0.1:80"]));
        assert!(heard.is_sound(&service));
        let leave = |heard: &mut Heard| {
            for name in ["far", "gone", "local"] {
                heard.leave(name.into());
            }
            heard.let_leave();
            heard.names.keys().cloned().collect::<Vec<_>>()
        };
        heard.cut_off();
        assert_eq!(leave(&mut heard), ["far", "gone"], "loopback is still heard");
        assert!(!heard.is_sound(&service) && !heard.names_are_sound());

        // The link is back.
        heard.take_news();
        heard.add("far", web(&["10.0.0.2:80"]));
        assert!(heard.has_news(), "it is news though it is the same");
        assert!(heard.drop_stale());
        heard.let_leave();
        assert_eq!(heard.names.keys().collect::<Vec<_>>(), ["far"]);
        assert!(heard.is_sound(&service) && !heard.drop_stale());
        assert!(leave(&mut heard).is_empty(), "nothing is kept any more");
    }

    #[test]
    fn what_is_heard_before_it_has_left_stays() {
        let mut heard = Heard::new();
        heard.add("a", web(&["10.0.0.2:80"]));
        heard.leave("a".into());
        heard.add("a", web(&["10.0.0.2:80"]));
        heard.let_leave();
        assert_eq!(heard.names.len(), 1);
    }
}
