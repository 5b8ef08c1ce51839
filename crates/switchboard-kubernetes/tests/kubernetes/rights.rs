//! Who may what: the manifests of the documentation, applied; and the manifests of the demo.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use kube::api::ListParams;
use switchboard_core::{ErrorKind, Instance, RegisterOptions, Registry, ServiceName};
use switchboard_kubernetes::Registration;
use tokio::time::timeout;

use crate::readiness::{builder_by, condition, gate, pod};
use crate::reading::{LONG, READY, orders, until};
use crate::support::{Space, endpoint, port, slice};

fn document(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap()
}

/// The manifests of docs/kubernetes.md, in which `name` stands.
pub(crate) fn manifest(name: &str) -> String {
    let text = document("docs/kubernetes.md");
    let blocks: Vec<&str> =
        text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let found: Vec<&&str> = blocks.iter().filter(|block| block.contains(name)).collect();
    assert_eq!(found.len(), 1, "{name}");
    found[0].trim_end().to_owned()
}

/// Binds another Role of the documentation to the account.
pub(crate) fn binding(role: &str) -> String {
    manifest("orders-switchboard-read").split("\n---\n").last().unwrap().replace("switchboard-read", role)
}

/// Until the server has heard of a Role that was just applied.
pub(crate) async fn once_allowed<T>(call: impl AsyncFn() -> switchboard_core::Result<T>) -> T {
    let allowed = async {
        loop {
            match call().await {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return other.unwrap(),
            }
        }
    };
    timeout(LONG, allowed).await.unwrap()
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn who_may_not_read_is_told_which_rule_lacks_and_hears_when_it_is_there() {
    let space = Space::new().await;
    space
        .put(&slice("orders-a", "orders", vec![port("", 80)], vec![endpoint("p1", "10.1.0.1", READY)]))
        .await;
    let registry = space.builder_of("orders").await.open().unwrap();
    let denied = registry.lookup(&orders()).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    let (name, text) = (&space.name, denied.to_string());
    let who = format!("User \"system:serviceaccount:{name}:orders\" cannot list resource \"endpointslices\"");
    let rule = format!(
        "what it lacks is the rule apiGroups: [\"discovery.k8s.io\"], resources: [\"endpointslices\"], verbs: [\"list\", \"watch\"] of a Role in the namespace {name}"
    );
    assert!(text.contains(&who) && text.ends_with(&rule), "{text}");
    let mut watch = registry.watch(&orders());
    let first = timeout(LONG, watch.next()).await.unwrap().unwrap();
    assert_eq!(first.unwrap_err().kind(), ErrorKind::PermissionDenied);
    let diagnosis = registry.diagnose(Some(&orders())).await.unwrap();
    assert_eq!(diagnosis.identity, Some(format!("system:serviceaccount:{name}:orders")));
    assert!(diagnosis.permissions.iter().all(|permission| !permission.is_given));
    assert!(diagnosis.slices.is_empty() && diagnosis.version.starts_with("v1."), "{diagnosis:?}");
    // The least that docs/kubernetes.md says.
    space.apply(&manifest("orders-switchboard-read")).await;
    until(&mut watch, |now| now.len() == 1).await;
    assert_eq!(registry.lookup(&orders()).await.unwrap().len(), 1);
    assert_eq!(registry.services().await.unwrap().len(), 1);
    let diagnosis = registry.diagnose(Some(&orders())).await.unwrap();
    assert!(diagnosis.permissions.iter().all(|permission| permission.is_given), "{diagnosis:?}");
    assert_eq!(diagnosis.slices[0].endpoints[0].unused, None);
    // And no more: neither another namespace, nor pods.
    let other = Space::new().await;
    let elsewhere = ServiceName::new(format!("orders.{}", other.name)).unwrap();
    let denied = registry.lookup(&elsewhere).await.unwrap_err().to_string();
    assert!(denied.ends_with(&format!("in the namespace {}", other.name)), "{denied}");
    let labelled = space.builder_of("orders").await.labels(["team"]).open().unwrap();
    let denied = labelled.lookup(&orders()).await.unwrap_err().to_string();
    assert!(denied.contains("resources: [\"pods\"], verbs: [\"list\", \"watch\"]"), "{denied}");
    space.apply(&manifest("switchboard-labels")).await;
    space.apply(&binding("switchboard-labels")).await;
    once_allowed(async || labelled.lookup(&orders()).await).await;
    // An account that the server does not know at all.
    let stranger = space.builder().kubeconfig(space.cluster.kubeconfig("made-up")).open().unwrap();
    let denied = stranger.lookup(&orders()).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    assert!(denied.to_string().contains("does not know these credentials"), "{denied}");
    assert!(!format!("{denied:?}").contains("made-up"));
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn who_may_not_write_slices_is_told_and_may_with_the_documents_role() {
    let space = Space::new().await;
    let registry = space.builder_of("orders").await.registration(Registration::Slice).open().unwrap();
    let stock = Instance::builder("stock").id("a").address("10.9.0.1:80").build().unwrap();
    let options = RegisterOptions::new().ttl(Duration::from_secs(60));
    let denied = registry.register(&stock, &options).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    let rule = format!(
        "what it lacks is the rule apiGroups: [\"discovery.k8s.io\"], resources: [\"endpointslices\"], verbs: [\"create\", \"patch\", \"delete\"] of a Role in the namespace {}",
        space.name
    );
    assert!(denied.to_string().ends_with(&rule), "{denied}");
    space.apply(&manifest("switchboard-slices")).await;
    space.apply(&binding("switchboard-slices")).await;
    once_allowed(async || registry.register(&stock, &options).await).await;
    registry.register(&stock, &options).await.unwrap();
    assert_eq!(registry.lookup(stock.service()).await.unwrap().len(), 1);
    registry.close().await.unwrap();
    assert!(space.slices().await.list(&ListParams::default()).await.unwrap().items.is_empty());
}

/// That Role alone: it may not even read.
#[tokio::test]
#[ignore = "needs kubernetes"]
async fn who_may_not_say_that_its_pod_is_ready_is_told_and_may_with_the_documents_role() {
    let space = Space::new().await;
    let pods = pod(&space, "orders-1", gate()).await;
    let kubeconfig = space.cluster.kubeconfig(&space.token_of("orders", None).await);
    let registry = builder_by(&space, "orders-1", kubeconfig).open().unwrap();
    let instance = Instance::builder("orders").id("1").address("10.1.0.1:80").build().unwrap();
    let register = async || registry.register(&instance, &RegisterOptions::new()).await;
    let denied = register().await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    let (name, text) = (&space.name, denied.to_string());
    let who = format!("User \"system:serviceaccount:{name}:orders\" cannot patch resource \"pods/status\"");
    let rule = format!(
        "what it lacks is the rule apiGroups: [\"\"], resources: [\"pods/status\"], verbs: [\"patch\"] of a Role in the namespace {name}"
    );
    assert!(text.contains(&who) && text.ends_with(&rule), "{text}");
    assert!(condition(&pods, "orders-1").await.is_none());
    space.apply(&manifest("switchboard-readiness")).await;
    space.apply(&binding("switchboard-readiness")).await;
    once_allowed(register).await;
    let status = async || condition(&pods, "orders-1").await.unwrap().status;
    assert_eq!(status().await, "True");
    registry.deregister(&instance.key()).await.unwrap();
    assert_eq!(status().await, "False");
    register().await.unwrap();
    let may = registry.diagnose(None).await.unwrap().permissions;
    let may: Vec<_> = may.iter().map(|right| (right.what.as_str(), right.is_given)).collect();
    let wanted =
        [("list endpointslices", false), ("watch endpointslices", false), ("patch pods/status", true)];
    assert_eq!(may, wanted);
    let denied = registry.lookup(&orders()).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    registry.close().await.unwrap();
    assert_eq!(status().await, "False");
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn the_demo_is_what_the_server_takes() {
    let space = Space::new().await;
    let checked = space.dry_run(&document("examples/kubernetes/hello.yaml")).await;
    assert_eq!(checked.len(), 9, "{checked:?}");
}
