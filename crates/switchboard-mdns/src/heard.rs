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

/// How long after a daemon without memory has begun what was heard before is kept without being heard again.
const RELEARN: Duration = Duration::from_secs(5);

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
    /// The names that are announced and not described yet, and how long they count, if not until mdns-sd says otherwise.
    unresolved: HashMap<String, Option<Instant>>,
    pub(crate) unicast: Unicast,
    /// The names that the current subscription has not said yet, and how long they may stay.
    unsaid: Option<(HashSet<String>, Instant)>,
    /// How often the subscription has said that a search started.
    starts: usize,
    /// The generation of the daemon, when it began to listen, and whether it has asked the network since.
    generation: u64,
    begun: Instant,
    asked: bool,
    /// Whether something has gone that nobody has looked into.
    lost: bool,
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
    /// The hosts asked by themselves of which nothing has come since.
    pub(crate) awaited: HashSet<IpAddr>,
    /// The names they have said.
    told: HashSet<String>,
    /// Those of them that mdns-sd has not said, and how long they are kept.
    unconfirmed: HashMap<String, Instant>,
    /// The names that mdns-sd has said and they have not.
    missed: HashSet<String>,
}

/// How far what is known can be trusted to be all.
pub(crate) struct Standing {
    /// How long answers have had time to arrive: since the first question by multicast.
    pub(crate) age: Duration,
    /// How long ago somebody was last asked by unicast.
    pub(crate) asked: Duration,
    /// Whether everybody has answered by unicast, as far as one can tell, and all is described that is announced.
    pub(crate) vouched: bool,
    /// How many instances are announced and not described, and hosts have more to say and have not said it.
    pub(crate) unheard: usize,
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self {
            services: BTreeMap::new(),
            names: BTreeMap::new(),
            unresolved: HashMap::new(),
            unicast: Unicast::default(),
            unsaid: None,
            starts: 0,
            generation: 0,
            begun: Instant::now(),
            asked: false,
            lost: false,
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

    /// Whether something has gone since this was last asked.
    pub(crate) fn lost_something(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    /// mdns-sd has heard all of an instance.
    pub(crate) fn add(&mut self, fullname: &str, instance: Instance, touched: &mut HashSet<ServiceName>) {
        if let Some((unsaid, _)) = &mut self.unsaid {
            unsaid.remove(fullname);
        }
        if !self.unicast.told.contains(fullname) {
            self.unicast.missed.insert(fullname.to_owned());
            for address in instance.addresses().iter().filter_map(Address::socket_addr) {
                self.unicast.awaited.remove(&address.ip());
            }
        }
        // The addresses of IPv4 and IPv6 come in different packets. Those that are known already stay until all are heard.
        let first = self.unicast.unconfirmed.remove(fullname).is_some();
        if !first || !self.instance(fullname).is_some_and(|known| covers(known, &instance)) {
            self.put(fullname, instance, touched);
        }
    }

    /// An instance that a unicast answer describes.
    pub(crate) fn add_unicast(
        &mut self,
        fullname: &str,
        instance: Instance,
        now: Instant,
        touched: &mut HashSet<ServiceName>,
    ) {
        self.unicast.missed.remove(fullname);
        self.unicast.told.insert(fullname.to_owned());
        // What mdns-sd has said is at least as new.
        if !self.names.contains_key(fullname) || self.unicast.unconfirmed.contains_key(fullname) {
            self.unicast.unconfirmed.insert(fullname.to_owned(), now + UNICAST_TTL);
            self.put(fullname, instance, touched);
        }
    }

    /// The instance that has this full name.
    pub(crate) fn instance(&self, fullname: &str) -> Option<&Arc<Instance>> {
        self.services.get(self.names.get(fullname)?)?.get(fullname)
    }

    fn put(&mut self, fullname: &str, instance: Instance, touched: &mut HashSet<ServiceName>) {
        self.unresolved.remove(fullname);
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
            entries.insert(fullname.to_owned(), Arc::new(instance));
            self.names.insert(fullname.to_owned(), service.clone());
            touched.insert(service);
        }
    }

    pub(crate) fn remove(&mut self, fullname: &str, touched: &mut HashSet<ServiceName>) {
        self.unresolved.remove(fullname);
        self.unicast.unconfirmed.remove(fullname);
        self.unicast.missed.remove(fullname);
        let Some(service) = self.names.remove(fullname) else { return };
        self.lost = true;
        if let Some(entries) = self.services.get_mut(&service) {
            entries.remove(fullname);
            if entries.is_empty() {
                self.services.remove(&service);
            }
        }
        touched.insert(service);
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

    /// A new subscription begins: what it does not say is gone. A daemon that has just begun has to hear it first.
    pub(crate) fn begin(&mut self, generation: u64, now: Instant) {
        let mut until = now;
        if generation != self.generation {
            self.generation = generation;
            self.listen_anew(now);
            until += RELEARN;
        }
        let unsaid = self.names.keys().filter(|name| !self.unicast.unconfirmed.contains_key(*name));
        self.unsaid = Some((unsaid.cloned().collect(), until));
        self.starts = 0;
    }

    /// What is known now says nothing of what there is: a daemon or a network has only just come.
    pub(crate) fn listen_anew(&mut self, now: Instant) {
        self.begun = now;
        self.asked = false;
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
        let unheard = self.unresolved.len() + self.unicast.awaited.len();
        let vouched = self.unicast.answered && !self.misses_unicast() && unheard == 0;
        Standing { age: self.age(now), asked, vouched, unheard }
    }

    /// Forgets what a unicast answer has said and nobody has said since; when to look again.
    pub(crate) fn forget_unconfirmed(
        &mut self,
        now: Instant,
        touched: &mut HashSet<ServiceName>,
    ) -> Option<Instant> {
        self.unresolved.retain(|_, until| until.is_none_or(|until| now < until));
        let due = |(_, until): &(&String, &Instant)| **until <= now;
        let lapsed: Vec<String> =
            self.unicast.unconfirmed.iter().filter(due).map(|(name, _)| name.clone()).collect();
        for fullname in lapsed {
            self.remove(&fullname, touched);
        }
        self.unicast.unconfirmed.values().chain(self.unresolved.values().flatten()).min().copied()
    }

    /// mdns-sd says that a search started when a subscription begins, then says all it knows, and says it again when
    /// it sends the first question.
    pub(crate) fn started(&mut self, now: Instant) {
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
    pub(crate) fn age(&self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.begun);
        if self.asked { age } else { age.saturating_sub(ASKS_WITHIN) }
    }

    pub(crate) fn forget_unsaid(&mut self, now: Instant, touched: &mut HashSet<ServiceName>) {
        if !self.is_complete() || self.unsaid.as_ref().is_none_or(|(_, until)| now < *until) {
            return;
        }
        for fullname in self.unsaid.take().into_iter().flat_map(|(unsaid, _)| unsaid) {
            self.remove(&fullname, touched);
            self.requery.lost(now);
        }
    }

    /// Whether the subscription has said all that the daemon knew when it began.
    pub(crate) fn is_complete(&self) -> bool {
        self.starts > 1
    }
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

    fn web(addresses: &[&str]) -> Instance {
        addresses
            .iter()
            .fold(Instance::builder("s").id("1"), |builder, a| builder.address(*a))
            .build()
            .unwrap()
    }

    #[test]
    fn what_only_a_unicast_answer_has_said_lapses_and_what_mdns_sd_says_stays() {
        let (mut heard, mut touched) = (Heard::new(), HashSet::new());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for name in ["a", "b"] {
            heard.add_unicast(name, web(&["10.0.0.1:80", "[fe80::1%2]:80"]), start, &mut touched);
        }
        // A daemon that begins again does not take back what it has not heard yet.
        heard.begin(0, start);
        heard.started(start);
        heard.started(start);
        heard.forget_unsaid(start, &mut touched);
        assert_eq!(heard.names.len(), 2);
        // IPv4's packet comes first.
        heard.add("a", web(&["10.0.0.1:80"]), &mut touched);
        assert_eq!(heard.instance("a").unwrap().addresses().len(), 2, "no address goes for a moment");
        assert_eq!(heard.forget_unconfirmed(at(9), &mut touched), Some(at(10)));
        assert_eq!(heard.forget_unconfirmed(at(10), &mut touched), None);
        assert_eq!(heard.names.keys().collect::<Vec<_>>(), ["a"]);
        heard.add("a", web(&["10.0.0.1:81"]), &mut touched);
        assert_eq!(heard.instance("a").unwrap().address().port(), 81);
    }

    #[test]
    fn all_is_known_when_all_have_answered_by_unicast_and_are_described() {
        let (mut heard, mut touched) = (Heard::new(), HashSet::new());
        let now = Instant::now();
        let vouched = |heard: &Heard| heard.standing(now).vouched;
        assert!(!vouched(&heard), "nobody has answered");
        heard.unicast.answered = true;
        heard.add_unicast("a", web(&["10.0.0.1:80"]), now, &mut touched);
        assert!(vouched(&heard));
        heard.announced("b".into());
        assert!(!vouched(&heard), "it is not described");
        heard.announced_by_unicast("c".into(), now);
        heard.add("b", web(&["10.0.0.2:80"]), &mut touched);
        assert!(!vouched(&heard), "it has not answered by unicast");
        heard.add_unicast("b", web(&["10.0.0.2:80"]), now, &mut touched);
        assert!(!vouched(&heard), "the third is not described");
        assert_eq!(heard.forget_unconfirmed(now + UNICAST_TTL, &mut touched), None);
        assert!(vouched(&heard), "nobody has said it since");
        heard.unicast.awaited.insert("10.0.0.3".parse().unwrap());
        assert!(!vouched(&heard), "a host that was asked by itself has not answered");
        heard.add("d", web(&["10.0.0.3:80"]), &mut touched);
        heard.add_unicast("d", web(&["10.0.0.3:80"]), now, &mut touched);
        assert!(vouched(&heard), "it has, by multicast");
        heard.listen_anew(now);
        assert!(!vouched(&heard), "what was known says nothing of what there is");
    }
}
