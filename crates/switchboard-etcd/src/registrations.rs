//! What this handle has registered: one lease each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use switchboard_core::{Error, Instance, InstanceKey, Invalid, RegisterOptions, Result};

use crate::BACKEND;
use crate::client::Client;
use crate::failure::Failure;
use crate::record;
use crate::wire::{
    Compare, CompareTarget, Compared, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    TxnRequest,
};

/// How long the lease of a registration without a TTL lasts when this handle no longer renews it.
const OWN_TTL: Duration = Duration::from_secs(30);

/// How often such leases are renewed, and tried again.
pub(crate) const OWN_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const OWN_RETRY: Duration = Duration::from_secs(2);

/// So many are renewed at a time.
const AT_ONCE: usize = 16;

/// A registration as it was last written. Held while it is being written.
type Slot = Arc<tokio::sync::Mutex<Option<Held>>>;

struct Held {
    lease: i64,
    ttl: Option<Duration>,
    instance: Instance,
    value: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Registrations(Mutex<HashMap<InstanceKey, Slot>>);

impl Registrations {
    fn slot(&self, key: &InstanceKey) -> Slot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().clone()
    }

    fn take(&self, key: &InstanceKey) -> Option<Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key)
    }

    fn all(&self) -> Vec<(InstanceKey, Slot)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(key, slot)| (key.clone(), slot.clone())).collect()
    }

    /// Writes it, or renews it if it is there as it should be.
    pub(crate) async fn register(
        &self,
        client: &Client,
        instance: &Instance,
        options: &RegisterOptions,
    ) -> Result<()> {
        let slot = self.slot(&instance.key());
        let mut held = slot.lock().await;
        let written = write(client, &mut held, instance, options.ttl).await;
        if held.is_none() {
            drop(held);
            self.take(&instance.key());
        }
        written
    }

    pub(crate) async fn deregister(&self, client: &Client, key: &InstanceKey) -> Result<()> {
        let slot = self.take(key);
        let mut held = match &slot {
            Some(slot) => Some(slot.lock().await),
            None => None,
        };
        let removed =
            remove(client, key, held.as_ref().and_then(|held| held.as_ref()).map(|held| held.lease)).await;
        match (removed, &mut held) {
            (Ok(()), Some(held)) => **held = None,
            (Err(error), _) => {
                drop(held);
                // The next one tries again.
                if let Some(slot) = slot {
                    self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_insert(slot);
                }
                return Err(error);
            }
            _ => {}
        }
        Ok(())
    }

    /// Renews those that nobody else does; whether all are.
    pub(crate) async fn renew_own(&self, client: &Client) -> bool {
        let renewals = self.all().into_iter().map(|(key, slot)| async move {
            let mut held = slot.lock().await;
            let Some(Held { instance, ttl: None, .. }) = &*held else { return true };
            let instance = instance.clone();
            let renewed = write(client, &mut held, &instance, None).await;
            if let Err(error) = &renewed {
                tracing::warn!(%key, %error, "not renewed");
            }
            renewed.is_ok()
        });
        let renewed = stream::iter(renewals).buffer_unordered(AT_ONCE);
        renewed.fold(true, async |all, one| all && one).await
    }

    /// Deregisters all.
    pub(crate) async fn revoke_all(&self, client: &Client) -> Result<()> {
        let (mut left, mut failed) = (Vec::new(), None);
        for (key, _) in self.all() {
            if let Err(error) = self.deregister(client, &key).await {
                left.push(key.to_string());
                failed.get_or_insert(error);
            }
        }
        let Some(error) = failed else { return Ok(()) };
        let message = format!("{}; left until its lease ends: {}", error.message(), left.join(", "));
        Err(Error::new(error.kind(), BACKEND, "close", message).with_source(error))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

async fn write(
    client: &Client,
    held: &mut Option<Held>,
    instance: &Instance,
    ttl: Option<Duration>,
) -> Result<()> {
    let operation = "register";
    let settings = &client.settings;
    let key = record::key(&settings.prefix, settings.wire, instance.service(), instance.id());
    let value = record::value(settings.wire, instance);
    if let Some(before) = held.as_mut().filter(|before| before.ttl == ttl) {
        match renew(client, before, &key, &value).await {
            Ok(true) => {
                (before.instance, before.value) = (instance.clone(), value);
                return Ok(());
            }
            // The lease has gone, and the key with it. It stays noted until there is another, so that a failure is tried again.
            Ok(false) => {}
            Err(failure) => return Err(refused(failure, instance, value.len())),
        }
    }
    let seconds = ttl.unwrap_or(OWN_TTL).as_millis().div_ceil(1000);
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).clamp(1, 9_000_000_000);
    let lease = client.call(operation, LeaseGrantRequest { ttl: seconds }).await?.id;
    if let Err(failure) = client.call(operation, put(&key, &value, lease)).await {
        let _ = revoke(client, operation, lease).await;
        return Err(refused(failure, instance, value.len()));
    }
    if let Some(before) = held.replace(Held { lease, ttl, instance: instance.clone(), value }) {
        let _ = revoke(client, operation, before.lease).await;
    }
    Ok(())
}

fn put(key: &str, value: &[u8], lease: i64) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), lease }
}

/// Renews a lease and sees to it that the key is on it, with this value. False if the lease has gone.
async fn renew(client: &Client, held: &Held, key: &str, value: &[u8]) -> Result<bool, Failure> {
    let operation = "register";
    if !client.keep_alive(operation, held.lease).await? {
        return Ok(false);
    }
    let put = put(key, value, held.lease).into();
    let txn = if held.value == value {
        // Another may have deleted or overwritten it.
        let with = Some(Compared::Lease(held.lease));
        let is_as_was = Compare { target: CompareTarget::Lease.into(), key: key.into(), with };
        TxnRequest { compare: vec![is_as_was], success: vec![], failure: vec![put] }
    } else {
        TxnRequest { compare: vec![], success: vec![put], failure: vec![] }
    };
    match client.call(operation, txn).await {
        Err(failure) if failure.lost_lease() => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// Ends a lease, and what is on it; one that has ended is well.
async fn revoke(client: &Client, operation: &'static str, lease: i64) -> Result<(), Failure> {
    match client.call(operation, LeaseRevokeRequest { id: lease }).await {
        Err(failure) if !failure.lost_lease() => Err(failure),
        _ => Ok(()),
    }
}

fn refused(failure: Failure, instance: &Instance, bytes: usize) -> Error {
    if failure.status.message().contains("too large") {
        let what = format!("instance {}", instance.key());
        let why = format!("takes {bytes} bytes, more than etcd's --max-request-bytes (1.5 MiB by default)");
        return Error::invalid(BACKEND, "register", &Invalid::new(what, why));
    }
    failure.into()
}

async fn remove(client: &Client, key: &InstanceKey, lease: Option<i64>) -> Result<()> {
    let operation = "deregister";
    let settings = &client.settings;
    let name = record::key(&settings.prefix, settings.wire, key.service(), key.id());
    client.call(operation, DeleteRangeRequest { key: name.into() }).await?;
    if let Some(lease) = lease {
        revoke(client, operation, lease).await?;
    }
    Ok(())
}
