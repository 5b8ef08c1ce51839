//! Whether the catalog has what an agent renews.
//!
//! An agent takes renewals for itself. When the servers have lost their state, it finds that out when it next compares with
//! the catalog, once in 1 to 2 minutes, and until then nobody finds the instance. So the one who renews looks.

use std::time::Duration;

use serde::Deserialize;
use switchboard_core::{Error, ErrorKind, InstanceKey, Result};
use tokio::time::{Instant, timeout};

use crate::BACKEND;
use crate::agent_api::{Draft, REGISTER, put};
use crate::client::{Client, Request, segment};

/// A look takes no longer: it is made beside a renewal, and the servers may not answer.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// How often is looked, by the time a registration lasts: a sixth of it, within bounds.
const LOOKS: u32 = 6;
const OFTEN: Duration = Duration::from_secs(2);
const SELDOM: Duration = Duration::from_secs(60);
/// So often in a row is registered anew without a word.
const QUIET: u32 = 2;

/// What is known of one registration in the catalog.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The agent's name in the catalog.
    node: String,
    next_look: Instant,
    /// It has been seen there. Else it may be that the token may not see it.
    seen: bool,
    /// How often in a row it was missing.
    missing: u32,
}

impl Listing {
    /// Of a registration that the agent has just taken.
    pub(crate) fn new(node: String, draft: &Draft) -> Self {
        Self { node, next_look: Instant::now() + pause(draft), seen: false, missing: 0 }
    }

    /// Looks, if it is time; what the catalog has lost is registered anew, with a changed note, as an agent passes nothing on
    /// that it holds to be known (Consul 1.22).
    ///
    /// # Errors
    ///
    /// `Unavailable` if that does not help.
    pub(crate) async fn look(&mut self, client: &Client, agent: usize, draft: &Draft) -> Result<()> {
        if Instant::now() < self.next_look {
            return Ok(());
        }
        self.next_look = Instant::now() + pause(draft);
        let listed = match self.is_listed(client, agent, &draft.key, true).await {
            // Who answers at once may lag behind.
            Some(false) if self.seen => self.is_listed(client, agent, &draft.key, false).await,
            listed => listed,
        };
        if listed == Some(true) {
            (self.seen, self.missing) = (true, 0);
        }
        if listed != Some(false) || !self.seen {
            return Ok(());
        }
        self.missing = self.missing.saturating_add(1);
        tracing::warn!(instance = %draft.key, agent = %client.agents[agent].name, "the catalog has lost it; registering anew");
        let Some(again) = draft.noted(&format!("registered anew, {}", self.missing)) else { return Ok(()) };
        put(client, agent, &again, false, Instant::now()).await.map_err(|failure| failure.error)?;
        if self.missing <= QUIET {
            return Ok(());
        }
        let message =
            "the agent renews it, but the catalog does not have it, and registering anew has not helped";
        Err(Error::new(ErrorKind::Unavailable, BACKEND, REGISTER, message))
    }

    /// Whether the catalog has it; `None` if that cannot be told.
    async fn is_listed(&self, client: &Client, agent: usize, key: &InstanceKey, stale: bool) -> Option<bool> {
        let id = key.id().as_str();
        if id.contains('`') {
            return None;
        }
        let mut request = Request::get(format!("/v1/catalog/node-services/{}", segment(&self.node)))
            .query("filter", format!("ID == `{id}`"));
        if stale {
            request = request.query("stale", "");
        }
        let answer = timeout(LOOK_WITHIN, client.send(REGISTER, agent, &request)).await.ok()?.ok()?;
        let answer = answer.success(REGISTER).ok().filter(|answer| !answer.filtered)?;
        let listed: Listed = serde_json::from_slice(&answer.body).ok()?;
        Some(!listed.services.unwrap_or_default().is_empty())
    }
}

fn pause(draft: &Draft) -> Duration {
    (draft.lasts() / LOOKS).clamp(OFTEN, SELDOM)
}

/// <https://developer.hashicorp.com/consul/api-docs/catalog#list-services-for-node>
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(default)]
    services: Option<Vec<serde::de::IgnoredAny>>,
}
