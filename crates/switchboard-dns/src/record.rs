//! What answers say: pure, and prepared for anything.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use switchboard_core::{Address, Instance, ServiceName};

use crate::IpVersion;
use crate::names::plain;

/// The instances that answers list, by what is the same over answers; `None` for one of which no more can be said now.
pub(crate) type Listed = BTreeMap<String, Option<Arc<Instance>>>;

/// A weight of 0 is to be picked hardly ever next to others, which are so many times as heavy.
const HARDLY_EVER: u16 = 100;

/// What a message says of a name and a type.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// The records, and for how many seconds they hold, the way there included.
    Records(Vec<Record>, u32),
    /// It goes on under another name, of which the message says no more.
    Elsewhere(Name, u32),
    /// There are none.
    Nothing,
    /// The names lead in a circle.
    Circle(Name),
}

/// Reads the answer for `name`, along its CNAMEs.
pub(crate) fn read(message: &Message, name: &Name, kind: RecordType) -> Said {
    let mut aliases: HashMap<Name, (&Name, u32)> = HashMap::new();
    let mut found: HashMap<Name, Vec<&Record>> = HashMap::new();
    for record in &message.answers {
        let owner = record.name.to_lowercase();
        match &record.data {
            RData::CNAME(target) => drop(aliases.entry(owner).or_insert((&target.0, record.ttl))),
            data if data.record_type() == kind => found.entry(owner).or_default().push(record),
            _ => {}
        }
    }
    let (mut at, mut ttl) = (name.to_lowercase(), u32::MAX);
    let mut been = HashSet::new();
    loop {
        if let Some(records) = found.get(&at) {
            let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(u32::MAX).min(ttl);
            return Said::Records(records.iter().map(|record| (*record).clone()).collect(), ttl);
        }
        let Some((target, holds)) = aliases.get(&at) else { break };
        if !been.insert(at.clone()) {
            return Said::Circle(at);
        }
        at = target.to_lowercase();
        ttl = ttl.min(*holds);
    }
    if been.is_empty() || message.metadata.response_code == ResponseCode::NXDomain {
        return Said::Nothing;
    }
    Said::Elsewhere(at, ttl)
}

/// What is known of a host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Host {
    /// Its addresses, in a stable order.
    At(Vec<IpAddr>),
    /// It has none.
    Nowhere,
    /// It could not be found out.
    Unknown,
}

/// The addresses that came along with an answer.
#[derive(Debug, Default)]
pub(crate) struct Glue {
    addresses: HashMap<Name, (Vec<IpAddr>, u32)>,
    aliases: HashMap<Name, (Name, u32)>,
}

impl Glue {
    pub(crate) fn add(&mut self, message: &Message) {
        for record in message.answers.iter().chain(&message.additionals) {
            let ip = match &record.data {
                RData::A(v4) => IpAddr::V4(v4.0),
                RData::AAAA(v6) => IpAddr::V6(v6.0),
                RData::CNAME(target) => {
                    self.aliases.insert(record.name.to_lowercase(), (target.0.to_lowercase(), record.ttl));
                    continue;
                }
                _ => continue,
            };
            let (ips, ttl) =
                self.addresses.entry(record.name.to_lowercase()).or_insert((Vec::new(), u32::MAX));
            if !ips.contains(&ip) {
                ips.push(ip);
            }
            *ttl = record.ttl.min(*ttl);
        }
    }

    /// Adds what another answer said of hosts that this one says nothing of.
    pub(crate) fn join(&mut self, other: &Self) {
        for (name, known) in &other.addresses {
            self.addresses.entry(name.clone()).or_insert_with(|| known.clone());
        }
        for (name, known) in &other.aliases {
            self.aliases.entry(name.clone()).or_insert_with(|| known.clone());
        }
    }

