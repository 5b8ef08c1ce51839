//! What is read of slices, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use switchboard_core::{Health, Instance, Registry, ServiceName, Snapshot, SnapshotStream};
use switchboard_selector::Selector;
use switchboard_watcher::Directory;
use tokio::time::timeout;

use crate::support::{Space, endpoint, port, slice};

pub(crate) const READY: [bool; 3] = [true, true, false];
pub(crate) const GOING: [bool; 3] = [false, true, true];

/// A long time, for machines that have much to do.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn orders() -> ServiceName {
    ServiceName::new("orders").unwrap()
}

/// The next snapshot for which this holds.
pub(crate) async fn until(watch: &mut SnapshotStream, holds: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let found = async {
        loop {
            match watch.next().await.unwrap() {
                Ok(snapshot) if holds(&snapshot) => return snapshot,
                _ => {}
            }
        }
    };
    timeout(LONG, found).await.unwrap()
}

fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.all().iter().map(|instance| instance.id().as_str()).collect()
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn all_slices_are_one_service_and_a_pod_in_two_is_one_instance() {
    let space = Space::new().await;
    let http = || vec![port("http", 80)];
    let [one, two, three] =
        [1, 2, 3].map(|pod| endpoint(&format!("p{pod}"), &format!("10.1.0.{pod}"), READY));
    space.put(&slice("orders-a", "orders", http(), vec![one.clone(), two.clone()])).await;
    space.put(&slice("orders-b", "orders", http(), vec![two, three])).await;
    let second_family = endpoint("p1", "2001:db8::1", READY);
    space.put(&slice("orders-c", "orders", http(), vec![second_family])).await;
    space.put(&slice("stock-a", "stock", http(), vec![one])).await;
    let registry = space.builder().open().unwrap();
    let found = registry.lookup(&orders()).await.unwrap();
    assert_eq!(ids(&found), ["uid-of-p1", "uid-of-p2", "uid-of-p3"]);
    let addresses: Vec<String> = found.all()[0].addresses().iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.1.0.1:80", "[2001:db8::1]:80"]);
    let mut watch = registry.watch(&orders());
    assert_eq!(timeout(LONG, watch.next()).await.unwrap().unwrap().unwrap(), found, "the first is whole");
    let names = |names: &BTreeSet<ServiceName>| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&registry.services().await.unwrap()), ["orders", "stock"]);
    assert_eq!(registry.snapshots().await.unwrap().len(), 2);
    let mut watched = registry.watch_services();
    assert_eq!(names(&timeout(LONG, watched.next()).await.unwrap().unwrap().unwrap()), ["orders", "stock"]);
    space.delete("stock-a").await;
    assert_eq!(names(&timeout(LONG, watched.next()).await.unwrap().unwrap().unwrap()), ["orders"]);
    // By its whole name, from a registry of another namespace.
    let elsewhere = Space::new().await.builder().open().unwrap();
    let whole = ServiceName::new(format!("orders.{}", space.name)).unwrap();
    assert_eq!(elsewhere.lookup(&whole).await.unwrap().len(), 3);
    let first = timeout(LONG, elsewhere.watch(&whole).next()).await.unwrap().unwrap().unwrap();
    assert_eq!((first.len(), first.service()), (3, &whole));
    assert!(elsewhere.lookup(&orders()).await.unwrap().is_empty());
    for registry in [registry, elsewhere] {
        registry.close().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn terminating_pods_are_picked_when_all_are() {
    let space = Space::new().await;
    let pods = |state| {
        let pods = [1, 2].map(|pod| endpoint(&format!("p{pod}"), &format!("10.1.0.{pod}"), state));
        slice("orders-a", "orders", vec![port("http", 80)], pods.into())
    };
    space.put(&pods(READY)).await;
    let selector = Selector::new(Directory::new(space.builder().open().unwrap()));
    selector.select(&orders()).await.unwrap().success();
    let registry = space.builder().open().unwrap();
    let mut watch = registry.watch(&orders());
    until(&mut watch, |now| now.len() == 2).await;
    space.put(&pods(GOING)).await;
    let going = until(&mut watch, |now| now.all()[0].health() == Health::Warning).await;
    assert_eq!(going.healthy().count(), 2);
    for _ in 0..100 {
        selector.select(&orders()).await.unwrap().success();
    }
    // Another that is ready, and they are left alone.
    let ready = slice("orders-b", "orders", vec![port("http", 80)], vec![endpoint("p3", "10.1.0.3", READY)]);
    space.put(&ready).await;
    let now = until(&mut watch, |now| now.len() == 3).await;
    let healthy: Vec<&str> = now.healthy().map(|instance| instance.id().as_str()).collect();
    assert_eq!(healthy, ["uid-of-p3"]);
    registry.close().await.unwrap();
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn labels_of_pods_are_told_and_followed() {
    let space = Space::new().await;
    let pods: Api<Pod> = Api::namespaced(space.admin().await, &space.name);
    let pod = |team: &str| {
        let labels = serde_json::json!({ "app.kubernetes.io/version": "1.2.0", "team": team, "other": "x" });
        serde_json::from_value::<Pod>(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "p1", "labels": labels },
            "spec": { "containers": [{ "name": "c", "image": "example.org/c" }] },
        }))
        .unwrap()
    };
    let put = async |team: &str| {
        pods.patch("p1", &PatchParams::apply("tests").force(), &Patch::Apply(&pod(team))).await.unwrap();
    };
    put("a").await;
    space
        .put(&slice("orders-a", "orders", vec![port("", 80)], vec![endpoint("p1", "10.1.0.1", READY)]))
        .await;
    let registry = space.builder().labels(["team"]).open().unwrap();
    let found = registry.lookup(&orders()).await.unwrap();
    let shown = |instance: &Instance| {
        (instance.version().map(ToOwned::to_owned), instance.metadata().get("team").cloned())
    };
    assert_eq!(shown(&found.all()[0]), (Some("1.2.0".into()), Some("a".into())));
    assert_eq!(found.all()[0].metadata().get("other"), None);
    let mut watch = registry.watch(&orders());
    assert_eq!(timeout(LONG, watch.next()).await.unwrap().unwrap().unwrap(), found);
    put("b").await;
    until(&mut watch, |now| shown(&now.all()[0]).1.as_deref() == Some("b")).await;
    registry.close().await.unwrap();
}

/// More services than have a watch of their own.
#[tokio::test]
#[ignore = "needs kubernetes"]
async fn many_services_are_watched_as_few() {
    let space = Space::new().await;
    let registry = space.builder().open().unwrap();
    let name = |index: usize| ServiceName::new(format!("service-{index}")).unwrap();
    let mut watches: Vec<SnapshotStream> = (0..30).map(|index| registry.watch(&name(index))).collect();
    for watch in &mut watches {
        assert!(timeout(LONG, watch.next()).await.unwrap().unwrap().unwrap().is_empty());
    }
    for (index, watch) in watches.iter_mut().enumerate() {
        let slice = slice(
            &format!("s-{index}"),
            name(index).as_str(),
            vec![port("", 80)],
            vec![endpoint("p", "10.1.0.1", READY)],
        );
        space.put(&slice).await;
        let told = until(watch, |now| !now.is_empty()).await;
        assert_eq!(told.service(), &name(index));
    }
    registry.close().await.unwrap();
    for watch in &mut watches {
        let closed = timeout(LONG, watch.next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(closed.kind(), switchboard_core::ErrorKind::Closed);
        assert!(watch.next().await.is_none());
    }
}
