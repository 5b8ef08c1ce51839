//! Finding out where a service is: which questions, in which order, and over what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use switchboard_core::{ErrorKind, Invalid, ServiceName};
use switchboard_dnssd::ServiceType;

use crate::client::{Answer, Client, Failed};
use crate::config::{DnsBuilder, IpVersion, Records};
use crate::names;
use crate::record::{self, Glue, Host, Listed, Said};
use crate::servers::Servers;

/// So many hosts of one answer are asked for at a time.
const HOSTS_AT_A_TIME: usize = 16;

/// So many names a chain of CNAMEs may have that has to be asked for.
const LONGEST_CHAIN: usize = 8;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    /// Where a service is.
    Service(ServiceName),
    /// Which instances there are of a DNS-SD type.
    Type(ServiceType),
    /// Which names there are.
    Names,
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    pub(crate) listed: Listed,
    /// To [`Question::Names`].
    pub(crate) names: BTreeSet<ServiceName>,
    /// For how many seconds it holds; `None` if nobody says.
    pub(crate) ttl: Option<u32>,
    /// Whether who is not listed is not there, as far as can be known.
    pub(crate) whole: bool,
}

/// What a name has.
enum Looked {
    Found(Found),
    /// No such record; for so many seconds, if anybody says.
    Nothing(Option<u32>),
}

/// What earlier answers have taught, which is no part of any.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Way {
    over: Over,
    /// The name, of several, under which there was somebody.
    name: Option<Name>,
    /// Whether there were SRV records, or addresses.
    kind: Option<Kind>,
    /// What the last answer had.
    had: BTreeSet<String>,
}

/// Over what an answer is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Over {
    #[default]
    Unknown,
    Udp,
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Srv,
    Addresses,
}

/// What finds out; a seam for tests of time.
#[async_trait]
pub(crate) trait Resolve: Send + Sync {
    /// An answer, and what it has taught.
    async fn resolve(&self, question: &Question, way: Way) -> (Way, Result<Found, Failed>);

    /// Refuses what is no question, before it is asked.
    fn check(&self, question: &Question) -> Result<(), Invalid>;
}

/// The records of one type for a name, with all that came along.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) records: Vec<Record>,
    pub(crate) glue: Glue,
    /// The answer that the records are in, with what else it says.
    pub(crate) along: Vec<Record>,
    pub(crate) ttl: Option<u32>,
}

/// Asks name servers.
pub(crate) struct Resolver {
    pub(crate) client: Client,
    pub(crate) config: DnsBuilder,
    pub(crate) domain: Option<Name>,
}

impl Resolver {
    pub(crate) fn new(config: DnsBuilder, domain: Option<Name>) -> Self {
        Self { client: Client::new(&config), config, domain }
    }

    /// The records of `kind` for `name`, along CNAMEs. None are an answer, too.
    pub(crate) async fn records(
        &self,
        servers: &Arc<Servers>,
        name: &Name,
        kind: RecordType,
        tcp: bool,
    ) -> Result<Reply, Failed> {
        let mut reply = Reply::default();
        let mut at = name.clone();
        let mut been = vec![name.to_lowercase()];
        loop {
            let message = match self.client.ask(servers, &at, kind, tcp || self.config.tcp).await? {
                Answer::Nothing { ttl, .. } => {
                    reply.ttl = least(reply.ttl, ttl);
                    return Ok(reply);
                }
                Answer::Message(message) => message,
            };
            reply.glue.add(&message);
            let circle = |at: &Name| {
                let (name, at) = (name.to_ascii(), at.to_ascii());
                Failed::new(ErrorKind::Protocol, format!("the CNAMEs of {name} lead in a circle, by {at}"))
            };
            match record::read(&message, &at, kind) {
                Said::Records(records, ttl) => {
                    reply.records = records;
                    reply.along = message.additionals;
                    reply.ttl = least(reply.ttl, Some(ttl));
                    return Ok(reply);
                }
                Said::Nothing => return Ok(reply),
                Said::Circle(at) => return Err(circle(&at)),
                Said::Elsewhere(next, ttl) => {
                    if been.contains(&next) {
                        return Err(circle(&next));
                    }
                    if been.len() > LONGEST_CHAIN {
                        let why = format!("{} has more than {LONGEST_CHAIN} CNAMEs", name.to_ascii());
                        return Err(Failed::new(ErrorKind::Protocol, why));
                    }
                    been.push(next.clone());
                    reply.ttl = least(reply.ttl, Some(ttl));
                    at = next;
                }
            }
        }
    }

