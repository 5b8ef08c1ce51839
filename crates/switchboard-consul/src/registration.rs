//! What this handle has registered, with which agent, and how that is kept true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use switchboard_core::{Address, Error, ErrorKind, InstanceId, InstanceKey, Invalid, Result};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::BACKEND;
use crate::agent_api::{Draft, REGISTER, put, remove, renew};
use crate::answer::Failure;
use crate::catalog::Listing;
use crate::client::Client;
use crate::holder::{Claim, Registered, ask, claim, refuse_taken, taken};

/// How long a renewal is held up by an agent that the instance has left.
const SWEEP_LIMIT: Duration = Duration::from_secs(2);

/// How long a deregistration lets a registration end that nobody waits for any more. Cut off, it could reach the agent after
/// the deregistration, which is made on another connection.
const UNDER_WAY: Duration = Duration::from_secs(2);

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

/// One instance.
#[derive(Debug, Default)]
struct Slot {
    /// Calls about it take turns.
    held: Arc<tokio::sync::Mutex<Held>>,
    /// A registration that went on when its caller had enough of it.
    abandoned: Mutex<Option<AbortHandle>>,
}

/// Who waits for a registration, until it has enough of it.
struct Caller<'a> {
    slot: &'a Slot,
    registration: AbortHandle,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        *lock(&self.slot.abandoned) = Some(self.registration.clone());
    }
}

#[derive(Debug, Default)]
struct Held {
    /// The agent it is registered with, and what that agent was told.
    at: Option<(usize, Vec<u8>)>,
    /// Where it is said to listen: what has another address is another program's.
    addresses: Vec<Address>,
    /// Another program has its id with that agent, and it waits for that one to lapse.
    waits: bool,
    /// When it was last renewed, and until when that lasts.
    renewed: Option<Renewed>,
    /// What the catalog has of it, if that can be found out.
    listing: Option<Listing>,
    /// Since when that agent has not answered.
    away_since: Option<Instant>,
    /// Other agents that may have it, to be rid of it when they are back.
    strays: BTreeSet<usize>,
    /// Deregistered: whoever waited for its turn must begin anew.
    gone: bool,
}

#[derive(Clone, Copy, Debug)]
struct Renewed {
    done: Instant,
    lapses: Instant,
}

impl Registrations {
    pub(crate) async fn register(
        self: &Arc<Self>,
        client: &Arc<Client>,
        draft: Draft,
        move_after: Duration,
    ) -> Result<()> {
        let asked = Instant::now();
        let (slot, mut held) = loop {
            let slot = self.slot(&draft.key)?;
            let held = slot.held.clone().lock_owned().await;
            if !held.gone {
                break (slot, held);
            }
        };
        if held.was_renewed_since(asked, &draft) {
            return Ok(());
        }
        // It goes on when its caller has enough of it: an agent that has begun does not stop either, and another try would
        // only wait behind it. It ends all the same, since each request has its limit.
        let (registrations, client) = (self.clone(), client.clone());
        let done = tokio::spawn(async move {
            let result = held.register(&client, &draft, move_after).await;
            if held.at.is_some() && !held.strays.is_empty() {
                held.sweep(&client, &draft.key).await;
            }
            if held.is_nowhere() {
                held.gone = true;
                registrations.forget(&draft.key);
            }
            result
        });
        let _caller = Caller { slot: &slot, registration: done.abort_handle() };
        done.await.unwrap_or_else(|error| {
            let message = "the call did not end";
            Err(Error::new(ErrorKind::Unavailable, BACKEND, REGISTER, message).with_source(error))
        })
    }

    /// Deregisters what this handle registered; `false` if it did not.
    pub(crate) async fn deregister(&self, client: &Client, key: &InstanceKey) -> Result<bool> {
        let Some(slot) = self.known(key) else { return Ok(false) };
        let Ok(held) = timeout(UNDER_WAY, slot.held.lock()).await else {
            // Nobody wants that one any more, and it may take long.
            if let Some(registration) = lock(&slot.abandoned).take() {
                registration.abort();
            }
            return self.withdraw(client, key, slot.held.lock().await, false).await;
        };
        self.withdraw(client, key, held, false).await
    }

