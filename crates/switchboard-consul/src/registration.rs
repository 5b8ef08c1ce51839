//! What this handle has registered, with which agent, and how that is kept true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use switchboard_core::{Error, ErrorKind, InstanceId, InstanceKey, Invalid, Result};
use tokio::time::{Instant, timeout};

use crate::BACKEND;
use crate::client::{Answer, Client, Failure, Request, segment};

const REGISTER: &str = "register";
const DEREGISTER: &str = "deregister";
/// How long a renewal is held up by an agent that the instance has left.
const SWEEP_LIMIT: Duration = Duration::from_secs(2);

/// An instance ready to be sent.
pub(crate) struct Draft {
    pub(crate) key: InstanceKey,
    pub(crate) body: Vec<u8>,
    /// The ids of its checks.
    pub(crate) checks: Vec<String>,
    /// The one of them to pass, if there is a TTL.
    pub(crate) ttl_check: Option<String>,
}

/// Everything registered through this handle.
#[derive(Debug, Default)]
pub(crate) struct Registrations {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// By id in lower case: to Consul ids that differ in case only are one.
    slots: BTreeMap<String, (InstanceKey, Arc<Slot>)>,
}

/// One instance. Calls about it take turns.
type Slot = tokio::sync::Mutex<Held>;

#[derive(Debug, Default)]
struct Held {
    /// The agent it is registered with, and what that agent was told.
    at: Option<(usize, Vec<u8>)>,
    /// Since when that agent has not answered.
    away_since: Option<Instant>,
    /// Other agents that may have it, to be rid of it when they are back.
    strays: BTreeSet<usize>,
    /// Deregistered: whoever waited for its turn must begin anew.
    gone: bool,
}

impl Registrations {
    pub(crate) async fn register(&self, client: &Client, draft: &Draft, move_after: Duration) -> Result<()> {
        loop {
            let slot = self.slot(&draft.key)?;
            let mut held = slot.lock().await;
            if held.gone {
                continue;
            }
            let result = held.register(client, draft, move_after).await;
            if held.at.is_some() && !held.strays.is_empty() {
                held.sweep(client, &draft.key).await;
            }
            if held.is_nowhere() {
                held.gone = true;
                self.forget(&draft.key);
            }
            return result;
        }
    }

    pub(crate) async fn deregister(&self, client: &Client, key: &InstanceKey) -> Result<()> {
        let slot = self.known(key);
        let Some(slot) = slot else {
            return deregister_foreign(client, key).await;
        };
        let mut held = slot.lock().await;
        if held.gone {
            return Ok(());
        }
        held.deregister(client, key).await?;
        held.gone = true;
        self.forget(key);
        Ok(())
    }

    /// Refuses what comes from now on; what there was, if this is the first call.
    pub(crate) fn close(&self) -> Option<Vec<InstanceKey>> {
        let mut state = self.lock();
        (!std::mem::replace(&mut state.closed, true))
            .then(|| state.slots.values().map(|(key, _)| key.clone()).collect())
    }

    /// Whether there is anything to deregister.
    pub(crate) fn has_any(&self) -> bool {
        let state = self.lock();
        !state.closed && !state.slots.is_empty()
    }

