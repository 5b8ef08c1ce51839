//! Whether the catalog has what an agent renews.
//!
//! An agent takes renewals for itself. When the servers have lost their state, it finds that out when it next compares with
//! the catalog, once in 1 to 2 minutes, and until then nobody finds the instance. And it takes them for whatever is
//! registered under the id. So the one who renews looks.

use std::time::Duration;

use serde::Deserialize;
use switchboard_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, timeout};

use crate::BACKEND;
use crate::agent_api::{Draft, REGISTER, put};
use crate::client::{Client, Request, segment};
use crate::holder::{Claim, Registered, ask};

/// A look takes no longer: it is made before a renewal, and the servers may not answer.
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
    /// It was missing at the last look.
    is_missing: bool,
    /// How often in a row it was missing.
    missing: u32,
}

impl Listing {
    /// Of a registration that the agent has just taken.
    pub(crate) fn new(node: String, draft: &Draft) -> Self {
        Self { node, next_look: Instant::now() + pause(draft), seen: false, is_missing: false, missing: 0 }
    }

    /// Looks, if it is time, whether what is about to be renewed is still this instance.
    pub(crate) async fn look(&mut self, client: &Client, agent: usize, draft: &Draft) -> Claim {
        self.is_missing = false;
        if Instant::now() < self.next_look {
            return Claim::Own;
        }
        self.next_look = Instant::now() + pause(draft);
        let listed = self.listed(client, agent, draft, true).await;
        if listed.is_some_and(|listed| listed != Listed::Missing) {
            (self.seen, self.missing) = (true, 0);
        }
        self.is_missing = listed == Some(Listed::Missing);
        // The agent itself knows what the catalog will have. Who may not see the catalog may ask the agent.
        if listed == Some(Listed::Another) || !self.seen {
            // If that cannot be found out in time, the instance is renewed.
            let asked = timeout(within(draft), ask(client, agent, draft)).await;
            asked.ok().and_then(Result::ok).unwrap_or(Claim::Own)
        } else {
            Claim::Own
        }
    }

    /// Registers anew what the catalog has lost, with a changed note, as an agent passes nothing on that it holds to be known
    /// (Consul 1.22).
    ///
    /// # Errors
    ///
    /// `Unavailable` if that does not help.
    pub(crate) async fn put_back(&mut self, client: &Client, agent: usize, draft: &Draft) -> Result<()> {
        // Who answers at once may lag behind.
        if !self.is_missing
            || !self.seen
            || self.listed(client, agent, draft, false).await != Some(Listed::Missing)
        {
            return Ok(());
        }
        self.missing = self.missing.saturating_add(1);
        tracing::warn!(instance = %draft.key, agent = %client.agents[agent].name, "the catalog has lost it; registering anew");
        let Some(again) = draft.noted(&format!("registered anew, {}", self.missing)) else { return Ok(()) };
        put(client, agent, &again, Instant::now()).await.map_err(|failure| failure.error)?;
        if self.missing <= QUIET {
            return Ok(());
        }
        let message =
            "the agent renews it, but the catalog does not have it, and registering anew has not helped";
        Err(Error::new(ErrorKind::Unavailable, BACKEND, REGISTER, message))
    }

    /// What the catalog has; `None` if that cannot be told.
    async fn listed(&self, client: &Client, agent: usize, draft: &Draft, stale: bool) -> Option<Listed> {
        let id = draft.key.id().as_str();
        if id.contains('`') {
            return None;
        }
        let mut request = Request::get(format!("/v1/catalog/node-services/{}", segment(&self.node)))
            .query("filter", format!("ID == `{id}`"));
        if stale {
            request = request.query("stale", "");
        }
        let answer = timeout(within(draft), client.send(REGISTER, agent, &request)).await.ok()?.ok()?;
        let answer = answer.success(REGISTER).ok().filter(|answer| !answer.filtered)?;
        let node: Node = serde_json::from_slice(&answer.body).ok()?;
        let services = node.services.unwrap_or_default();
        Some(match services.first() {
            None => Listed::Missing,
            Some(_) if services.iter().any(|listed| listed.is(draft)) => Listed::Own,
            Some(_) => Listed::Another,
        })
    }
}

/// What the catalog has under the id.
#[derive(Clone, Copy, PartialEq)]
enum Listed {
    Own,
    Another,
    Missing,
}

/// How long a look may take: the renewal waits for it.
fn within(draft: &Draft) -> Duration {
    (draft.lasts() / LOOKS).min(LOOK_WITHIN)
}

fn pause(draft: &Draft) -> Duration {
    (draft.lasts() / LOOKS).clamp(OFTEN, SELDOM)
}

/// <https://developer.hashicorp.com/consul/api-docs/catalog#list-services-for-node>
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    services: Option<Vec<Registered>>,
}