    /// The addresses of a host, and how long they hold; `None` where they have to be asked for.
    pub(crate) fn host(&self, name: &Name, wanted: IpVersion) -> Option<(Vec<IpAddr>, u32)> {
        let (mut at, mut ttl) = (name.to_lowercase(), u32::MAX);
        // No more than there are, so no circle goes on.
        for _ in 0..=self.aliases.len() {
            if let Some((ips, holds)) = self.addresses.get(&at) {
                return chosen(ips, wanted).map(|ips| (ips, ttl.min(*holds)));
            }
            let (target, holds) = self.aliases.get(&at)?;
            at = target.clone();
            ttl = ttl.min(*holds);
        }
        None
    }
}

/// Those of the wanted version, in a stable order; `None` if there may be more to be asked for.
fn chosen(ips: &[IpAddr], wanted: IpVersion) -> Option<Vec<IpAddr>> {
    let of = |v4: bool| ips.iter().copied().filter(move |ip| ip.is_ipv4() == v4);
    let (v4, v6) = (sorted(of(true)), sorted(of(false)));
    match wanted {
        IpVersion::V4 | IpVersion::Any if !v4.is_empty() => Some(v4),
        IpVersion::V6 if !v6.is_empty() => Some(v6),
        IpVersion::Both if !v4.is_empty() && !v6.is_empty() => Some([v4, v6].concat()),
        _ => None,
    }
}

/// IPv4 first, and by number: answers rotate.
pub(crate) fn sorted(ips: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = ips.into_iter().collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// The addresses in records.
pub(crate) fn addresses(records: &[Record]) -> impl Iterator<Item = IpAddr> {
    records.iter().filter_map(|record| match &record.data {
        RData::A(v4) => Some(IpAddr::V4(v4.0)),
        RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
        _ => None,
    })
}

/// An SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    priority: u16,
    weight: u16,
    port: u16,
    pub(crate) target: Name,
}