    fn slot(&self, key: &InstanceKey) -> Result<Arc<Slot>> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::closed(BACKEND, REGISTER));
        }
        let (holder, slot) =
            state.slots.entry(folded(key.id())).or_insert_with(|| (key.clone(), Arc::default()));
        if holder == key {
            return Ok(slot.clone());
        }
        let why =
            format!("is that of {holder} here; to a Consul agent ids are one over all services, in any case");
        Err(Error::invalid(BACKEND, REGISTER, &Invalid::quoting("instance id", key.id().as_str(), why)))
    }

    fn known(&self, key: &InstanceKey) -> Option<Arc<Slot>> {
        let state = self.lock();
        let (holder, slot) = state.slots.get(&folded(key.id()))?;
        (holder == key).then(|| slot.clone())
    }

    fn forget(&self, key: &InstanceKey) {
        self.lock().slots.remove(&folded(key.id()));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it, and the map is whole even if something did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn folded(id: &InstanceId) -> String {
    id.as_str().to_lowercase()
}

impl Held {
    fn is_nowhere(&self) -> bool {
        self.at.is_none() && self.strays.is_empty()
    }

    async fn register(&mut self, client: &Client, draft: &Draft, move_after: Duration) -> Result<()> {
        if let Some((agent, body)) = self.at.take() {
            let same = body == draft.body;
            let (body, result) = match put(client, agent, draft, same).await {
                Ok(()) => (draft.body.clone(), Ok(())),
                // Whether the agent took what is new is unknown, so the next call must send it in full.
                Err(failure) => (if same { body } else { Vec::new() }, Err(failure)),
            };
            self.at = Some((agent, body));
            let failure = match result {
                Ok(()) => {
                    self.away_since = None;
                    return Ok(());
                }
                Err(failure) => failure,
            };
            if failure.answered {
                self.away_since = None;
                return Err(failure.error);
            }
            let since = *self.away_since.get_or_insert_with(Instant::now);
            if client.agents.len() == 1 || since.elapsed() < move_after {
                return Err(failure.error);
            }
            tracing::warn!(instance = %draft.key, agent = %client.agents[agent].name, "its agent stays away; moving");
            self.strays.insert(agent);
            self.at = None;
        }
        self.away_since = None;
        self.register_anywhere(client, draft).await
    }

    /// With the first agent that takes it, those it has left last.
    async fn register_anywhere(&mut self, client: &Client, draft: &Draft) -> Result<()> {
        let (left, fresh): (Vec<usize>, Vec<usize>) =
            (0..client.agents.len()).partition(|agent| self.strays.contains(agent));
        let mut result = None;
        for agent in fresh.into_iter().chain(left) {
            match put(client, agent, draft, false).await {
                Ok(()) => {
                    self.strays.remove(&agent);
                    self.at = Some((agent, draft.body.clone()));
                    return Ok(());
                }
                Err(failure) => {
                    if !failure.unheard && !failure.answered {
                        self.strays.insert(agent);
                    }
                    let settled = !failure.error.is_transient();
                    result = Some(failure.error);
                    if settled {
                        break;
                    }
                }
            }
        }
        Err(result
            .unwrap_or_else(|| Error::new(ErrorKind::Unavailable, BACKEND, REGISTER, "there is no agent")))
    }

    /// Removes it from the agents it has left, as far as they answer.
    async fn sweep(&mut self, client: &Client, key: &InstanceKey) {
        for agent in self.strays.clone() {
            let removed = timeout(SWEEP_LIMIT, remove(client, agent, key.id())).await;
            if let Ok(Ok(())) = removed {
                self.strays.remove(&agent);
            }
        }
    }

    async fn deregister(&mut self, client: &Client, key: &InstanceKey) -> Result<()> {
        if let Some((agent, _)) = &self.at {
            remove(client, *agent, key.id()).await.map_err(|failure| failure.error)?;
            self.at = None;
        }
        for agent in self.strays.clone() {
            remove(client, agent, key.id()).await.map_err(|failure| failure.error)?;
            self.strays.remove(&agent);
        }
        Ok(())
    }
}

/// Registers, or only renews if the agent was told the `same` before.
async fn put(client: &Client, agent: usize, draft: &Draft, same: bool) -> Result<(), Failure> {
    if same && renew(client, agent, draft).await? {
        return Ok(());
    }
    let request = Request::put("/v1/agent/service/register").body(draft.body.clone());
    let answer = client.send(REGISTER, agent, &request).await?;
    accepted(&answer, REGISTER)?;
    // The agent keeps the status a check had, which may be critical.
    if draft.ttl_check.is_some() && !renew(client, agent, draft).await? {
        let message = "the agent lost the registration as soon as it had taken it";
        let error = Error::new(ErrorKind::Unavailable, BACKEND, REGISTER, message);
        return Err(Failure { error, unheard: false, answered: true });
    }
    remove_old_checks(client, agent, draft).await
}

/// Removes the checks of an earlier registration that this one lacks, which nobody would ever pass again.
///
/// Consul's own `replace-existing-checks` would also end maintenance.
async fn remove_old_checks(client: &Client, agent: usize, draft: &Draft) -> Result<(), Failure> {
    let id = segment(draft.key.id().as_str());
    // Its status says how the instance is, and not how the request went.
    let answer =
        client.send(REGISTER, agent, &Request::get(format!("/v1/agent/health/service/id/{id}"))).await?;
    let Ok(state) = serde_json::from_slice::<AgentHealth>(&answer.body) else {
        return accepted(&answer, REGISTER);
    };
    for check in state.checks.unwrap_or_default() {
        if draft.checks.contains(&check.id) || check.id.starts_with("_service_maintenance:") {
            continue;
        }
        let request = Request::put(format!("/v1/agent/check/deregister/{}", segment(&check.id)));
        let answer = client.send(REGISTER, agent, &request).await?;
        if answer.status != StatusCode::NOT_FOUND {
            accepted(&answer, REGISTER)?;
        }
    }
    Ok(())
}

/// <https://developer.hashicorp.com/consul/api-docs/agent/service#get-local-service-health-by-id>
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AgentHealth {
    checks: Option<Vec<AgentCheck>>,
}

#[derive(serde::Deserialize)]
struct AgentCheck {
    #[serde(rename = "CheckID")]
    id: String,
}

/// Passes the TTL check, or looks whether the instance is there; `false` if the agent does not know it.
async fn renew(client: &Client, agent: usize, draft: &Draft) -> Result<bool, Failure> {
    let request = match &draft.ttl_check {
        Some(check) => Request::put(format!("/v1/agent/check/pass/{}", segment(check))),
        None => Request::get(format!("/v1/agent/service/{}", segment(draft.key.id().as_str()))),
    };
    let answer = client.send(REGISTER, agent, &request).await?;
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

/// Removes what this handle registered; gone already is gone.
async fn remove(client: &Client, agent: usize, id: &InstanceId) -> Result<(), Failure> {
    let request = Request::put(format!("/v1/agent/service/deregister/{}", segment(id.as_str())));
    let answer = client.send(DEREGISTER, agent, &request).await?;
    if answer.status == StatusCode::NOT_FOUND || answer.said().contains("Unknown service") {
        return Ok(());
    }
    accepted(&answer, DEREGISTER)
}

/// Removes what another program registered, wherever it is, but nothing that only has the same id.
async fn deregister_foreign(client: &Client, key: &InstanceKey) -> Result<()> {
    let request = Request::get(format!("/v1/agent/service/{}", segment(key.id().as_str())));
    for agent in 0..client.agents.len() {
        let answer = client.send(DEREGISTER, agent, &request).await.map_err(|failure| failure.error)?;
        if answer.status == StatusCode::NOT_FOUND {
            continue;
        }
        let answer = answer.success(DEREGISTER)?;
        let service: serde_json::Value =
            serde_json::from_slice(&answer.body).map_err(|error| answer.malformed(DEREGISTER, error))?;
        if service["Service"].as_str() == Some(key.service().as_str()) {
            remove(client, agent, key.id()).await.map_err(|failure| failure.error)?;
        }
    }
    Ok(())
}

fn accepted(answer: &Answer, operation: &'static str) -> Result<(), Failure> {
    if answer.status == StatusCode::OK {
        return Ok(());
    }
    Err(Failure { error: answer.refusal(operation), unheard: false, answered: true })
}