    /// The same, if it may be with this agent, and wherever what is there listens.
    pub(crate) async fn deregister_from(
        &self,
        client: &Client,
        key: &InstanceKey,
        agent: usize,
    ) -> Result<bool> {
        let Some(slot) = self.known(key) else { return Ok(false) };
        let held = slot.held.lock().await;
        if held.may_be_with(agent) { self.withdraw(client, key, held, true).await } else { Ok(false) }
    }

    async fn withdraw(
        &self,
        client: &Client,
        key: &InstanceKey,
        mut held: tokio::sync::MutexGuard<'_, Held>,
        anywhere: bool,
    ) -> Result<bool> {
        if !held.gone {
            held.deregister(client, key, anywhere).await?;
            held.gone = true;
            self.forget(key);
        }
        Ok(true)
    }

    /// Refuses what comes from now on; what there is still.
    pub(crate) fn close(&self) -> Vec<InstanceKey> {
        let mut state = self.lock();
        state.closed = true;
        state.slots.values().map(|(key, _)| key.clone()).collect()
    }

    /// Whether there is anything to deregister.
    pub(crate) fn has_any(&self) -> bool {
        !self.lock().slots.is_empty()
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
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding one, and what it holds is whole even if something did.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn folded(id: &InstanceId) -> String {
    id.as_str().to_lowercase()
}

impl Held {
    /// Whether a call whose caller had enough of it has done what is asked for again.
    fn was_renewed_since(&self, asked: Instant, draft: &Draft) -> bool {
        let same = self.at.as_ref().is_some_and(|(_, body)| *body == draft.body);
        let fresh = |renewed: Renewed| {
            renewed.done > asked && renewed.lapses.saturating_duration_since(asked) > draft.lasts() / 3
        };
        same && self.renewed.is_some_and(fresh)
    }

    /// Registers with one agent.
    async fn put(&mut self, client: &Client, agent: usize, draft: &Draft) -> Result<(), Failure> {
        let begun = Instant::now();
        if let Some(node) = put(client, agent, draft, self.due(begun, draft)).await? {
            self.listing = draft.ttl_check.as_ref().map(|_| Listing::new(node, draft));
        }
        self.is_with(agent, draft, begun);
        Ok(())
    }

    /// Renews it with its agent; `false` if that has it no more.
    async fn renew(&mut self, client: &Client, agent: usize, draft: &Draft) -> Result<bool, Failure> {
        let begun = Instant::now();
        let known = renew(client, agent, draft, self.due(begun, draft)).await?;
        if known {
            self.is_with(agent, draft, begun);
        }
        Ok(known)
    }

    /// When a write that begins now has to be done.
    fn due(&self, now: Instant, draft: &Draft) -> Instant {
        self.renewed.map_or(now + draft.lasts(), |renewed| renewed.lapses)
    }

    /// What has begun then is done: the agent has it.
    fn is_with(&mut self, agent: usize, draft: &Draft, begun: Instant) {
        self.at = Some((agent, draft.body.clone()));
        if self.strays.is_empty() {
            self.addresses.retain(|address| *address == draft.address);
        }
        self.renewed = Some(Renewed { done: Instant::now(), lapses: begun + draft.lasts() });
        self.away_since = None;
    }

    fn is_nowhere(&self) -> bool {
        self.at.is_none() && self.strays.is_empty()
    }

    fn may_be_with(&self, agent: usize) -> bool {
        self.at.as_ref().is_some_and(|(at, _)| *at == agent) || self.strays.contains(&agent)
    }

    async fn register(&mut self, client: &Client, draft: &Draft, move_after: Duration) -> Result<()> {
        if !self.addresses.contains(&draft.address) {
            self.addresses.push(draft.address.clone());
        }
        if let Some((agent, _)) = self.at {
            let Err(failure) = self.keep(client, agent, draft).await else {
                return match &mut self.listing {
                    Some(listing) => listing.put_back(client, agent, draft).await,
                    None => Ok(()),
                };
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
            (self.at, self.waits) = (None, false);
        }
        self.away_since = None;
        self.register_anywhere(client, draft).await
    }

    /// Renews it with its agent, or registers there what has changed, unless another program has the id.
    async fn keep(&mut self, client: &Client, agent: usize, draft: &Draft) -> Result<(), Failure> {
        let told = self.at.as_ref().map_or(&[][..], |(_, body)| body);
        let (same, unknown) = (told == draft.body, told.is_empty());
        let claim = match &mut self.listing {
            // Without a TTL there is nothing else to do.
            _ if self.waits || (same && draft.ttl_check.is_none()) => claim(client, agent, draft).await?,
            Some(listing) if same => listing.look(client, agent, draft).await,
            _ if unknown => ask(client, agent, draft).await?,
            _ => Claim::Own,
        };
        if self.heed(client, agent, draft, claim)? && same {
            if self.renew(client, agent, draft).await? {
                return Ok(());
            }
            // The agent has lost it, or another program has registered its id, with a check of another name.
            let claim = ask(client, agent, draft).await?;
            self.heed(client, agent, draft, claim)?;
        }
        if let Some((_, body)) = &mut self.at {
            // Until it is done, what the agent knows is unknown; the call may also be abandoned.
            body.clear();
        }
        self.put(client, agent, draft).await
    }

    /// Whether what the agent has may be renewed; else it is to be registered.
    fn heed(&mut self, client: &Client, agent: usize, draft: &Draft, claim: Claim) -> Result<bool, Failure> {
        let (instance, agent, ours) = (&draft.key, &client.agents[agent].name, &draft.address);
        let waited = std::mem::take(&mut self.waits);
        match claim {
            Claim::Own => Ok(!waited),
            Claim::Free => Ok(false),
            // It moves, and the agent does not have its new address yet.
            Claim::Lapsed(old) | Claim::Taken(old) if self.has_been(&old, draft) => Ok(false),
            Claim::Lapsed(theirs) => {
                tracing::warn!(%instance, %agent, %ours, %theirs, "another program registered its id and does not renew it; registering anew");
                Ok(false)
            }
            Claim::Taken(theirs) => {
                if !waited {
                    tracing::warn!(%instance, %agent, %ours, %theirs, "another program has registered its id; not renewed until that has lapsed or left");
                }
                self.waits = true;
                Err(taken(draft, &theirs))
            }
        }
    }

    /// Whether that is what this one was registered as before.
    fn has_been(&self, registered: &Registered, draft: &Draft) -> bool {
        registered.is_of(&draft.key) && self.addresses.iter().any(|own| registered.is_at(own))
    }

    /// With the first agent that takes it, those it has left last.
    async fn register_anywhere(&mut self, client: &Client, draft: &Draft) -> Result<()> {
        let (left, fresh): (Vec<usize>, Vec<usize>) =
            (0..client.agents.len()).partition(|agent| self.strays.contains(agent));
        let mut result = None;
        for agent in fresh.into_iter().chain(left) {
            // The call may be abandoned after the agent has heard it.
            let known = !self.strays.insert(agent);
            let done = match refuse_taken(client, agent, draft).await {
                Ok(()) => self.put(client, agent, draft).await,
                refused => refused,
            };
            match done {
                Ok(()) => {
                    self.strays.remove(&agent);
                    return Ok(());
                }
                Err(failure) => {
                    if !known && failure.untouched {
                        self.strays.remove(&agent);
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
            let removed = timeout(SWEEP_LIMIT, remove(client, agent, key, Some(&self.addresses))).await;
            if let Ok(Ok(())) = removed {
                self.strays.remove(&agent);
            }
        }
    }

    async fn deregister(&mut self, client: &Client, key: &InstanceKey, anywhere: bool) -> Result<()> {
        let addresses = (!anywhere).then_some(&*self.addresses);
        if let Some((agent, _)) = &self.at {
            remove(client, *agent, key, addresses).await.map_err(|failure| failure.error)?;
            self.at = None;
        }
        for agent in self.strays.clone() {
            remove(client, agent, key, addresses).await.map_err(|failure| failure.error)?;
            self.strays.remove(&agent);
        }
        Ok(())
    }
}
