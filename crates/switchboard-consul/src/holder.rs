//! Who has an id with an agent.
//!
//! An agent keeps the registration of an id that came last, whoever made it, and takes renewals of its check from anybody. So
//! who renews looks whether what is there is its own: renewing another's would keep that one listed when it is long dead.
//! A program that lives renews what it registered. So who registered last has the id for as long as it renews, and the
//! others take it when that has lapsed: they do not take it from each other in turns, however many they are.

use std::fmt;

use reqwest::StatusCode;
use serde::Deserialize;
use switchboard_core::{Address, Error, ErrorKind, InstanceKey, Invalid};

use crate::BACKEND;
use crate::agent_api::{AgentCheck, AgentHealth, Draft, REGISTER, accepted, health_of};
use crate::answer::Failure;
use crate::check::ttl_check_id;
use crate::client::{Client, Request, segment};
use crate::entry::address;
use crate::notice;

/// What is registered under an id, as agents and the catalog put it
/// (<https://developer.hashicorp.com/consul/api-docs/agent/service#get-service-configuration>).
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Registered {
    service: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
}

impl Registered {
    /// Whether this is what `draft` registers. Tags, Meta and weights may be an operator's; they lead to the same server.
    pub(crate) fn is(&self, draft: &Draft) -> bool {
        self.is_of(&draft.key) && self.is_at(&draft.address)
    }

    pub(crate) fn is_of(&self, key: &InstanceKey) -> bool {
        self.service.eq_ignore_ascii_case(key.service().as_str())
    }

    pub(crate) fn is_at(&self, own: &Address) -> bool {
        // Without an address it is at that of its node, which is not said here.
        if self.address.is_empty() {
            return self.port == i64::from(own.port());
        }
        address(&self.address, self.port).is_ok_and(|found| found == *own)
    }
}

/// Where it is.
impl fmt::Display for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address: host, port, .. } = self;
        match address(host, *port) {
            Ok(address) => address.fmt(f),
            Err(_) => write!(f, "{host:?}, port {port}"),
        }
    }
}

/// Whether an instance may be renewed with an agent.
#[derive(Debug, PartialEq)]
pub(crate) enum Claim {
    /// The agent has it, or does not say what it has.
    Own,
    /// The agent has nothing of this id.
    Free,
    /// Another one, which has lapsed, or which nobody renews.
    Lapsed(Registered),
    /// Another one.
    Taken(Registered),
}

impl Claim {
    fn of(draft: &Draft, found: AgentHealth) -> Self {
        let Some(registered) = found.service else { return Self::Own };
        if registered.is(draft) {
            return Self::Own;
        }
        let id = ttl_check_id(draft.key.id());
        let is_its = |check: &&AgentCheck| !check.service.is_empty() && !check.is_maintenance();
        let mut checks = found.checks.iter().flatten().filter(is_its);
        let lapsed = match checks.clone().find(|check| check.id == id) {
            Some(ttl) => ttl.is_critical(),
            // Of two without any check nobody knows who lives.
            None if checks.clone().next().is_none() => draft.ttl.is_some(),
            // Others name theirs otherwise, and may have several.
            None => checks.all(AgentCheck::is_critical),
        };
        // Other services' ids are not taken in any case.
        if lapsed && registered.is_of(&draft.key) {
            Self::Lapsed(registered)
        } else {
            Self::Taken(registered)
        }
    }
}

/// Asks the agent.
pub(crate) async fn claim(client: &Client, agent: usize, draft: &Draft) -> Result<Claim, Failure> {
    let answer = client.send(REGISTER, agent, &health_of(&draft.key)).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(Claim::Free);
    }
    match serde_json::from_slice(&answer.body) {
        Ok(found) => Ok(Claim::of(draft, found)),
        Err(_) => accepted(&answer, REGISTER).map(|()| Claim::Own),
    }
}

/// The same for a token that may not ask: the log tells that once, and what there is counts as its own.
pub(crate) async fn ask(client: &Client, agent: usize, draft: &Draft) -> Result<Claim, Failure> {
    match claim(client, agent, draft).await {
        Err(failure) if failure.error.kind() == ErrorKind::PermissionDenied => {
            notice::unseen(&draft.key, &failure.error);
            Ok(Claim::Own)
        }
        done => done,
    }
}

/// Refuses an id that another service has with this agent: registering would put this instance into its place.
pub(crate) async fn refuse_taken(client: &Client, agent: usize, draft: &Draft) -> Result<(), Failure> {
    match registered(REGISTER, client, agent, &draft.key).await? {
        Holder::Has(other) if !other.is_of(&draft.key) => Err(taken(draft, &other)),
        _ => Ok(()),
    }
}

/// The refusal of an id that another one has.
pub(crate) fn taken(draft: &Draft, other: &Registered) -> Failure {
    let why = if other.is_of(&draft.key) {
        format!(
            "is that of another program, which has registered it at {other} and has not lapsed, and not of this one at {}; \
             each needs an id of its own",
            draft.address
        )
    } else {
        format!(
            "is that of an instance of {:?} there; to a Consul agent ids are one over all services",
            other.service
        )
    };
    let error =
        Error::invalid(BACKEND, REGISTER, &Invalid::quoting("instance id", draft.key.id().as_str(), why));
    Failure { error, untouched: true, answered: true }
}

