use std::slice::from_ref;

use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::json;

use super::*;

fn name() -> ServiceName {
    ServiceName::new("orders").unwrap()
}

/// A slice as the API server writes it.
fn read(value: serde_json::Value) -> EndpointSlice {
    serde_json::from_value(value).unwrap()
}

fn endpoint(pod: &str, address: &str) -> serde_json::Value {
    json!({ "addresses": [address], "targetRef": { "kind": "Pod", "name": pod, "uid": format!("uid-{pod}") } })
}

fn of(version: u64, kind: &str, endpoints: &[serde_json::Value]) -> EndpointSlice {
    read(json!({
        "metadata": { "name": format!("orders-{version}"), "resourceVersion": version.to_string(),
                      "labels": { "kubernetes.io/service-name": "orders" } },
        "addressType": kind,
        "endpoints": endpoints,
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
    }))
}

fn gathered(slices: &[EndpointSlice], settings: &KubernetesBuilder) -> Vec<Instance> {
    gathered_with(slices, &Pods::new(), settings)
}

fn gathered_with(slices: &[EndpointSlice], pods: &Pods, settings: &KubernetesBuilder) -> Vec<Instance> {
    let parts: Vec<Part> =
        slices.iter().flat_map(|slice| parts(&name(), slice, settings)).filter_map(Result::ok).collect();
    gather(&name(), parts.iter(), pods, settings, Timestamp::now()).instances
}

fn default() -> KubernetesBuilder {
    KubernetesBuilder::default()
}

#[test]
fn a_pod_in_two_slices_is_one_instance_as_the_later_has_it() {
    let ready = endpoint("a", "10.0.0.1");
    let mut not = ready.clone();
    not["conditions"] = json!({ "ready": false });
    for slices in [
        [of(1, "IPv4", from_ref(&ready)), of(2, "IPv4", from_ref(&not))],
        [of(2, "IPv4", from_ref(&not)), of(1, "IPv4", from_ref(&ready))],
    ] {
        let found = gathered(&slices, &default());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id().as_str(), found[0].health()), ("uid-a", Health::Critical));
        assert_eq!(found[0].addresses().len(), 1);
    }
    assert_eq!(
        gathered(&[of(1, "IPv4", &[not]), of(2, "IPv4", &[ready])], &default())[0].health(),
        Health::Passing
    );
}

