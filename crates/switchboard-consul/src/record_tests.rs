use proptest::prelude::*;
use switchboard_core::{Health, InstanceBuilder, Value};

use super::*;
use crate::entry::decode;

/// The health entry Consul makes of a registration.
fn entry(instance: &Instance, wire: Wire) -> Result<String, Invalid> {
    let body: serde_json::Value = serde_json::from_slice(&encode(instance, &[], wire)?).unwrap();
    let meta = body["Meta"].as_object().unwrap();
    assert!(meta.len() <= 64, "{} pairs", meta.len());
    for (key, value) in meta {
        assert!(key.len() <= 128 && key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'));
        assert!(!key.starts_with("consul-") && value.as_str().unwrap().len() <= 512);
    }
    let service = serde_json::json!({
        "ID": body["ID"], "Service": body["Name"], "Tags": body["Tags"], "Address": body["Address"],
        "Port": body["Port"], "Meta": body["Meta"], "Weights": body["Weights"],
        "TaggedAddresses": body["TaggedAddresses"],
    });
    Ok(serde_json::json!({ "Node": { "Address": "10.9.9.9" }, "Service": service, "Checks": [] }).to_string())
}

fn read(json: &str) -> Instance {
    decode(json).unwrap().instance.unwrap()
}

fn base() -> InstanceBuilder {
    Instance::builder("greeter").id("greeter-1").address("10.0.0.7:8080")
}

fn round_trips(builder: InstanceBuilder) {
    let instance = builder.build().unwrap();
    for wire in [Wire::Plain, Wire::GoMicro] {
        assert_eq!(read(&entry(&instance, wire).unwrap()), instance, "{wire:?}");
    }
}

#[test]
fn everything_reads_back() {
    let tree = Value::new("Request", "Req").with_values([Value::new("names", "[]string"), Value::default()]);
    round_trips(
        base()
            .version("1.2.0")
            .address("[fe80::1%2]:8081")
            .address("db.example.com:1")
            .address("[2001:db8::1]:9")
            .tag("a tag")
            .tag("traefik.enable=true")
            .metadata("zone", "eu-1")
            .metadata("a.b/c", "dots")
            .metadata("version", "not the version")
            .metadata("consul-x", "")
            .metadata("switchboard-1", "x")
            .metadata("long", "é".repeat(700))
            .endpoint(
                switchboard_core::Endpoint::new("A.B").with_metadata("stream", "true").with_request(tree),
            )
            .endpoint("C")
            .weight(5)
            .warning_weight(5),
    );
    round_trips(base().metadata("version", "without one"));
    round_trips(base().tag("version=9"));
    round_trips(base().weight(65535).warning_weight(0));
    round_trips((0..200).fold(base(), |base, n| base.metadata(format!("k{n}"), "v")));
}

#[test]
fn plain_registrations_are_what_an_operator_would_write() {
    let instance = base().version("2").metadata("zone", "eu").tag("canary").build().unwrap();
    let json = String::from_utf8(encode(&instance, &[], Wire::Plain).unwrap()).unwrap();
    assert_eq!(
        json,
        r#"{"ID":"greeter-1","Name":"greeter","Tags":["canary"],"Address":"10.0.0.7","Port":8080,"Meta":{"version":"2","zone":"eu"},"Weights":{"Passing":1,"Warning":1},"TaggedAddresses":{},"Checks":[]}"#
    );
}

#[test]
fn tags_that_look_like_another_programs_stay_tags() {
    let odd = ["v=1", "v-78da010000ffff00000001", "t={}", r#"e={"name":"x"}"#, "version=3"];
    let instance = odd.iter().fold(base(), |base, tag| base.tag(*tag)).build().unwrap();
    assert_eq!(read(&entry(&instance, Wire::Plain).unwrap()), instance);
}

#[test]
fn too_much_is_refused_with_size_and_limit() {
    let instance =
        (0..64).fold(base(), |base, n| base.metadata(format!("k.{n}"), "v".repeat(1000))).build().unwrap();
    let refused = entry(&instance, Wire::Plain).unwrap_err();
    assert!(refused.why().starts_with("take 64"), "{refused}");
    assert!(refused.why().ends_with("the limit is about 32768"), "{refused}");
}

#[test]
fn reads_what_others_register() {
    // By hand: an address only on the node, no weights, nulls.
    let by_hand = r#"{"Node":{"Address":"10.0.0.1"},"Service":{"ID":"a","Service":"a","Tags":null,"Address":"","Port":80,"Meta":null},"Checks":null}"#;
    assert_eq!(read(by_hand), Instance::builder("a").id("a").address("10.0.0.1:80").build().unwrap());
    // kratos: the version in a tag, endpoints as tagged addresses.
    let kratos = r#"{"Service":{"ID":"a","Service":"a","Tags":["version=v1.2"],"Address":"10.0.0.1","Port":80,"TaggedAddresses":{"http":{"Address":"http://10.0.0.1:80","Port":80},"lan_ipv4":{"Address":"10.0.0.1","Port":80}}}}"#;
    assert_eq!(read(kratos).version(), Some("v1.2"));
    assert_eq!(read(kratos).addresses().len(), 1);
    assert_eq!(read(kratos).metadata()["address.http"], "http://10.0.0.1:80");
    assert_eq!(read(kratos).metadata().len(), 1, "Consul's own are left out");
    // Spring: labels in Meta.
    let spring = r#"{"Service":{"ID":"a-8080","Service":"a","Tags":[],"Address":"host","Port":8080,"Meta":{"secure":"false","version":"3"}}}"#;
    assert_eq!((read(spring).version(), read(spring).metadata()["secure"].as_str()), (Some("3"), "false"));
}

#[test]
fn the_worst_check_counts_and_maintenance_before_all() {
    let health = |checks: &str| {
        let json =
            format!(r#"{{"Service":{{"ID":"a","Service":"a","Address":"h","Port":1}},"Checks":[{checks}]}}"#);
        read(&json).health()
    };
    let check = |id: &str, status: &str| format!(r#"{{"CheckID":"{id}","Status":"{status}"}}"#);
    assert_eq!(health(""), Health::Passing);
    assert_eq!(health(&[check("a", "passing"), check("b", "warning")].join(",")), Health::Warning);
    assert_eq!(health(&[check("serfHealth", "critical"), check("b", "passing")].join(",")), Health::Critical);
    assert_eq!(health(&check("a", "unheard of")), Health::Critical);
    let maintenance = check("_service_maintenance:a", "critical");
    assert_eq!(health(&[maintenance, check("a", "passing")].join(",")), Health::Maintenance);
    assert_eq!(health(&check("_node_maintenance", "critical")), Health::Maintenance);
}

#[test]
fn what_cannot_be_used_is_told_apart_from_what_is_no_answer() {
    for service in [
        r#"{"ID":"a","Service":"a","Address":"h","Port":0}"#,
        r#"{"ID":"a","Service":"a","Address":"h","Port":70000}"#,
        r#"{"ID":"a","Service":"a","Address":"h","Port":-1}"#,
        r#"{"ID":"","Service":"a","Address":"h","Port":1}"#,
        r#"{"ID":"a","Service":"a","Address":"","Port":1}"#,
    ] {
        assert!(decode(&format!(r#"{{"Service":{service}}}"#)).unwrap().instance.is_err(), "{service}");
    }
    for foreign in ["1", "{}", r#"{"Service":{}}"#, r#"{"Service":{"ID":1,"Service":"a"}}"#] {
        assert!(decode(foreign).is_err(), "{foreign}");
    }
    // Weights nobody can have, and pieces that are not ours.
    let odd = r#"{"Service":{"ID":"a","Service":"a","Address":"h","Port":1,"Weights":{"Passing":0,"Warning":-3},"Meta":{"switchboard-1":"{"}}}"#;
    assert_eq!(read(odd).weight().get(), 1);
}

fn text() -> impl Strategy<Value = String> {
    "[ -~äß漢]{0,40}"
}

proptest! {
    #[test]
    fn any_instance_reads_back(
        version in proptest::option::of("[a-z0-9.]{1,9}"),
        tags in proptest::collection::btree_set("([vte][-=]|version=)?[ -~]{1,20}", 0..4),
        metadata in proptest::collection::btree_map("[ -<>-~]{1,20}|version|switchboard-[0-9]", text(), 0..50),
        endpoints in proptest::collection::btree_map("[A-Z][a-z.]{0,9}", (text(), text()), 0..4),
        weight in 1u16..,
        warning in proptest::option::of(any::<u16>()),
    ) {
        let mut builder = base().weight(weight);
        if let Some(version) = version { builder = builder.version(version); }
        if let Some(warning) = warning { builder = builder.warning_weight(warning); }
        for tag in tags { builder = builder.tag(tag); }
        for (key, value) in metadata { builder = builder.metadata(key, value); }
        for (name, (key, value)) in endpoints {
            builder = builder.endpoint(switchboard_core::Endpoint::new(name).with_metadata(key, value));
        }
        let instance = builder.build().unwrap();
        prop_assert_eq!(&read(&entry(&instance, Wire::Plain).unwrap()), &instance);
        if let Ok(json) = entry(&instance, Wire::GoMicro) {
            prop_assert_eq!(&read(&json), &instance);
        }
    }

    #[test]
    fn decoding_never_panics(port in any::<i64>(), id in any::<String>(), key in any::<String>(), tag in any::<String>()) {
        let json = serde_json::json!({ "Service": {
            "ID": id, "Service": "a", "Address": id, "Port": port, "Tags": [tag, key], "Meta": { key: id },
            "TaggedAddresses": { "switchboard-2": { "Address": tag, "Port": port } },
        }});
        let _ = decode(&json.to_string());
    }
}