    /// The records of `kind` for `name`, over whatever has them all; and whether these are all.
    ///
    /// What is new, or leaves out what was there, is asked for over TCP as well: some servers give a part over UDP and do
    /// not say so.
    pub(crate) async fn whole(
        &self,
        servers: &Arc<Servers>,
        name: &Name,
        kind: RecordType,
        way: &mut Way,
    ) -> Result<(Reply, bool), Failed> {
        if self.config.tcp {
            return Ok((self.records(servers, name, kind, true).await?, true));
        }
        let was_over_tcp = way.over == Over::Tcp;
        if was_over_tcp {
            match self.records(servers, name, kind, true).await {
                Ok(reply) => {
                    self.client.note_tcp(true);
                    way.had = keys(&reply.records);
                    return Ok((reply, true));
                }
                Err(failed) => {
                    way.over = Over::Unknown;
                    tracing::debug!(%failed, "no answer over TCP any more");
                }
            }
        }
        let reply = self.records(servers, name, kind, false).await?;
        // One that answers neither way is down, and may have TCP when it is back.
        if was_over_tcp {
            self.client.note_tcp(false);
        }
        let has = keys(&reply.records);
        // Nothing is not a part.
        if has.is_empty() {
            way.had = has;
            return Ok((reply, true));
        }
        if way.over == Over::Udp && way.had.is_subset(&has) {
            way.had = has;
            return Ok((reply, true));
        }
        if !self.client.has_tcp() {
            way.over = Over::Unknown;
            return Ok((reply, false));
        }
        match self.records(servers, name, kind, true).await {
            Ok(over_tcp) if !over_tcp.records.is_empty() => {
                self.client.note_tcp(true);
                let more = keys(&over_tcp.records);
                way.over = if more.len() > has.len() { Over::Tcp } else { Over::Udp };
                way.had = more;
                Ok((over_tcp, true))
            }
            Ok(_) => {
                way.over = Over::Unknown;
                Ok((reply, false))
            }
            Err(failed) => {
                self.client.note_tcp(false);
                tracing::debug!(%failed, "an answer over UDP may be a part, and there is no TCP");
                way.over = Over::Unknown;
                Ok((reply, false))
            }
        }
    }

    /// Where hosts are: as came along, or else asked for, some at a time. The least time that any of it holds.
    pub(crate) async fn hosts(
        &self,
        servers: &Arc<Servers>,
        names: BTreeSet<Name>,
        glue: &Glue,
    ) -> (BTreeMap<Name, Host>, Option<u32>) {
        let each = names.into_iter().map(|name| async move {
            if let Some((ips, ttl)) = glue.host(&name, self.config.ip) {
                return (name, Host::At(ips), Some(ttl));
            }
            match self.addresses(servers, &name).await {
                Ok((ips, ttl)) if ips.is_empty() => (name, Host::Nowhere, ttl),
                Ok((ips, ttl)) => (name, Host::At(ips), ttl),
                Err(failed) => {
                    tracing::debug!(host = %name.to_ascii(), %failed, "where a host is could not be found out");
                    (name, Host::Unknown, None)
                }
            }
        });
        let mut asked = stream::iter(each).buffer_unordered(HOSTS_AT_A_TIME);
        let (mut hosts, mut least_ttl) = (BTreeMap::new(), None);
        while let Some((name, host, ttl)) = asked.next().await {
            least_ttl = least(least_ttl, ttl);
            hosts.insert(name, host);
        }
        (hosts, least_ttl)
    }

