//! DNS-SD over unicast (RFC 6763): browsing a type, and listing the names there are.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use switchboard_core::{ErrorKind, Instance, Invalid, ServiceName};
use switchboard_dnssd::txt::Heard;
use switchboard_dnssd::{OWN_TYPE, ServiceType, decode};

use crate::client::Failed;
use crate::names;
use crate::record::{Host, Service};
use crate::resolve::{Found, Reply, Resolver, Way, least};
use crate::servers::Servers;

/// So many instances of a type are asked after at a time.
const AT_A_TIME: usize = 16;

/// Where the types of a domain are listed (RFC 6763, section 9).
const TYPES: &str = "_services._dns-sd._udp";

/// What became of one instance that a type lists.
enum Browsed {
    Instance(Instance),
    /// It is none, or not there after all.
    Nobody,
    /// Not everything could be found out.
    Unknown,
}

impl Resolver {
    /// The instances of a type.
    pub(crate) async fn instances(&self, kind: &ServiceType, way: &mut Way) -> Result<Found, Failed> {
        let servers = self.client.servers()?;
        let name = self.within(kind.name())?;
        let (reply, whole) = self.whole(&servers, &name, RecordType::PTR, way).await?;
        let mut found = Found { ttl: reply.ttl, whole, ..Found::default() };
        let named: BTreeSet<Name> = pointed(&reply.records).cloned().collect();
        let each = named.into_iter().map(|name| {
            let (servers, reply) = (&servers, &reply);
            async move {
                let (browsed, ttl) = self.instance(servers, kind, &name, reply).await;
                (name, browsed, ttl)
            }
        });
        let mut browsed = stream::iter(each).buffer_unordered(AT_A_TIME);
        while let Some((name, browsed, ttl)) = browsed.next().await {
            found.ttl = least(found.ttl, ttl);
            match browsed {
                Browsed::Instance(instance) => {
                    found.listed.insert(key(&name), Some(Arc::new(instance)));
                }
                Browsed::Unknown => {
                    found.listed.insert(key(&name), None);
                }
                Browsed::Nobody => {}
            }
        }
        if !found.listed.is_empty() && found.listed.values().all(Option::is_none) {
            let why = format!("what {} lists could not be found out", name.to_ascii());
            return Err(Failed::new(ErrorKind::Unavailable, why));
        }
        Ok(found)
    }

    /// The names there are: of services of ours, and the plain types that have an instance.
    pub(crate) async fn names(&self, way: &mut Way) -> Result<Found, Failed> {
        let servers = self.client.servers()?;
        let types = self.records(&servers, &self.within(TYPES)?, RecordType::PTR, false).await?;
        let own = self.instances(&ServiceType::Own, way).await?;
        let mut found = Found { ttl: least(types.ttl, own.ttl), whole: true, ..Found::default() };
        found.names.extend(own.listed.values().flatten().map(|instance| instance.service().clone()));
        // One that could not be asked after may be a service that is known otherwise; names are told when all are known.
        if own.listed.values().any(Option::is_none) {
            return Err(Failed::new(ErrorKind::Unavailable, "not every instance could be asked after"));
        }
        let plain: BTreeSet<ServiceName> = pointed(&types.records).filter_map(plain_type).collect();
        let each = plain.into_iter().map(|service| {
            let servers = &servers;
            async move {
                let name = self.within(service.as_str())?;
                let reply = self.records(servers, &name, RecordType::PTR, false).await?;
                Ok((service, !reply.records.is_empty(), reply.ttl))
            }
        });
        let mut asked = stream::iter(each).buffer_unordered(AT_A_TIME);
        while let Some(answer) = asked.next().await {
            let (service, is_there, ttl) = answer?;
            found.ttl = least(found.ttl, ttl);
            if is_there {
                found.names.insert(service);
            }
        }
        Ok(found)
    }

    async fn instance(
        &self,
        servers: &Arc<Servers>,
        kind: &ServiceType,
        name: &Name,
        reply: &Reply,
    ) -> (Browsed, Option<u32>) {
        let asked = futures::try_join!(
            self.along(servers, reply, name, RecordType::SRV),
            self.along(servers, reply, name, RecordType::TXT)
        );
        let (srv, txt) = match asked {
            Ok(both) => both,
            Err(failed) => {
                tracing::debug!(instance = %name.to_ascii(), %failed, "an instance could not be asked after");
                return (Browsed::Unknown, None);
            }
        };
        let ttl = least(srv.ttl, txt.ttl);
        let service = srv.records.iter().find_map(|record| match &record.data {
            RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => Some(Service::from(srv)),
            _ => None,
        });
        let Some(service) = service else { return (Browsed::Nobody, ttl) };
        let mut glue = srv.glue;
        glue.join(&reply.glue);
        let (hosts, host_ttl) = self.hosts(servers, [service.target.to_lowercase()].into(), &glue).await;
        let ttl = least(ttl, host_ttl);
        let ips = match hosts.into_values().next() {
            Some(Host::At(ips)) => ips,
            // What is spelled out in the TXT record is enough.
            Some(Host::Nowhere) => Vec::new(),
            Some(Host::Unknown) | None => return (Browsed::Unknown, ttl),
        };
        let sockets: Vec<SocketAddr> =
            ips.into_iter().map(|ip| SocketAddr::new(ip, service.port())).collect();
        let strings: Vec<&[u8]> = txt.records.iter().flat_map(strings).collect();
        let heard: Vec<Heard<'_>> = strings.iter().filter_map(|string| heard(string)).collect();
        match decode(kind, &label(name), &sockets, &heard) {
            Ok(instance) => (Browsed::Instance(instance), ttl),
            Err(invalid) => {
                tracing::debug!(instance = %name.to_ascii(), %invalid, "what a type lists is no instance");
                (Browsed::Nobody, ttl)
            }
        }
    }

