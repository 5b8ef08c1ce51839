//! etcd: members, leader, clock, user, rights, alarms.

use std::time::Duration;

use switchboard::etcd::{EtcdBuilder, EtcdRegistry};
use switchboard::{Error, ErrorKind, RegistryUrl, ServiceName};

use super::Finding;
use super::agent::{Names, client, clock, env};
use crate::failure::chain;

/// Where etcd's own command finds its certificates.
const NAMES: Names = Names {
    backend: "etcd",
    ca_cert: "ETCDCTL_CACERT",
    client_cert: "ETCDCTL_CERT",
    client_key: "ETCDCTL_KEY",
    verify: None,
};

pub(crate) async fn examine(
    url: &RegistryUrl,
    service: Option<&ServiceName>,
    limit: Duration,
) -> Vec<Finding> {
    let builder = match EtcdBuilder::from_url(url) {
        Ok(builder) => builder.timeout(limit),
        Err(invalid) => return vec![Finding::problem("member", invalid.to_string(), "write the URL anew")],
    };
    let registry = match builder.open() {
        Ok(registry) => registry,
        Err(error) => return vec![Finding::problem("member", chain(&error), "see the files that are named")],
    };
    let mut findings = Vec::new();
    if members(&registry, &mut findings).await {
        findings.extend(clocks(url, &registry, limit).await);
        alarms(&registry, &mut findings).await;
        rights(&registry, service, has_user(url), &mut findings).await;
    }
    findings
}

fn has_user(url: &RegistryUrl) -> bool {
    let given = url.params("etcd").take::<String>("user");
    given.ok().flatten().or_else(|| env("ETCDCTL_USER")).is_some()
}

/// Whether one answers and knows of a leader.
async fn members(registry: &EtcdRegistry, findings: &mut Vec<Finding>) -> bool {
    let answers = registry.members().await;
    let some_answer = answers.iter().any(|(_, answer)| answer.is_ok());
    let mut leader = None;
    for (endpoint, answer) in answers {
        match answer {
            Ok(status) => {
                let (version, kilobytes) = (status.version, status.db_size / 1000);
                findings.push(Finding::ok(
                    "member",
                    format!("{endpoint} answers: etcd {version}, a database of {kilobytes} kB"),
                ));
                leader = leader.or(status.leader);
            }
            Err(error) => findings.push(unanswered(&endpoint, &error, some_answer)),
        }
    }
    match (some_answer, leader) {
        (false, _) => return false,
        (true, Some(leader)) => findings.push(Finding::ok("leader", format!("the leader is {leader}"))),
        (true, None) => findings.push(Finding::problem(
            "leader",
            "no member knows of a leader; nothing can be read or written",
            "see that a majority of the members is up and reaches each other: etcdctl endpoint status --cluster",
        )),
    }
    !findings.iter().any(Finding::is_problem)
}

fn unanswered(endpoint: &str, error: &Error, others_answer: bool) -> Finding {
    let said = chain(error);
    let lower = said.to_lowercase();
    let (check, advice) = if error.kind() == ErrorKind::PermissionDenied {
        let advice = "give the user by ETCDCTL_USER=NAME:PASSWORD, or by ?user=NAME&password=…";
        return Finding::problem("user", format!("{endpoint}: {said}"), advice);
    } else if lower.contains("no leader") {
        (
            "leader",
            "see that a majority of the members is up and reaches each other: etcdctl endpoint status --cluster",
        )
    } else if lower.contains("certificate") {
        (
            "tls",
            "give the authority that signed it by ca_cert, or a client's certificate by client_cert and client_key",
        )
    } else if lower.contains("corrupt message") || lower.contains("broken pipe") {
        ("tls", "one side speaks TLS and the other does not: write or leave out ?tls")
    } else {
        (
            "member",
            "see that etcd runs there and a firewall lets its port through, or name others: --registry etcd://HOST:PORT",
        )
    };
    let finding = format!("{endpoint}: {said}");
    if others_answer {
        Finding::warning(check, finding, advice)
    } else {
        Finding::problem(check, finding, advice)
    }
}

/// The clocks of those who answer to HTTP as well, as members do.
async fn clocks(url: &RegistryUrl, registry: &EtcdRegistry, limit: Duration) -> Option<Finding> {
    let mut params = url.params("etcd");
    let client = client(&mut params, limit, &NAMES).ok()?;
    let mut found = None;
    for endpoint in registry.endpoints() {
        let Ok(answer) = client.get(format!("{endpoint}/version")).send().await else { continue };
        let finding = clock(&answer, &endpoint);
        if finding.as_ref().is_some_and(|finding| !finding.is_ok()) {
            return finding;
        }
        found = found.or(finding);
    }
    found
}

async fn alarms(registry: &EtcdRegistry, findings: &mut Vec<Finding>) {
    match registry.alarms().await {
        Ok(alarms) if alarms.is_empty() => findings.push(Finding::ok("alarms", "there are none")),
        Ok(alarms) => {
            for (member, alarm) in alarms {
                let advice = if alarm == "NOSPACE" {
                    "make room (etcdctl compact, etcdctl defrag), then: etcdctl alarm disarm"
                } else {
                    "see etcd's documentation on data corruption before anything is written again"
                };
                let finding = format!("{alarm} at {member}: etcd takes no writes, and no registration");
                findings.push(Finding::problem("alarms", finding, advice));
            }
        }
        Err(error) => findings.push(Finding::warning(
            "alarms",
            format!("etcd does not tell them: {}", chain(&error)),
            "ask as root: etcdctl alarm list",
        )),
    }
}

/// What the user may do; asked for, nothing is written.
async fn rights(
    registry: &EtcdRegistry,
    service: Option<&ServiceName>,
    has_user: bool,
    findings: &mut Vec<Finding>,
) {
    let what = service.map_or("all services".into(), |service| format!("service {:?}", service.as_str()));
    if let Err(error) = registry.may_read(service).await {
        let advice = "grant a role of the user read on exactly this prefix: etcdctl role grant-permission --prefix=true ROLE read PREFIX/";
        findings.push(Finding::problem(
            "rights",
            format!("{what} cannot be read: {}", chain(&error)),
            advice,
        ));
        return;
    }
    let user = if has_user {
        "etcd takes the user, or asks for none"
    } else {
        "no user is given, and none is asked for"
    };
    findings.push(Finding::ok("user", user));
    let Some(sample) = service.cloned().or_else(|| ServiceName::new("switchboard-doctor").ok()) else {
        return;
    };
    findings.push(match registry.may_register(&sample).await {
        Ok(()) => Finding::ok("rights", format!("{what} can be found and registered")),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Finding::warning(
            "rights",
            format!("{what} can be found, not registered"),
            "a server needs readwrite: etcdctl role grant-permission --prefix=true ROLE readwrite PREFIX/",
        ),
        Err(error) => Finding::problem("rights", format!("{what}: {}", chain(&error)), "see etcd's log"),
    });
}