    /// The addresses of a host.
    async fn addresses(
        &self,
        servers: &Arc<Servers>,
        name: &Name,
    ) -> Result<(Vec<IpAddr>, Option<u32>), Failed> {
        let (mut ips, mut ttl) = (Vec::new(), None);
        for kind in kinds(self.config.ip) {
            let reply = self.records(servers, name, *kind, false).await?;
            ttl = least(ttl, reply.ttl);
            ips.extend(record::addresses(&reply.records));
            if self.config.ip == IpVersion::Any && !ips.is_empty() {
                break;
            }
        }
        Ok((record::sorted(ips), ttl))
    }

    /// The instances that SRV records at `name` say.
    async fn by_srv(
        &self,
        servers: &Arc<Servers>,
        service: &ServiceName,
        name: &Name,
        way: &mut Way,
    ) -> Result<Looked, Failed> {
        let (reply, whole) = self.whole(servers, name, RecordType::SRV, way).await?;
        if reply.records.is_empty() {
            return Ok(Looked::Nothing(reply.ttl));
        }
        let mut found = Found { ttl: reply.ttl, whole, ..Found::default() };
        for group in record::by_priority(&reply.records) {
            let targets = group.iter().map(|service| service.target.to_lowercase()).collect();
            let (hosts, ttl) = self.hosts(servers, targets, &reply.glue).await;
            found.ttl = least(found.ttl, ttl);
            found.listed = record::of_srv(service, &group, |target| {
                hosts.get(&target.to_lowercase()).cloned().unwrap_or(Host::Unknown)
            });
            if !found.listed.is_empty() {
                break;
            }
        }
        if !found.listed.is_empty() && found.listed.values().all(Option::is_none) {
            let why = format!("where the targets of {} are could not be found out", name.to_ascii());
            return Err(Failed::new(ErrorKind::Unavailable, why));
        }
        Ok(Looked::Found(found))
    }

    /// The instances at the addresses of `name`.
    async fn by_address(
        &self,
        servers: &Arc<Servers>,
        service: &ServiceName,
        name: &Name,
        way: &mut Way,
    ) -> Result<Looked, Failed> {
        let mut found = Found { whole: true, ..Found::default() };
        let (mut ips, had) = (Vec::new(), std::mem::take(&mut way.had));
        let mut has = BTreeSet::new();
        for kind in kinds(self.config.ip) {
            // What one type leaves out the other may have.
            let of_kind =
                |key: &String| (*kind == RecordType::A) == key.parse::<std::net::Ipv4Addr>().is_ok();
            way.had = had.iter().filter(|key| of_kind(key)).cloned().collect();
            let (reply, whole) = self.whole(servers, name, *kind, way).await?;
            has.append(&mut way.had);
            found.ttl = least(found.ttl, reply.ttl);
            found.whole &= whole;
            ips.extend(record::addresses(&reply.records));
            if self.config.ip == IpVersion::Any && !ips.is_empty() {
                break;
            }
        }
        way.had = has;
        if ips.is_empty() {
            return Ok(Looked::Nothing(found.ttl));
        }
        let Some(port) = self.config.port else {
            let why = format!(
                "{} has addresses and no SRV record, and addresses have no port; add port=80 or the like",
                name.to_ascii()
            );
            return Err(Failed::new(ErrorKind::Unsupported, why));
        };
        found.listed = record::of_addresses(service, record::sorted(ips), port);
        Ok(Looked::Found(found))
    }

