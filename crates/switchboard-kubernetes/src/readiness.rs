//! Registering inside the cluster: the pod says that it is ready.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Error as Failure};
use serde_json::json;
use switchboard_core::{Error, ErrorKind, InstanceKey, Invalid, Result};
use tokio::sync::Mutex;

use crate::BACKEND;
use crate::client::{Client, POD_STATUS};

/// The condition that the pod's readiness gate names.
pub(crate) const CONDITION: &str = "switchboard/registered";

/// What of this program is registered.
#[derive(Default)]
pub(crate) struct Readiness(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Each service that was registered, and whether it still is.
    services: BTreeMap<InstanceKey, bool>,
    /// What the condition was set to last.
    told: Option<bool>,
    /// It was to be set to true, and is not known to have been set to false since.
    may_be_ready: bool,
}

impl Readiness {
    pub(crate) fn is_empty(&self) -> bool {
        // Whoever holds it is about to change it.
        self.0.try_lock().is_ok_and(|known| !known.may_be_ready)
    }

    pub(crate) async fn register(&self, client: &Client, key: &InstanceKey) -> Result<()> {
        let mut known = self.0.lock().await;
        let before = known.services.insert(key.clone(), true);
        let told = known.tell(client, "register").await;
        let has_gate = told.and_then(|pod| has_gate(&pod, "register"));
        if has_gate.is_err() && before.is_none() {
            known.services.remove(key);
        }
        has_gate
    }

    pub(crate) async fn deregister(&self, client: &Client, key: &InstanceKey) -> Result<()> {
        let mut known = self.0.lock().await;
        let Some(is_registered) = known.services.get_mut(key) else { return Ok(()) };
        *is_registered = false;
        known.tell(client, "deregister").await.map(drop)
    }

    pub(crate) async fn withdraw_all(&self, client: &Client) -> Result<()> {
        let mut known = self.0.lock().await;
        for is_registered in known.services.values_mut() {
            *is_registered = false;
        }
        if !known.may_be_ready {
            return Ok(());
        }
        known.tell(client, "close").await.map(drop)
    }
}

impl Known {
    /// Sets the condition; says what the pod is now.
    async fn tell(&mut self, client: &Client, operation: &'static str) -> Result<Pod> {
        let is_ready = !self.services.is_empty() && self.services.values().all(|is| *is);
        let name = pod_name(client).map_err(|invalid| Error::invalid(BACKEND, operation, &invalid))?;
        let made = client.get(operation).await?;
        let (status, reason, message) = if is_ready {
            ("True", "Registered", "the program is registered")
        } else {
            ("False", "Deregistered", "the program has withdrawn, by its check or because it ends")
        };
        let mut condition =
            json!({ "type": CONDITION, "status": status, "reason": reason, "message": message });
        // As it was while it is the same: then nothing is written at all.
        if self.told != Some(is_ready) {
            condition["lastTransitionTime"] = json!(Timestamp::now().to_string());
        }
        let patch = json!({ "status": { "conditions": [condition] } });
        let namespace = made.own_namespace;
        let api: Api<Pod> = Api::namespaced(made.kube, &namespace);
        self.may_be_ready |= is_ready;
        let patched = async {
            // Conditions are merged by their type: what others say of the pod stays.
            match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                Err(Failure::Api(status)) if status.code == 404 => Ok(None),
                other => other.map(Some),
            }
        };
        let Some(pod) = client.call(operation, POD_STATUS, &namespace, patched).await? else {
            self.may_be_ready = false;
            let message = format!(
                "there is no pod {name:?} in the namespace {namespace:?}; name this program's own by POD_NAME (the downward API's metadata.name) or the parameter pod"
            );
            return Err(Error::new(ErrorKind::Invalid, BACKEND, operation, message));
        };
        (self.told, self.may_be_ready) = (Some(is_ready), is_ready);
        Ok(pod)
    }
}

/// Whether what was told counts.
fn has_gate(pod: &Pod, operation: &'static str) -> Result<()> {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    if gates.iter().any(|gate| gate.condition_type == CONDITION) {
        return Ok(());
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let why = format!(
        "has no readiness gate for it, so that it is ready whatever is registered; add readinessGates: [{{conditionType: {CONDITION}}}] to its spec"
    );
    Err(Error::invalid(BACKEND, operation, &Invalid::quoting("pod", name, why)))
}

fn pod_name(client: &Client) -> Result<String, Invalid> {
    let of = |variable| std::env::var(variable).ok().filter(|name| !name.is_empty());
    let name = client.settings.pod.clone().or_else(|| of("POD_NAME")).or_else(|| of("HOSTNAME"));
    name.ok_or_else(|| {
        Invalid::new("this program's pod", "is not known; name it by POD_NAME or the parameter pod")
    })
}