#[test]
fn both_families_of_a_pod_are_its_addresses_the_wanted_first() {
    let slices =
        [of(1, "IPv6", &[endpoint("a", "2001:db8::1")]), of(2, "IPv4", &[endpoint("a", "10.0.0.1")])];
    let shown = |settings: &KubernetesBuilder| {
        let found = gathered(&slices, settings);
        assert_eq!(found.len(), 1);
        found[0].addresses().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(shown(&default()), ["10.0.0.1:80", "[2001:db8::1]:80"]);
    assert_eq!(shown(&default().ip_family(IpFamily::Ipv6)), ["[2001:db8::1]:80", "10.0.0.1:80"]);
}

#[test]
fn conditions_are_health() {
    let state =
        |ready, serving, terminating| State::of(Some(&EndpointConditions { ready, serving, terminating }));
    assert_eq!(State::of(None), State::Ready);
    assert_eq!(state(None, None, None), State::Ready);
    assert_eq!(state(Some(false), Some(true), Some(true)), State::Terminating);
    assert_eq!(state(Some(false), Some(true), None), State::NotReady);
    assert_eq!(state(Some(false), None, Some(true)), State::NotReady);
    assert_eq!(state(Some(false), Some(false), Some(true)), State::NotReady);
    // A Service with publishNotReadyAddresses.
    assert_eq!(state(Some(true), Some(true), Some(true)), State::Ready);
}

#[test]
fn terminating_pods_are_used_when_nothing_else_is() {
    let mut going = endpoint("a", "10.0.0.1");
    going["conditions"] = json!({ "ready": false, "serving": true, "terminating": true });
    let mut down = endpoint("b", "10.0.0.2");
    down["conditions"] = json!({ "ready": false, "serving": false });
    let healths = |endpoints: &[serde_json::Value]| {
        let found = gathered(&[of(1, "IPv4", endpoints)], &default());
        found.iter().map(Instance::health).collect::<Vec<_>>()
    };
    assert_eq!(healths(&[going.clone(), down.clone()]), [Health::Warning, Health::Critical]);
    assert_eq!(
        healths(&[going, down, endpoint("c", "10.0.0.3")]),
        [Health::Critical, Health::Critical, Health::Passing]
    );
}

#[test]
fn where_it_runs_and_what_else_it_offers_is_metadata() {
    let mut endpoint = endpoint("a", "10.0.0.1");
    endpoint["zone"] = json!("eu-1");
    endpoint["nodeName"] = json!("node-7");
    let mut slice = of(1, "IPv4", &[endpoint]);
    slice.ports = serde_json::from_value(json!([
        { "name": "dns", "port": 53, "protocol": "UDP" },
        { "name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http" },
        { "name": "grpc", "port": 9090, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c" },
    ]))
    .unwrap();
    let shown = |settings: &KubernetesBuilder| {
        let found = gathered(from_ref(&slice), settings);
        let pairs: Vec<String> =
            found[0].metadata().iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{} {}", found[0].address(), pairs.join(" "))
    };
    assert_eq!(
        shown(&default()),
        "10.0.0.1:80 node=node-7 pod=a port.dns=53 port.grpc=9090 protocol=http zone=eu-1"
    );
    assert_eq!(
        shown(&default().port("grpc")),
        "10.0.0.1:9090 node=node-7 pod=a port.dns=53 port.http=80 protocol=kubernetes.io/h2c zone=eu-1"
    );
    let missing = parts(&name(), &slice, &default().port("metrics"));
    let unread = missing[0].clone().unwrap_err();
    assert_eq!(
        (unread.endpoint.as_str(), unread.why.as_str()),
        ("a", "its slice has no port named \"metrics\"; there are: \"dns\", \"http\", \"grpc\"")
    );
}

#[test]
fn one_port_may_have_another_number_in_another_slice() {
    let mut other = of(2, "IPv4", &[endpoint("b", "10.0.0.2")]);
    other.ports.as_mut().unwrap()[0].port = Some(8080);
    let found = gathered(&[of(1, "IPv4", &[endpoint("a", "10.0.0.1")]), other], &default().port("http"));
    let shown: Vec<String> = found.iter().map(|instance| instance.address().to_string()).collect();
    assert_eq!(shown, ["10.0.0.1:80", "10.0.0.2:8080"]);
}

#[test]
fn without_a_pod_the_address_and_port_are_the_id() {
    let mut other = of(2, "IPv4", &[json!({ "addresses": ["10.0.0.1"] })]);
    other.ports.as_mut().unwrap()[0].port = Some(81);
    let first = of(1, "IPv4", &[json!({ "addresses": ["10.0.0.1"] })]);
    let found = gathered(&[first.clone(), first, other], &default());
    let shown: Vec<&str> = found.iter().map(|instance| instance.id().as_str()).collect();
    assert_eq!(shown, ["10.0.0.1:80", "10.0.0.1:81"]);
}

#[test]
fn labels_of_pods_are_read_when_they_are_wanted() {
    let labels = [(VERSION, "1.2.0"), ("team", "a"), ("secret", "b")];
    let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into();
    let pods = Pods::from([("a".to_owned(), labels)]);
    let slices = [of(1, "IPv4", &[endpoint("a", "10.0.0.1")])];
    let found = gathered_with(&slices, &pods, &default().labels(["team"]));
    assert_eq!(found[0].version(), Some("1.2.0"));
    assert_eq!(found[0].metadata().get("team").map(String::as_str), Some("a"));
    assert_eq!(found[0].metadata().get("secret"), None);
    assert_eq!(gathered_with(&slices, &pods, &default())[0].version(), None);
}

fn registered() -> Instance {
    Instance::builder("orders")
        .id("größe/1")
        .version("2")
        .address("10.9.0.1:80")
        .address("10.9.0.1:81")
        .metadata("zone", "eu-1")
        .weight(3)
        .build()
        .unwrap()
}

#[test]
fn what_is_registered_is_read_back_until_it_lapses() {
    let now = Timestamp::now();
    let soon = now + k8s_openapi::jiff::SignedDuration::from_secs(5);
    let written = slice(&registered(), "orders", Some(soon)).unwrap();
    assert_eq!(written.endpoints[0].zone.as_deref(), Some("eu-1"));
    assert_eq!(lapsed_since(&written), Some(soon));
    let read: Vec<Part> = parts(&name(), &written, &default()).into_iter().map(Result::unwrap).collect();
    let at = |time| gather(&name(), read.iter(), &Pods::new(), &default(), time);
    assert_eq!(at(now).instances, [registered()]);
    assert_eq!((at(now).next_lapse, at(now).own.len()), (Some(soon), 1));
    assert_eq!((at(soon).instances.len(), at(soon).next_lapse), (0, None));
    // Under the name by which it is asked for from another namespace.
    let elsewhere = ServiceName::new("orders.shop").unwrap();
    let read = parts(&elsewhere, &written, &default()).into_iter().map(Result::unwrap).collect::<Vec<_>>();
    let found = gather(&elsewhere, read.iter(), &Pods::new(), &default(), now).instances;
    assert_eq!((found[0].service(), found[0].id()), (&elsewhere, registered().id()));
}

#[test]
fn what_kubernetes_does_not_take_is_refused_before_it_is_sent() {
    let with = |address: &str| registered().to_builder().clear_addresses().address(address).build().unwrap();
    for address in ["127.0.0.1:80", "[::1]:80", "169.254.1.1:80", "[fe80::1]:80"] {
        let why = slice(&with(address), "orders", None).unwrap_err();
        assert_eq!(why.what(), format!("first address {address}"));
        assert_eq!(why.why(), "is of loopback or the link, which Kubernetes takes for no endpoint");
    }
    for address in ["db_1.example.com:80", "localhost:80"] {
        assert!(
            slice(&with(address), "orders", None).unwrap_err().why().contains("full host name"),
            "{address}"
        );
    }
    let kinds = ["db.Example.com:80", "[2001:db8::1]:80", "10.0.0.1:80"]
        .map(|address| slice(&with(address), "orders", None).unwrap());
    let shown =
        kinds.each_ref().map(|slice| (slice.address_type.as_str(), slice.endpoints[0].addresses[0].as_str()));
    assert_eq!(shown, [("FQDN", "db.example.com"), ("IPv6", "2001:db8::1"), ("IPv4", "10.0.0.1")]);
    let names = names_of("orders", registered().id());
    assert!(kinds.iter().all(|slice| names.contains(slice.metadata.name.as_ref().unwrap())));
    let large = registered().to_builder().metadata("large", "x".repeat(MOST_ANNOTATIONS)).build().unwrap();
    assert!(slice(&large, "orders", None).unwrap_err().why().ends_with("may hold 262144 in all"));
}

#[test]
fn what_is_no_instance_is_told_of_and_nothing_panics() {
    let mut broken = slice(&registered(), "orders", None).unwrap();
    for json in ["", "[]", "7", "{}", r#"{"id":"a","addresses":[]}"#] {
        broken.metadata.annotations.as_mut().unwrap().insert(INSTANCE.into(), json.into());
        let read = parts(&name(), &broken, &default());
        let why = read[0].clone().unwrap_err().why;
        assert!(why.starts_with("its annotation switchboard/instance is no instance: "), "{json}: {why}");
    }
    let mut late = slice(&registered(), "orders", None).unwrap();
    late.metadata.annotations.as_mut().unwrap().insert(LAPSES.into(), "tomorrow".into());
    assert!(parts(&name(), &late, &default())[0].clone().unwrap_err().why.contains("is no time"));
    // Whoever else writes such an annotation is not believed.
    let mut foreign = slice(&registered(), "orders", None).unwrap();
    foreign.metadata.labels.as_mut().unwrap().remove(MANAGED_BY);
    assert_eq!(gathered(&[foreign], &default())[0].id().as_str(), "10.9.0.1:80");
    let mut odd = of(1, "IPv4", &[json!({ "addresses": [] }), json!({ "addresses": ["a b"] })]);
    assert!(parts(&name(), &odd, &default()).iter().all(Result::is_err));
    for port in [Some(-1), Some(0), Some(65_536), None] {
        odd.ports.as_mut().unwrap()[0].port = port;
        assert_eq!(
            parts(&name(), &odd, &default())[0].clone().unwrap_err().why,
            "its port \"http\" has no number"
        );
    }
    odd.ports = None;
    assert_eq!(parts(&name(), &odd, &default())[0].clone().unwrap_err().why, "its slice has no port");
    let empty_uid = ObjectReference { uid: Some(String::new()), ..ObjectReference::default() };
    let mut without = of(1, "IPv4", &[endpoint("a", "10.0.0.1")]);
    without.endpoints[0].target_ref = Some(empty_uid);
    assert!(parts(&name(), &without, &default())[0].is_err());
}