impl Service {
    /// What is the same over answers, and an instance's id.
    pub(crate) fn key(&self) -> String {
        format!("{}:{}", plain(&self.target), self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl From<&SRV> for Service {
    fn from(srv: &SRV) -> Self {
        let SRV { priority, weight, port, target, .. } = srv;
        Self { priority: *priority, weight: *weight, port: *port, target: target.clone() }
    }
}

/// The SRV records that name somebody, by priority, the lowest first. A target `.` says that nobody is there (RFC 2782).
pub(crate) fn by_priority(records: &[Record]) -> Vec<Vec<Service>> {
    let mut groups: BTreeMap<u16, BTreeMap<String, Service>> = BTreeMap::new();
    for record in records {
        let RData::SRV(srv) = &record.data else { continue };
        if srv.target.is_root() || srv.port == 0 {
            continue;
        }
        let service = Service::from(srv);
        let group = groups.entry(service.priority).or_default();
        let kept = group.entry(service.key()).or_insert_with(|| service.clone());
        kept.weight = kept.weight.max(service.weight);
    }
    groups.into_values().map(|group| group.into_values().collect()).collect()
}

/// The instances of SRV records of one priority.
pub(crate) fn of_srv(name: &ServiceName, group: &[Service], host: impl Fn(&Name) -> Host) -> Listed {
    let heaviest = group.iter().map(|service| service.weight).max().unwrap_or_default();
    let unequal = heaviest > 0 && group.iter().any(|service| service.weight == 0);
    let times = if unequal { (u16::MAX / heaviest).min(HARDLY_EVER) } else { 1 };
    let mut listed = Listed::new();
    for service in group {
        let instance = match host(&service.target) {
            Host::Nowhere => continue,
            Host::Unknown => None,
            Host::At(ips) => {
                let weight = service.weight.saturating_mul(times).max(1);
                match at(name, &service.key(), ips, service.port, weight) {
                    Some(instance) => Some(instance),
                    None => continue,
                }
            }
        };
        listed.insert(service.key(), instance);
    }
    listed
}

/// The instances at addresses, each one.
pub(crate) fn of_addresses(name: &ServiceName, ips: impl IntoIterator<Item = IpAddr>, port: u16) -> Listed {
    let each = ips.into_iter().filter_map(|ip| {
        let id = std::net::SocketAddr::new(ip, port).to_string();
        Some((id.clone(), Some(at(name, &id, vec![ip], port, 1)?)))
    });
    each.collect()
}

fn at(name: &ServiceName, id: &str, ips: Vec<IpAddr>, port: u16, weight: u16) -> Option<Arc<Instance>> {
    let sockets = ips.into_iter().map(|ip| std::net::SocketAddr::new(ip, port));
    // Nobody can connect to 0.0.0.0.
    let addresses: Vec<Address> = sockets.filter_map(|socket| Address::try_from(socket).ok()).collect();
    // A name can be longer than an id.
    let id = if id.len() > 255 { addresses.first()?.to_string() } else { id.to_owned() };
    let builder = Instance::builder(name).id(id).weight(weight);
    let builder = addresses.into_iter().fold(builder, switchboard_core::InstanceBuilder::address);
    match builder.build_lossy() {
        Ok(instance) => Some(Arc::new(instance)),
        Err(invalid) => {
            tracing::debug!(service = %name, %invalid, "a record says nothing that could be connected to");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::OpCode;
    use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A::new(10, 0, 0, last)))
    }

    fn cname(owner: &str, ttl: u32, target: &str) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Record {
        Record::from_rdata(name("s."), 60, RData::SRV(SRV::new(priority, weight, port, name(target))))
    }

    fn message(answers: Vec<Record>, additionals: Vec<Record>) -> Message {
        let mut message = Message::response(0, OpCode::Query);
        message.answers = answers;
        message.additionals = additionals;
        message
    }

    fn shown(listed: &Listed) -> Vec<String> {
        let each = listed.iter().map(|(key, instance)| match instance {
            Some(instance) => format!("{} {:?} {}", instance.id(), instance.addresses(), instance.weight()),
            None => format!("{key} ?"),
        });
        each.collect()
    }

    #[test]
    fn cnames_are_followed_as_far_as_the_message_goes() {
        let chain =
            vec![cname("a.", 50, "B."), cname("b.", 20, "c."), a("C.", 90, 1), a("c.", 90, 2), a("x.", 1, 3)];
        let Said::Records(records, ttl) = read(&message(chain.clone(), vec![]), &name("A."), RecordType::A)
        else {
            panic!("there are records")
        };
        assert_eq!((records.len(), ttl), (2, 20));
        let part = message(chain[..2].to_vec(), vec![]);
        assert_eq!(read(&part, &name("a."), RecordType::A), Said::Elsewhere(name("c."), 20));
        assert_eq!(read(&part, &name("z."), RecordType::A), Said::Nothing);
        let mut gone = part;
        gone.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(read(&gone, &name("a."), RecordType::A), Said::Nothing);
        let circle = message(vec![cname("a.", 1, "b."), cname("b.", 1, "a.")], vec![]);
        assert_eq!(read(&circle, &name("a."), RecordType::A), Said::Circle(name("a.")));
        let alone = message(vec![cname("a.", 1, "a.")], vec![]);
        assert_eq!(read(&alone, &name("a."), RecordType::A), Said::Circle(name("a.")));
    }

    #[test]
    fn glue_is_followed_and_a_circle_in_it_is_none() {
        let v6 = Record::from_rdata(name("h."), 5, RData::AAAA(AAAA::new(1, 0, 0, 0, 0, 0, 0, 1)));
        let mut glue = Glue::default();
        glue.add(&message(vec![], vec![cname("alias.", 7, "H."), a("h.", 9, 2), a("h.", 9, 1), v6]));
        glue.add(&message(vec![cname("x.", 1, "y."), cname("y.", 1, "x.")], vec![]));
        let v4 = vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        assert_eq!(glue.host(&name("Alias."), IpVersion::Any), Some((v4.clone(), 5)));
        assert_eq!(glue.host(&name("h."), IpVersion::V4), Some((v4, 5)));
        assert_eq!(glue.host(&name("h."), IpVersion::Both).unwrap().0.len(), 3);
        assert_eq!(glue.host(&name("h."), IpVersion::V6).unwrap().0.len(), 1);
        assert_eq!(glue.host(&name("x."), IpVersion::Any), None);
        assert_eq!(glue.host(&name("nowhere."), IpVersion::Any), None);
        let mut v4_only = Glue::default();
        v4_only.add(&message(vec![], vec![a("h.", 9, 1)]));
        assert_eq!(v4_only.host(&name("h."), IpVersion::Both), None, "the others are asked for");
    }

    #[test]
    fn the_lowest_priority_comes_first_and_a_dot_is_nobody() {
        let records = [
            srv(20, 1, 80, "b."),
            srv(10, 1, 80, "a."),
            srv(10, 1, 81, "A."),
            srv(5, 1, 80, "."),
            srv(1, 1, 0, "x."),
        ];
        let keys: Vec<Vec<String>> =
            by_priority(&records).iter().map(|group| group.iter().map(Service::key).collect()).collect();
        assert_eq!(keys, [vec!["a:80".to_owned(), "a:81".into()], vec!["b:80".into()]]);
        assert!(by_priority(&[srv(0, 0, 0, ".")]).is_empty());
    }

    #[test]
    fn instances_have_port_weight_and_stable_ids() {
        let service = ServiceName::new("orders").unwrap();
        let host = |target: &Name| match plain(target).as_str() {
            "gone" => Host::Nowhere,
            "slow" => Host::Unknown,
            _ => Host::At(sorted([[10, 0, 0, 2].into(), [10, 0, 0, 1].into()])),
        };
        let listed = |records: &[Record]| shown(&of_srv(&service, &by_priority(records)[0], host));
        assert_eq!(
            listed(&[srv(1, 3, 80, "H-1.Example."), srv(1, 7, 80, "gone."), srv(1, 7, 80, "slow.")]),
            ["h-1.example:80 [10.0.0.1:80, 10.0.0.2:80] 3", "slow:80 ?"]
        );
        assert_eq!(
            listed(&[srv(1, 0, 80, "a."), srv(1, 0, 80, "b.")])[0],
            "a:80 [10.0.0.1:80, 10.0.0.2:80] 1"
        );
        let hardly = listed(&[srv(1, 0, 80, "a."), srv(1, 5, 80, "b.")]);
        assert!(hardly[0].ends_with("] 1") && hardly[1].ends_with("] 500"), "{hardly:?}");
        let heavy = listed(&[srv(1, 0, 80, "a."), srv(1, 60_000, 80, "b.")]);
        assert!(heavy[1].ends_with("] 60000"), "{heavy:?}");
        let twice = listed(&[srv(1, 2, 80, "a."), srv(1, 5, 80, "A.")]);
        assert_eq!(twice.len(), 1);
        assert!(twice[0].ends_with("] 5"));
        let long =
            [["x".repeat(63), "y".repeat(63), "z".repeat(63), "w".repeat(60)].join("."), String::new()]
                .join(".");
        assert_eq!(listed(&[srv(1, 1, 65535, &long)]), ["10.0.0.1:65535 [10.0.0.1:65535, 10.0.0.2:65535] 1"]);
    }

    #[test]
    fn addresses_are_an_instance_each_and_nobody_is_at_zero() {
        let service = ServiceName::new("orders").unwrap();
        let ips = [[10, 0, 0, 2].into(), "::1".parse().unwrap(), [0, 0, 0, 0].into(), [10, 0, 0, 1].into()];
        let expected =
            ["10.0.0.1:80 [10.0.0.1:80] 1", "10.0.0.2:80 [10.0.0.2:80] 1", "[::1]:80 [[::1]:80] 1"];
        assert_eq!(shown(&of_addresses(&service, ips, 80)), expected);
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in any::<Vec<u8>>()) {
            if let Ok(message) = Message::from_vec(&bytes) {
                let _ = read(&message, &Name::root(), RecordType::A);
                let mut glue = Glue::default();
                glue.add(&message);
                let _ = glue.host(&Name::root(), IpVersion::Any);
                let _ = by_priority(&message.answers);
            }
        }
    }
}
