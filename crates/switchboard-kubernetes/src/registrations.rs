//! Registering from outside the cluster: an EndpointSlice for each instance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Error as Failure};
use switchboard_core::{Error, Instance, InstanceKey, Invalid, Result};

use crate::BACKEND;
use crate::client::{Client, OWN_SLICES};
use crate::record::{MANAGED_BY, MANAGER, SERVICE, lapsed_since, names_of, slice};

/// What a lapsed slice is left for: clocks that differ, and people who look.
const KEPT_LAPSED: SignedDuration = SignedDuration::from_mins(10);

/// The slice of a registration. Held while it is being written.
type Slot = Arc<tokio::sync::Mutex<Option<String>>>;

#[derive(Default)]
pub(crate) struct Registrations(Mutex<HashMap<InstanceKey, Slot>>);

impl Registrations {
    fn slot(&self, key: &InstanceKey) -> Slot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().clone()
    }

    /// Whoever waited for the slot while it was deregistered has registered it anew.
    fn remember(&self, key: &InstanceKey, slot: &Slot) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key.clone())
            .or_insert_with(|| slot.clone());
    }

    fn forget(&self, key: &InstanceKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Writes it: a slice that is not there comes into being, one that is there is as it is now.
    pub(crate) async fn register(
        &self,
        client: &Client,
        instance: &Instance,
        ttl: Option<Duration>,
    ) -> Result<()> {
        let operation = "register";
        let refused = |invalid| Error::invalid(BACKEND, operation, &invalid);
        let at = client.place(operation, instance.service())?;
        let lapses = ttl.map(lapse).transpose().map_err(refused)?;
        let slice = slice(instance, &at.service, lapses).map_err(refused)?;
        let name = slice.metadata.name.clone().unwrap_or_default();
        let made = client.get(operation).await?;
        let namespace = at.namespace.unwrap_or(made.namespace);
        let api: Api<EndpointSlice> = Api::namespaced(made.kube, &namespace);
        let key = instance.key();
        let slot = self.slot(&key);
        let mut held = slot.lock().await;
        self.remember(&key, &slot);
        let apply = async {
            api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&slice)).await.map(drop)
        };
        let written = client.call(operation, OWN_SLICES, &namespace, apply).await;
        if let Err(error) = written {
            if held.is_none() {
                self.forget(&key);
            }
            return Err(error);
        }
        let before = held.replace(name.clone());
        if before.as_ref() == Some(&name) {
            return Ok(());
        }
        // An address of another type, here or of a process before this one, is in a slice of another name.
        let others = names_of(&at.service, key.id()).into_iter().filter(|other| *other != name);
        client.call(operation, OWN_SLICES, &namespace, delete_all(&api, others)).await?;
        if before.is_none() {
            sweep(&api, &at.service).await;
        }
        Ok(())
    }

    pub(crate) async fn deregister(&self, client: &Client, key: &InstanceKey) -> Result<()> {
        let operation = "deregister";
        let at = client.place(operation, key.service())?;
        let made = client.get(operation).await?;
        let namespace = at.namespace.unwrap_or(made.namespace);
        let api: Api<EndpointSlice> = Api::namespaced(made.kube, &namespace);
        let slot = self.slot(key);
        let mut held = slot.lock().await;
        // What fails stays known, and is tried again on closing.
        client
            .call(operation, OWN_SLICES, &namespace, delete_all(&api, names_of(&at.service, key.id())))
            .await
            .inspect_err(|_| {
                if held.is_none() {
                    self.forget(key);
                }
            })?;
        *held = None;
        self.forget(key);
        Ok(())
    }

    /// Deregisters all.
    pub(crate) async fn withdraw_all(&self, client: &Client) -> Result<()> {
        let keys: Vec<InstanceKey> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let withdrawn = join_all(keys.iter().map(|key| self.deregister(client, key))).await;
        let failed: Vec<(&InstanceKey, Error)> =
            keys.iter().zip(withdrawn).filter_map(|(key, result)| Some((key, result.err()?))).collect();
        let Some((_, error)) = failed.first() else { return Ok(()) };
        let left: Vec<String> = failed.iter().map(|(key, _)| key.to_string()).collect();
        let message = format!("{}; left until they lapse: {}", error.message(), left.join(", "));
        Err(Error::new(error.kind(), BACKEND, "close", message).with_source(error.clone()))
    }
}

fn lapse(ttl: Duration) -> Result<Timestamp, Invalid> {
    let end = SignedDuration::try_from(ttl).ok().and_then(|ttl| Timestamp::now().checked_add(ttl).ok());
    end.ok_or_else(|| {
        Invalid::new(format!("TTL {ttl:?}"), "ends after the year 9999; leave it out for no TTL")
    })
}

async fn delete_all(
    api: &Api<EndpointSlice>,
    names: impl IntoIterator<Item = String>,
) -> Result<(), Failure> {
    let deleted =
        join_all(names.into_iter().map(
            async |name| match api.delete(&name, &DeleteParams::default()).await {
                Ok(_) => Ok(()),
                Err(Failure::Api(status)) if status.code == 404 => Ok(()),
                Err(failure) => Err(failure),
            },
        ));
    deleted.await.into_iter().collect()
}

/// Removes what processes that were killed have left of a service. Nobody reads it any more; if it cannot be done, it stays.
async fn sweep(api: &Api<EndpointSlice>, service: &str) {
    let ours =
        ListParams::default().labels(&format!("{SERVICE}={service},{MANAGED_BY}={MANAGER}")).limit(500);
    let swept = async {
        let long_ago = Timestamp::now() - KEPT_LAPSED;
        for slice in api.list(&ours).await?.items {
            if lapsed_since(&slice).is_none_or(|lapsed| lapsed > long_ago) {
                continue;
            }
            let Some(name) = slice.metadata.name else { continue };
            // Whoever has renewed it meanwhile keeps it.
            let as_seen =
                Preconditions { resource_version: slice.metadata.resource_version, uid: slice.metadata.uid };
            let as_seen = DeleteParams { preconditions: Some(as_seen), ..DeleteParams::default() };
            match api.delete(&name, &as_seen).await {
                Err(Failure::Api(status)) if matches!(status.code, 404 | 409) => {}
                other => drop(other?),
            }
        }
        Ok::<_, Failure>(())
    };
    match tokio::time::timeout(Duration::from_secs(5), swept).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(service, %error, "what has lapsed is left"),
        Err(_) => tracing::debug!(service, "what has lapsed is left: no answer within 5 s"),
    }
}
