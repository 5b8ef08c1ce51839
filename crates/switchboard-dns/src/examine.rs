//! What each server says to each question: why a name is not found.

use std::net::SocketAddr;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use hickory_resolver::proto::rr::{Name, RecordType};
use switchboard_core::{ErrorKind, Invalid, ServiceName};
use switchboard_dnssd::ServiceType;
use tokio::time::Instant;

use crate::client::{Answer, Failed, in_runtime};
use crate::config::{IpVersion, Records};
use crate::record::{Said, read};
use crate::resolve::Resolver;
use crate::servers::Server;
use crate::{DnsBuilder, names, sd};

/// So many questions at a time.
const AT_A_TIME: usize = 8;

/// What one server said to one question.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Examined {
    /// The server.
    pub server: SocketAddr,
    /// The name that was asked for, absolute.
    pub name: String,
    /// The type of records: `SRV`, `A`, `AAAA`, `PTR`, or `SOA` where only the server is examined.
    pub record: &'static str,
    /// How long the answer took.
    pub took: Duration,
    /// The answer; or why there was none, in the words of the registry's errors.
    pub said: Result<Answered, String>,
}

/// What an answer has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answered {
    /// Records.
    Records {
        /// How many.
        count: usize,
        /// For how long they hold. From a cache, less than what the zone says by as much as they are old.
        ttl: Duration,
    },
    /// The name goes on under another, of which this answer says no more.
    Alias(String),
    /// There is such a name, without such a record (NODATA).
    NoRecord,
    /// There is no such name (NXDOMAIN).
    NoName,
    /// CNAMEs that lead in a circle.
    Circle,
}

/// What there is to ask.
struct Asking<'a> {
    server: &'a Server,
    name: Name,
    kind: RecordType,
}

/// Asks every server for each name that stands for `service`; without one, whether it answers.
pub(crate) async fn examine(
    config: &DnsBuilder,
    domain: Option<&Name>,
    service: Option<&ServiceName>,
) -> Result<Vec<Examined>, Failed> {
    in_runtime()?;
    let resolver = &Resolver::new(config.clone(), domain.cloned());
    let servers = &resolver.client.servers()?;
    let names = match service {
        None => vec![domain.cloned().unwrap_or_else(Name::root)],
        Some(service) => {
            let names = match (config.record, domain) {
                (Records::DnsSd, Some(domain)) => ServiceType::of(service)
                    .and_then(|kind| sd::in_domain(kind.name(), domain))
                    .map(|name| vec![name]),
                _ => names::candidates(service, domain, &servers.search, servers.ndots),
            };
            names.map_err(|invalid: Invalid| Failed::new(ErrorKind::Invalid, invalid.to_string()))?
        }
    };
    let kinds = if service.is_some() { kinds(config) } else { vec![RecordType::SOA] };
    let asking = servers.list.iter().flat_map(|server| {
        let kinds = &kinds;
        names.iter().flat_map(move |name| {
            kinds.iter().map(move |kind| Asking { server, name: name.clone(), kind: *kind })
        })
    });
    let asking: Vec<Asking<'_>> = asking.collect();
    let asked = asking.into_iter().map(|asking| ask(resolver, asking));
    Ok(stream::iter(asked).buffered(AT_A_TIME).collect().await)
}

async fn ask(resolver: &Resolver, asking: Asking<'_>) -> Examined {
    let Asking { server, name, kind } = asking;
    let begun = Instant::now();
    let answer = resolver.client.ask_one(server, &name, kind, resolver.config.tcp).await;
    let said = match answer {
        Ok(Answer::Message(message)) => Ok(answered(read(&message, &name, kind))),
        Ok(Answer::Nothing { exists: true, .. }) => Ok(Answered::NoRecord),
        Ok(Answer::Nothing { exists: false, .. }) => Ok(Answered::NoName),
        Err((_, why)) => Err(why),
    };
    Examined {
        server: server.address,
        name: name.to_ascii(),
        record: kind.into(),
        took: begun.elapsed(),
        said,
    }
}

fn answered(said: Said) -> Answered {
    match said {
        Said::Records(records, ttl) => {
            Answered::Records { count: records.len(), ttl: Duration::from_secs(ttl.into()) }
        }
        Said::Elsewhere(name, _) => Answered::Alias(name.to_ascii()),
        Said::Nothing => Answered::NoRecord,
        Said::Circle(_) => Answered::Circle,
    }
}

/// The types of records that are asked for to find a service.
fn kinds(config: &DnsBuilder) -> Vec<RecordType> {
    let addresses: &[RecordType] = match config.ip {
        IpVersion::V4 => &[RecordType::A],
        IpVersion::V6 => &[RecordType::AAAA],
        IpVersion::Any | IpVersion::Both => &[RecordType::A, RecordType::AAAA],
    };
    match config.record {
        Records::Srv => vec![RecordType::SRV],
        Records::Addresses => addresses.to_vec(),
        Records::DnsSd => vec![RecordType::PTR],
        Records::Auto => [&[RecordType::SRV], addresses].concat(),
    }
}
