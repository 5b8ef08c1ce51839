//! What an agent is asked to do with an instance
//! (<https://developer.hashicorp.com/consul/api-docs/agent/service>).

use std::time::Duration;

use reqwest::StatusCode;
use switchboard_core::{Address, Error, ErrorKind, InstanceId, InstanceKey};
use tokio::time::{Instant, timeout};

use crate::BACKEND;
use crate::answer::{Answer, Failure};
use crate::client::{Client, LONGEST_WRITE, Request, segment};
use crate::holder::{Holder, Registered, registered};

pub(crate) const REGISTER: &str = "register";
pub(crate) const DEREGISTER: &str = "deregister";

/// How urgent a registration without a TTL is.
const WITHOUT_TTL: Duration = Duration::from_secs(60);

/// An instance ready to be sent.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) key: InstanceKey,
    /// Where clients are led to.
    pub(crate) address: Address,
    pub(crate) body: Vec<u8>,
    /// The ids of its checks.
    pub(crate) checks: Vec<String>,
    /// The one of them to pass, if there is a TTL.
    pub(crate) ttl_check: Option<String>,
    pub(crate) ttl: Option<Duration>,
}

impl Draft {
    /// How long it lasts unless it is renewed, which without a TTL costs nobody anything.
    pub(crate) fn lasts(&self) -> Duration {
        self.ttl.unwrap_or(WITHOUT_TTL)
    }

    /// The same with a note at its first check, which is news to an agent; `None` without a check.
    pub(crate) fn noted(&self, note: &str) -> Option<Self> {
        let mut body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        body["Checks"].get_mut(0)?["Notes"] = note.into();
        Some(Self { body: serde_json::to_vec(&body).ok()?, ..self.clone() })
    }
}

/// Registers, to be done by `due`. The agent's name in the catalog, if it said so.
pub(crate) async fn put(
    client: &Client,
    agent: usize,
    draft: &Draft,
    due: Instant,
) -> Result<Option<String>, Failure> {
    in_turn(client, agent, due, async {
        let request = Request::put("/v1/agent/service/register").body(draft.body.clone());
        let answer = client.write(REGISTER, agent, request).await?;
        accepted(&answer, REGISTER)?;
        // From here on the agent has it, whatever becomes of the rest.
        finish(client, agent, draft).await.map_err(|failure| Failure { untouched: false, ..failure })
    })
    .await
}

/// Renews what is registered, to be done by `due`; `false` if the agent does not know it.
pub(crate) async fn renew(
    client: &Client,
    agent: usize,
    draft: &Draft,
    due: Instant,
) -> Result<bool, Failure> {
    in_turn(client, agent, due, pass(client, agent, draft)).await
}

/// Does a write when it is its turn with the agent.
async fn in_turn<T>(
    client: &Client,
    agent: usize,
    due: Instant,
    write: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let turn = timeout(LONGEST_WRITE, client.agents[agent].turns.take(due)).await.unwrap_or_else(|_| {
        let message = format!("{} did not get to it within {LONGEST_WRITE:?}", client.agents[agent].name);
        Err(Error::new(ErrorKind::Unavailable, BACKEND, REGISTER, message))
    });
    let turn = turn.map_err(|error| Failure { error, untouched: true, answered: false })?;
    let done = write.await;
    if let Err(Failure { error, answered: false, .. }) = &done {
        turn.unanswered(error);
    }
    done
}

/// Sees to the checks: the agent keeps those of an earlier registration, and the status that a check had.
async fn finish(client: &Client, agent: usize, draft: &Draft) -> Result<Option<String>, Failure> {
    let answer = client.write(REGISTER, agent, health_of(&draft.key)).await?;
    let checks = match serde_json::from_slice::<AgentHealth>(&answer.body) {
        Ok(state) => state.checks.unwrap_or_default(),
        Err(_) if answer.status == StatusCode::NOT_FOUND => return Err(lost()),
        Err(_) => accepted(&answer, REGISTER).map(|()| Vec::new())?,
    };
    // Each write may take long, so one that changes nothing is left out.
    let passes = |id: &String| checks.iter().any(|check| check.id == *id && check.status == "passing");
    let to_pass = draft.ttl_check.as_ref().is_some_and(|id| !passes(id));
    if to_pass && !pass(client, agent, draft).await? {
        return Err(lost());
    }
    let node = checks.first().map(|check| check.node.clone()).filter(|node| !node.is_empty());
    remove_old_checks(client, agent, draft, checks).await?;
    Ok(node)
}

fn lost() -> Failure {
    let message = "the agent lost the registration as soon as it had taken it";
    let error = Error::new(ErrorKind::Unavailable, BACKEND, REGISTER, message);
    Failure { error, untouched: false, answered: true }
}