    /// The records of an instance, as they came along or else asked for.
    async fn along(
        &self,
        servers: &Arc<Servers>,
        reply: &Reply,
        name: &Name,
        kind: RecordType,
    ) -> Result<Reply, Failed> {
        let is = |record: &&Record| record.record_type() == kind && record.name == *name;
        let records: Vec<Record> = reply.along.iter().filter(is).cloned().collect();
        if records.is_empty() {
            return self.records(servers, name, kind, false).await;
        }
        let ttl = records.iter().map(|record| record.ttl).min();
        Ok(Reply { records, ttl, ..Reply::default() })
    }

    /// A name within the domain; without one nothing is browsed.
    fn within(&self, name: &str) -> Result<Name, Failed> {
        let domain = self.domain.clone().unwrap_or_else(Name::root);
        in_domain(name, &domain).map_err(|invalid| Failed::new(ErrorKind::Invalid, invalid.to_string()))
    }
}

/// The name of a type within a domain.
pub(crate) fn in_domain(name: &str, domain: &Name) -> Result<Name, Invalid> {
    let labels = name.split('.').map(str::as_bytes).chain(domain.iter());
    let mut name = Name::from_labels(labels)
        .map_err(|error| Invalid::new(format!("{name} in {domain}"), error.to_string()))?;
    name.set_fqdn(true);
    Ok(name)
}

fn pointed(records: &[Record]) -> impl Iterator<Item = &Name> {
    records.iter().filter_map(|record| match &record.data {
        RData::PTR(name) => Some(&name.0),
        _ => None,
    })
}

/// The plain type that a name begins with, `_http._tcp`; ours is none.
fn plain_type(name: &Name) -> Option<ServiceName> {
    let labels: Vec<String> =
        name.iter().take(2).map(|label| String::from_utf8_lossy(label).into_owned()).collect();
    let service = ServiceName::new(labels.join(".")).ok()?;
    let is_plain = matches!(ServiceType::of(&service), Ok(ServiceType::Plain(_)));
    (is_plain && !service.as_str().eq_ignore_ascii_case(OWN_TYPE)).then_some(service)
}

/// An instance's label, as it is.
fn label(name: &Name) -> String {
    name.iter().next().map(|label| String::from_utf8_lossy(label).into_owned()).unwrap_or_default()
}

/// What is the same of an instance over answers, and begins with its label.
fn key(name: &Name) -> String {
    format!("{}\n{}", label(name), names::plain(&name.base_name()))
}

/// The label of an instance that is listed under `key`.
pub(crate) fn label_of(key: &str) -> String {
    key.rsplit_once('\n').map_or(key, |(label, _)| label).to_owned()
}

fn strings(record: &Record) -> impl Iterator<Item = &[u8]> {
    let data = match &record.data {
        RData::TXT(txt) => Some(txt.txt_data.iter().map(AsRef::as_ref)),
        _ => None,
    };
    data.into_iter().flatten()
}

/// A string of a TXT record; `None` for one that is none (RFC 6763, section 6.4).
pub(crate) fn heard(string: &[u8]) -> Option<Heard<'_>> {
    let (key, value) = match string.iter().position(|byte| *byte == b'=') {
        Some(at) => (&string[..at], Some(&string[at + 1..])),
        None => (string, None),
    };
    let key = std::str::from_utf8(key).ok()?;
    (!key.is_empty()).then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_pairs_switches_or_nothing() {
        assert_eq!(heard(b"a=b=c"), Some(("a", Some(&b"b=c"[..]))));
        assert_eq!(heard(b"a="), Some(("a", Some(&b""[..]))));
        assert_eq!(heard(b"a"), Some(("a", None)));
        for nothing in [&b""[..], b"=b", b"\xff=b"] {
            assert_eq!(heard(nothing), None);
        }
    }

    #[test]
    fn types_and_labels_are_read_from_names() {
        let name = |labels: &[&str]| Name::from_labels(labels.iter().map(|label| label.as_bytes())).unwrap();
        let plain = |labels: &[&str]| plain_type(&name(labels)).map(|service| service.to_string());
        assert_eq!(plain(&["_http", "_tcp", "example", "com"]).as_deref(), Some("_http._tcp"));
        assert_eq!(plain(&["_switchboard", "_tcp", "example", "com"]), None);
        assert_eq!(plain(&["www", "example", "com"]), None);
        let printer = name(&["Größe 2. Stock", "_ipp", "_tcp", "Example"]);
        assert_eq!(key(&printer), "Größe 2. Stock\n_ipp._tcp.example");
        assert_eq!(label_of(&key(&printer)), "Größe 2. Stock");
    }
}
