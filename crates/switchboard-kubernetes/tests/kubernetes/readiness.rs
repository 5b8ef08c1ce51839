//! Registering in a pod: its readiness gate.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use switchboard_core::{ErrorKind, Instance, RegisterOptions, Registry};
use switchboard_kubernetes::{KubernetesBuilder, Registration};
use switchboard_registrar::Registrar;

use crate::reading::LONG;
use crate::support::Space;

/// A pod of the account `orders`.
pub(crate) async fn pod(space: &Space, name: &str, gates: serde_json::Value) -> Api<Pod> {
    let pods: Api<Pod> = Api::namespaced(space.admin().await, &space.name);
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": { "name": name },
        "spec": {
            "serviceAccountName": "orders",
            "containers": [{ "name": "c", "image": "example.org/c" }],
            "readinessGates": gates,
        },
    }))
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    // As the kubelet does: ours must leave it alone.
    let probed =
        serde_json::json!({ "status": { "conditions": [{ "type": "ContainersReady", "status": "True" }] } });
    pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(&probed)).await.unwrap();
    pods
}

pub(crate) fn gate() -> serde_json::Value {
    serde_json::json!([{ "conditionType": "switchboard/registered" }])
}

pub(crate) async fn condition(pods: &Api<Pod>, name: &str) -> Option<PodCondition> {
    let status = pods.get(name).await.unwrap().status.unwrap();
    let conditions = status.conditions.unwrap_or_default();
    assert!(conditions.iter().any(|condition| condition.type_ == "ContainersReady"));
    conditions.into_iter().find(|condition| condition.type_ == "switchboard/registered")
}

/// That of the pod, with all rights.
fn builder(space: &Space, pod: &str) -> KubernetesBuilder {
    builder_by(space, pod, space.cluster.admin_kubeconfig())
}

/// That of the pod; the kubeconfig's context stands for the service account's namespace.
pub(crate) fn builder_by(space: &Space, pod: &str, kubeconfig: PathBuf) -> KubernetesBuilder {
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["contexts"][0]["context"]["namespace"] = space.name.as_str().into();
    std::fs::write(&kubeconfig, value.to_string()).unwrap();
    switchboard_kubernetes::KubernetesRegistry::builder()
        .kubeconfig(kubeconfig)
        .registration(Registration::Readiness)
        .pod(pod)
}

pub(crate) async fn until(pods: &Api<Pod>, name: &str, wanted: &str) -> PodCondition {
    let told = async {
        loop {
            if let Some(condition) =
                condition(pods, name).await.filter(|condition| condition.status == wanted)
            {
                return condition;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, told).await.unwrap()
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn a_pod_is_ready_while_its_program_is_registered() {
    let space = Space::new().await;
    let pods = pod(&space, "orders-1", gate()).await;
    let registry = Arc::new(builder(&space, "orders-1").open().unwrap());
    let orders = Instance::builder("orders").id("1").address("10.1.0.1:80").build().unwrap();
    let is_well = Arc::new(AtomicBool::new(true));
    let well = is_well.clone();
    let registrar = Registrar::new(registry.clone(), orders)
        .check_interval(Duration::from_millis(50))
        .unhealthy_after(1)
        .check(move || {
            let well = well.load(Ordering::SeqCst);
            async move { if well { Ok(()) } else { Err("out of stock") } }
        });
    let running = registrar.start().await.unwrap();
    let first = until(&pods, "orders-1", "True").await;
    assert_eq!(first.reason.as_deref(), Some("Registered"));
    assert!(first.last_transition_time.is_some());
    is_well.store(false, Ordering::SeqCst);
    until(&pods, "orders-1", "False").await;
    is_well.store(true, Ordering::SeqCst);
    until(&pods, "orders-1", "True").await;
    // Somebody else's word does not last, and a renewal of what is there writes nothing.
    let wiped = serde_json::json!({ "status": { "conditions": [{ "type": "switchboard/registered", "status": "False" }] } });
    pods.patch_status("orders-1", &PatchParams::default(), &Patch::Strategic(&wiped)).await.unwrap();
    let again = Instance::builder("orders").id("1").address("10.1.0.1:80").build().unwrap();
    registry.register(&again, &RegisterOptions::new()).await.unwrap();
    let before = pods.get("orders-1").await.unwrap().metadata.resource_version;
    assert_eq!(condition(&pods, "orders-1").await.unwrap().status, "True");
    registry.register(&again, &RegisterOptions::new()).await.unwrap();
    assert_eq!(pods.get("orders-1").await.unwrap().metadata.resource_version, before);
    running.shutdown().await.unwrap();
    let last = condition(&pods, "orders-1").await.unwrap();
    assert_eq!((last.status.as_str(), last.reason.as_deref()), ("False", Some("Deregistered")));
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn all_services_of_a_pod_count_and_closing_takes_it_out() {
    let space = Space::new().await;
    let pods = pod(&space, "orders-1", gate()).await;
    let registry = builder(&space, "orders-1").open().unwrap();
    let [one, two] = ["orders", "stock"]
        .map(|service| Instance::builder(service).id("1").address("10.1.0.1:80").build().unwrap());
    let status = async || condition(&pods, "orders-1").await.unwrap().status;
    registry.register(&one, &RegisterOptions::new()).await.unwrap();
    registry.register(&two, &RegisterOptions::new()).await.unwrap();
    assert_eq!(status().await, "True");
    registry.deregister(&two.key()).await.unwrap();
    assert_eq!(status().await, "False");
    registry.register(&two, &RegisterOptions::new()).await.unwrap();
    assert_eq!(status().await, "True");
    registry.close().await.unwrap();
    assert_eq!(status().await, "False");
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn a_pod_without_the_gate_and_one_that_is_not_there_are_refused() {
    let space = Space::new().await;
    pod(&space, "orders-1", serde_json::json!([])).await;
    let orders = Instance::builder("orders").id("1").address("10.1.0.1:80").build().unwrap();
    for (pod, why) in [
        ("orders-1", "pod \"orders-1\": has no readiness gate for it"),
        ("orders-2", "there is no pod \"orders-2\" in the namespace"),
    ] {
        let registry = builder(&space, pod).open().unwrap();
        let refused = registry.register(&orders, &RegisterOptions::new()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.message().starts_with(why), "{refused}");
    }
}