/// Removes the checks of an earlier registration that this one lacks, which nobody would ever pass again.
///
/// Consul's own `replace-existing-checks` would also end maintenance.
async fn remove_old_checks(
    client: &Client,
    agent: usize,
    draft: &Draft,
    checks: Vec<AgentCheck>,
) -> Result<(), Failure> {
    for check in checks {
        if draft.checks.contains(&check.id) || check.is_maintenance() {
            continue;
        }
        let request = Request::put(format!("/v1/agent/check/deregister/{}", segment(&check.id)));
        let answer = client.write(REGISTER, agent, request).await?;
        if answer.status != StatusCode::NOT_FOUND {
            accepted(&answer, REGISTER)?;
        }
    }
    Ok(())
}

/// Asks an agent what it has under an id, and for its checks. The answer's status says how the instance is, and not how the
/// request went.
pub(crate) fn health_of(key: &InstanceKey) -> Request {
    Request::get(format!("/v1/agent/health/service/id/{}", segment(key.id().as_str())))
}

/// <https://developer.hashicorp.com/consul/api-docs/agent/service#get-local-service-health-by-id>
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AgentHealth {
    pub(crate) service: Option<Registered>,
    pub(crate) checks: Option<Vec<AgentCheck>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct AgentCheck {
    #[serde(rename = "CheckID")]
    pub(crate) id: String,
    #[serde(rename = "Status", default)]
    pub(crate) status: String,
    /// Empty for a check of the node.
    #[serde(rename = "ServiceID", default)]
    pub(crate) service: String,
    #[serde(rename = "Node", default)]
    node: String,
}

impl AgentCheck {
    pub(crate) fn is_critical(&self) -> bool {
        self.status == "critical"
    }

    /// Whether it is what an operator has put the instance into maintenance by.
    pub(crate) fn is_maintenance(&self) -> bool {
        self.id.starts_with("_service_maintenance:")
    }
}

/// Passes the TTL check; `false` if the agent does not know it. Without one there is nothing to pass.
async fn pass(client: &Client, agent: usize, draft: &Draft) -> Result<bool, Failure> {
    let Some(check) = &draft.ttl_check else { return Ok(true) };
    let request = Request::put(format!("/v1/agent/check/pass/{}", segment(check)));
    let answer = client.write(REGISTER, agent, request).await?;
    let unknown = answer.status == StatusCode::NOT_FOUND
        || (answer.status == StatusCode::INTERNAL_SERVER_ERROR
            && ["does not have associated TTL", "Unknown check"]
                .iter()
                .any(|said| answer.said().contains(said)));
    if unknown {
        return Ok(false);
    }
    accepted(&answer, REGISTER)?;
    Ok(true)
}

/// Removes what is registered, if it is at one of these addresses, or wherever it is; gone already is gone, and what another
/// service or program has under this id stays.
pub(crate) async fn remove(
    client: &Client,
    agent: usize,
    key: &InstanceKey,
    at: Option<&[Address]>,
) -> Result<(), Failure> {
    // Before all else: clients still call it.
    in_turn(client, agent, Instant::now(), async {
        match registered(DEREGISTER, client, agent, key).await? {
            Holder::Nothing => return Ok(()),
            Holder::Has(other) if !other.is_of(key) => return Ok(()),
            Holder::Has(other) if at.is_some_and(|own| !own.iter().any(|own| other.is_at(own))) => {
                tracing::info!(instance = %key, theirs = %other, "left to another program, which has registered its id");
                return Ok(());
            }
            Holder::Has(_) | Holder::Unsaid => {}
        }
        let path = format!("/v1/agent/service/deregister/{}", segment(key.id().as_str()));
        let answer = client.write(DEREGISTER, agent, Request::put(path)).await?;
        if answer.status == StatusCode::NOT_FOUND || answer.said().contains("Unknown service") {
            return Ok(());
        }
        accepted(&answer, DEREGISTER)
    })
    .await
}

/// Takes an instance out of use for `Some(reason)`, or back into use
/// (<https://developer.hashicorp.com/consul/api-docs/agent/service#enable-maintenance-mode>).
pub(crate) async fn set_maintenance(
    client: &Client,
    agent: usize,
    id: &InstanceId,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let operation = "set_maintenance";
    let path = format!("/v1/agent/service/maintenance/{}", segment(id.as_str()));
    let mut request = Request::put(path).query("enable", reason.is_some().to_string());
    if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
        request = request.query("reason", reason);
    }
    let answer = client.write(operation, agent, request).await?;
    accepted(&answer, operation)
}

pub(crate) fn accepted(answer: &Answer, operation: &'static str) -> Result<(), Failure> {
    if answer.status == StatusCode::OK {
        return Ok(());
    }
    let untouched = answer.status.is_client_error();
    Err(Failure { error: answer.refusal(operation), untouched, answered: true })
}