    /// The instances at `name`, by whatever records there are.
    async fn by_name(
        &self,
        servers: &Arc<Servers>,
        service: &ServiceName,
        name: &Name,
        way: &mut Way,
    ) -> Result<Looked, Failed> {
        match self.config.record {
            Records::Srv => return self.by_srv(servers, service, name, way).await,
            Records::Addresses => return self.by_address(servers, service, name, way).await,
            Records::Auto | Records::DnsSd => {}
        }
        // Where there were addresses and no SRV record it stays at that while there are addresses.
        if way.kind == Some(Kind::Addresses) {
            let found = self.by_address(servers, service, name, way).await?;
            if matches!(found, Looked::Found(_)) {
                return Ok(found);
            }
        }
        let srv = self.by_srv(servers, service, name, way).await;
        // What has gone has not become an address.
        if way.kind == Some(Kind::Srv) {
            return srv;
        }
        let nothing = match srv {
            Ok(Looked::Found(found)) => {
                way.kind = Some(Kind::Srv);
                return Ok(Looked::Found(found));
            }
            Ok(Looked::Nothing(ttl)) => Ok(ttl),
            Err(failed) => Err(failed),
        };
        // A server that only knows addresses may refuse all else, or not get an answer for it from elsewhere.
        match (self.by_address(servers, service, name, way).await, nothing) {
            (Ok(Looked::Found(found)), _) => {
                way.kind = Some(Kind::Addresses);
                Ok(Looked::Found(found))
            }
            (Ok(Looked::Nothing(other)), Ok(ttl)) => Ok(Looked::Nothing(least(ttl, other))),
            (_, Err(failed)) | (Err(failed), _) => Err(failed),
        }
    }

    async fn service(&self, service: &ServiceName, way: &mut Way) -> Result<Found, Failed> {
        let servers = self.client.servers()?;
        let domain = self.domain.as_ref();
        let mut names = names::candidates(service, domain, &servers.search, servers.ndots)
            .map_err(|invalid| Failed::new(ErrorKind::Invalid, invalid.to_string()))?;
        // Where there was somebody there will be somebody.
        if let Some(at) = way.name.as_ref().and_then(|name| names.iter().position(|known| known == name)) {
            let name = names.remove(at);
            names.insert(0, name);
        }
        let mut ttl = None;
        for name in names {
            if way.name.as_ref() != Some(&name) {
                *way = Way::default();
            }
            match self.by_name(&servers, service, &name, way).await? {
                Looked::Found(found) => {
                    way.name = Some(name);
                    return Ok(found);
                }
                Looked::Nothing(holds) => ttl = least(ttl, holds),
            }
        }
        Ok(Found { whole: true, ttl, ..Found::default() })
    }
}

#[async_trait]
impl Resolve for Resolver {
    async fn resolve(&self, question: &Question, mut way: Way) -> (Way, Result<Found, Failed>) {
        let found = match question {
            Question::Service(service) => self.service(service, &mut way).await,
            Question::Type(kind) => self.instances(kind, &mut way).await,
            Question::Names => self.names(&mut way).await,
        };
        (way, found)
    }

    fn check(&self, question: &Question) -> Result<(), Invalid> {
        match question {
            Question::Service(service) => names::candidates(service, self.domain.as_ref(), &[], 1).map(drop),
            Question::Type(_) | Question::Names => Ok(()),
        }
    }
}

fn kinds(ip: IpVersion) -> &'static [RecordType] {
    match ip {
        IpVersion::V4 => &[RecordType::A],
        IpVersion::V6 => &[RecordType::AAAA],
        IpVersion::Any | IpVersion::Both => &[RecordType::A, RecordType::AAAA],
    }
}

/// What tells records apart, over answers.
fn keys(records: &[Record]) -> BTreeSet<String> {
    let key = |record: &Record| match &record.data {
        RData::SRV(srv) => record::Service::from(srv).key(),
        RData::A(v4) => v4.0.to_string(),
        RData::AAAA(v6) => v6.0.to_string(),
        RData::PTR(name) => names::plain(&name.0),
        _ => String::new(),
    };
    records.iter().map(key).collect()
}

/// The lesser of those that there are.
pub(crate) fn least(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
