//! The command on Kubernetes.
#![cfg(feature = "kubernetes")]

#[allow(dead_code, unused_imports, reason = "it is for the registry's own tests")]
#[path = "../../../switchboard-kubernetes/tests/kubernetes/support/mod.rs"]
mod support;

use support::{Cluster, Space, endpoint, port, slice};

use crate::support::run;

/// Two pods, of which one is not ready, and a namespace.
async fn shop() -> Space {
    let space = Space::named(Cluster::shared().await, "shop").await;
    let pods = [("p1", [true, true, false]), ("p2", [false, false, false])];
    let pods = pods.map(|(pod, state)| endpoint(pod, &format!("10.1.0.{}", &pod[1..]), state));
    space.put(&slice("orders-a", "orders", vec![port("http", 80)], pods.into())).await;
    space
}

#[test]
#[ignore = "needs kubernetes"]
fn it_lists_pods_and_doctor_says_why_one_is_not_used() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (space, stranger) = runtime.block_on(async {
        let space = shop().await;
        let stranger = space.builder_of("stranger").await.open().unwrap().to_string();
        (space, stranger)
    });
    let registry = space.builder().open().unwrap().to_string();
    let said = run(&registry, &["instances", "orders", "-o", "template={{ address }} {{ health }}"]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "10.1.0.1:80 passing\n10.1.0.2:80 critical\n"),
        "{said:?}"
    );
    assert_eq!(run(&registry, &["services", "-o", "name"]).out, "orders\n");

    let doctor = run(&registry, &["doctor", "orders"]);
    let lines: Vec<&str> = doctor.out.lines().collect();
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    assert!(
        lines[0].starts_with("ok       server      https://127.0.0.1:")
            && lines[0].contains("Kubernetes v1."),
        "{lines:?}"
    );
    assert_eq!(lines[1], "ok       identity    it takes this program for admin");
    assert_eq!(
        lines[2],
        "ok       rights      in the namespace shop: list endpointslices, watch endpointslices"
    );
    assert_eq!(lines[3], "ok       slices      EndpointSlices of orders: 1, endpoints in them: 2, used: 1");
    assert_eq!(lines[4], "warning  endpoint    p2: it is not ready");
    let unknown = run(&registry, &["doctor", "stock"]);
    assert!(
        unknown.out.contains("warning  slices      the namespace shop has no EndpointSlice of stock"),
        "{unknown:?}"
    );
    let elsewhere = registry.replace('?', "?port=grpc&");
    let unread = run(&elsewhere, &["doctor", "orders"]);
    assert!(
        unread.out.contains("p1: its slice has no port named \"grpc\"; there are: \"http\""),
        "{unread:?}"
    );

    let denied = run(&stranger, &["doctor", "orders"]);
    assert_eq!(denied.code, Some(1), "{denied:?}");
    let rights = "PROBLEM  rights      in the namespace shop it may not list endpointslices, watch endpointslices, needed to read";
    assert!(denied.out.contains(rights), "{denied:?}");
    assert!(
        denied.out.contains("-> add the rule to a Role there: apiGroups: [\"discovery.k8s.io\"]"),
        "{denied:?}"
    );
    drop(runtime);
}

#[test]
fn doctor_says_that_a_kubeconfig_is_missing() {
    let said = run("kubernetes:?kubeconfig=/no/such/file", &["doctor", "orders"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.starts_with("PROBLEM  server "), "{said:?}");
    assert!(said.out.contains("see the kubeconfig: kubectl config view"), "{said:?}");
}