/// What an agent has under an id.
pub(crate) enum Holder {
    Nothing,
    Has(Registered),
    /// The agent does not say.
    Unsaid,
}

pub(crate) async fn registered(
    operation: &'static str,
    client: &Client,
    agent: usize,
    key: &InstanceKey,
) -> Result<Holder, Failure> {
    let request = Request::get(format!("/v1/agent/service/{}", segment(key.id().as_str())));
    let answer = client.write(operation, agent, request).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(Holder::Nothing);
    }
    let found = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status == StatusCode::OK);
    Ok(found.map_or(Holder::Unsaid, Holder::Has))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use switchboard_core::Instance;

    use super::*;

    fn draft(ttl: Option<u64>) -> Draft {
        let instance = Instance::builder("web").id("1").address("10.0.0.1:80").build().unwrap();
        Draft {
            key: instance.key(),
            address: instance.address().clone(),
            body: Vec::new(),
            checks: Vec::new(),
            ttl_check: None,
            ttl: ttl.map(Duration::from_secs),
        }
    }

    fn claim(draft: &Draft, service: &str, address: &str, port: u16, check: Option<&str>) -> Claim {
        let check = check
            .map(|status| serde_json::json!({ "CheckID": "service:1", "ServiceID": "1", "Status": status }));
        let other = serde_json::json!({ "CheckID": "mem", "Status": "critical" });
        let checks: Vec<_> = check.into_iter().chain([other]).collect();
        let service = serde_json::json!({ "ID": "1", "Service": service, "Address": address, "Port": port });
        let found =
            serde_json::json!({ "AggregatedStatus": "critical", "Service": service, "Checks": checks });
        Claim::of(draft, serde_json::from_value(found).unwrap())
    }

    #[test]
    fn what_leads_to_the_same_server_is_its_own() {
        for status in [None, Some("passing"), Some("critical")] {
            assert_eq!(claim(&draft(Some(90)), "web", "10.0.0.1", 80, status), Claim::Own);
            assert_eq!(claim(&draft(Some(90)), "Web", "", 80, status), Claim::Own);
        }
        let nothing_said = serde_json::from_str(r#"{"Checks":null}"#).unwrap();
        assert_eq!(Claim::of(&draft(None), nothing_said), Claim::Own);
    }

    #[test]
    fn another_address_is_anothers_until_it_has_lapsed() {
        for (address, port, said) in [
            ("10.0.0.2", 80, "10.0.0.2:80"),
            ("10.0.0.1", 81, "10.0.0.1:81"),
            ("::1", 80, "[::1]:80"),
            ("", 81, "\"\", port 81"),
            ("10.0.0.1", 0, "\"10.0.0.1\", port 0"),
        ] {
            let of = |status, ttl| claim(&draft(ttl), "web", address, port, status);
            for status in ["passing", "warning"] {
                for ttl in [None, Some(90)] {
                    let Claim::Taken(other) = of(Some(status), ttl) else { panic!("{status} {ttl:?}") };
                    assert_eq!(other.to_string(), said);
                }
            }
            for ttl in [None, Some(90)] {
                assert!(matches!(of(Some("critical"), ttl), Claim::Lapsed(_)));
            }
            // Who has a TTL lives, and of the other one nobody knows.
            assert!(matches!(of(None, Some(90)), Claim::Lapsed(_)));
            assert!(matches!(of(None, None), Claim::Taken(_)));
        }
    }

    #[test]
    fn who_names_its_checks_otherwise_lives_as_long_as_one_of_them_passes() {
        let claim = |checks: &[(&str, &str)]| {
            let check = |(id, status): &(&str, &str)| serde_json::json!({ "CheckID": id, "ServiceID": "1", "Status": status });
            let checks: Vec<_> = checks.iter().map(check).collect();
            let service =
                serde_json::json!({ "ID": "1", "Service": "web", "Address": "10.0.0.2", "Port": 80 });
            let found = serde_json::json!({ "Service": service, "Checks": checks });
            Claim::of(&draft(Some(90)), serde_json::from_value(found).unwrap())
        };
        let maintenance = ("_service_maintenance:1", "critical");
        for live in [("service:1:1", "passing"), ("lib:1", "warning")] {
            assert!(matches!(claim(&[live]), Claim::Taken(_)), "{live:?}");
            assert!(
                matches!(claim(&[("service:1:2", "critical"), live, maintenance]), Claim::Taken(_)),
                "{live:?}"
            );
        }
        assert!(matches!(claim(&[("service:1:1", "critical"), ("lib:1", "critical")]), Claim::Lapsed(_)));
        assert!(matches!(claim(&[maintenance]), Claim::Lapsed(_)), "as without a check");
    }

    #[test]
    fn another_services_id_is_never_taken() {
        let draft = draft(Some(90));
        for status in [None, Some("passing"), Some("critical")] {
            assert!(matches!(claim(&draft, "other", "10.0.0.1", 80, status), Claim::Taken(_)));
        }
    }
}
