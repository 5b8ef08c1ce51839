//! DNS: which servers are asked, what each says of each name that stands for a service, and for how long it holds.

use std::net::SocketAddr;
use std::time::Duration;

use switchboard::dns::{Answered, DnsRegistry, Examined};
use switchboard::{RegistryUrl, ServiceName};

use super::Finding;
use crate::failure::{Failure, chain};

/// Longer than this most would not wait for an answer.
const SLOW: Duration = Duration::from_millis(500);

pub(crate) async fn examine(
    url: &RegistryUrl,
    service: Option<&ServiceName>,
) -> Result<Vec<Finding>, Failure> {
    let registry = DnsRegistry::from_url(url)?;
    let examined = match registry.examine(service).await {
        Ok(examined) => examined,
        Err(error) => {
            let advice = "name servers in the URL, as dns://10.0.0.2, or see that the system has some";
            return Ok(vec![Finding::problem("servers", chain(&error), advice)]);
        }
    };
    let mut findings = Vec::new();
    let mut servers: Vec<SocketAddr> = examined.iter().map(|one| one.server).collect();
    servers.dedup();
    let (mut answer, mut found) = (false, false);
    for server in &servers {
        let of_server: Vec<&Examined> = examined.iter().filter(|one| one.server == *server).collect();
        // One that gives no answer gives none to each question: that is said once.
        if let Some(finding) = silent(*server, &of_server) {
            findings.push(finding);
            continue;
        }
        answer = true;
        findings.push(answers(*server, &of_server));
        if service.is_none() {
            continue;
        }
        let has_some = of_server.iter().any(|one| matches!(one.said, Ok(Answered::Records { .. })));
        for one in of_server {
            let (finding, is_found) = record(one, has_some);
            found |= is_found;
            findings.push(finding);
        }
    }
    if !answer {
        for finding in &mut findings {
            finding.status = super::Status::Problem;
        }
    } else if let Some(service) = service.filter(|_| !found) {
        findings.push(not_found(url, service, &examined));
    }
    Ok(findings)
}

/// That a server gave no answer at all, if so; another may.
fn silent(server: SocketAddr, examined: &[&Examined]) -> Option<Finding> {
    let mut why = examined.iter().map(|one| one.said.as_ref().err());
    let first = why.next()??;
    if !why.all(|why| why.is_some()) {
        return None;
    }
    let advice = if first.contains("REFUSED") {
        "it serves neither this domain nor this machine: ask another, or let it (allow-query, access-control)"
    } else if first.contains("SERVFAIL") {
        "it could not find out itself: see its log, and that it reaches the servers of the zone"
    } else if first.contains("resolves no names itself") {
        "ask a resolver instead, or the servers of the zone itself"
    } else {
        "see that a name server listens there, and that a firewall lets UDP and TCP to this port through"
    };
    Some(Finding::warning("server", format!("{server} {first}"), advice))
}

fn answers(server: SocketAddr, examined: &[&Examined]) -> Finding {
    let slowest = examined.iter().map(|one| one.took).max().unwrap_or_default();
    let finding = format!("{server} answers within {} ms", slowest.as_millis().max(1));
    if slowest < SLOW {
        return Finding::ok("server", finding);
    }
    Finding::warning("server", finding, "put a nearer server first, or a cache on this machine")
}

/// What a server said of one name, which may have records of another type, and whether that is somebody.
fn record(examined: &Examined, has_some: bool) -> (Finding, bool) {
    let Examined { server, name, record, said, .. } = examined;
    let what = format!("{server}: {record} {name}");
    match said {
        Ok(Answered::Records { count, ttl }) => {
            let records = if *count == 1 { "record" } else { "records" };
            let holds = if ttl.is_zero() {
                "to be asked for again at once".to_owned()
            } else {
                format!("valid for another {}", humantime::format_duration(*ttl))
            };
            (Finding::ok("records", format!("{what}: {count} {records}, {holds}")), true)
        }
        Ok(Answered::Alias(target)) => {
            (Finding::ok("records", format!("{what}: an alias of {target}, which is asked for next")), true)
        }
        Ok(Answered::NoRecord) => {
            (Finding::ok("records", format!("{what}: the name is there, without such a record")), false)
        }
        Ok(Answered::NoName) => (Finding::ok("records", format!("{what}: there is no such name")), false),
        Ok(Answered::Circle) => (
            Finding::problem(
                "records",
                format!("{what}: its CNAMEs lead in a circle"),
                "mend them in the zone",
            ),
            false,
        ),
        Err(why) if has_some => {
            (Finding::ok("records", format!("{what}: it {why}; the others are enough")), false)
        }
        Err(why) => {
            let advice =
                "some servers refuse what they do not know: say what there is by record=a or record=srv";
            (Finding::warning("records", format!("{what}: it {why}"), advice), false)
        }
        Ok(_) => (Finding::ok("records", what), false),
    }
}

/// Why nobody is found.
fn not_found(url: &RegistryUrl, service: &ServiceName, examined: &[Examined]) -> Finding {
    let mut names: Vec<&str> = examined.iter().map(|one| one.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let has_name = examined.iter().any(|one| matches!(one.said, Ok(Answered::NoRecord)));
    let has_domain = url.params("dns").take::<String>("domain").ok().flatten().is_some();
    let advice = if has_name {
        "the name exists, so it is the type of records that is wrong: see record= and ip=, and give port= for addresses"
    } else if has_domain {
        "see that the service is in the zone, and how it is written there: dig SRV NAME @SERVER"
    } else {
        "give the domain it is in: dns:?domain=service.consul, my-namespace.svc.cluster.local or the like"
    };
    Finding::warning("name", format!("{service} is not found as {}", names.join(", ")), advice)
}
