//! docs/instances.schema.json says what is read, no less and, as far as a schema can tell, no more.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use switchboard_core::Registry;
use switchboard_static::StaticRegistry;

fn schema() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/instances.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Whether it is read as a list of one instance.
async fn is_read(document: &Value) -> bool {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("list.json");
    std::fs::write(&path, document.to_string()).unwrap();
    let registry = StaticRegistry::file(path).open().unwrap();
    registry.services().await.is_ok_and(|names| names.len() == 1)
}

fn whole() -> Value {
    json!({
        "service": "orders", "id": "1", "version": "1.2", "addresses": ["10.0.0.1:80", "[::1]:80"], "tags": ["canary"],
        "metadata": {"zone": "eu-1", "empty": ""},
        "endpoints": [{
            "name": "Orders.Place", "metadata": {"stream": "false"},
            "request": {"name": "r", "type": "R", "values": [{"name": "n", "type": "string"}]},
        }],
        "weight": 65535, "warning_weight": 0, "health": "warning",
        "health_reasons": [{"check": "disk", "health": "warning", "output": "full", "notes": ""}],
    })
}

#[tokio::test]
async fn both_take_the_same() {
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let with = |key: &str, value: Value| {
        let mut entry = whole();
        entry[key] = value;
        json!([entry])
    };
    let good = [
        json!([whole()]),
        json!({"instances": [whole()]}),
        json!([{"service": "orders", "addresses": ["h:1"]}]),
        with("version", Value::Null),
        with("endpoints", json!([])),
        with("health", json!("maintenance")),
    ];
    for document in good {
        assert!(validator.is_valid(&document) && is_read(&document).await, "{document}");
    }
    let bad = [
        json!({}),
        json!("orders"),
        json!([1]),
        json!([{"service": "orders"}]),
        json!({"instances": [whole()], "more": 1}),
        with("addresses", json!([])),
        with("addresses", json!(["10.0.0.1"])),
        with("service", json!("")),
        with("service", json!("x".repeat(256))),
        with("adress", json!("h:1")),
        with("weight", json!(0)),
        with("weight", json!(65536)),
        with("warning_weight", json!(-1)),
        with("health", json!("well")),
        with("tags", json!("canary")),
        with("tags", json!([""])),
        with("tags", json!(["x".repeat(256)])),
        with("metadata", json!({"zone": 1})),
        with("metadata", json!({"": "x"})),
        with("endpoints", json!(["Orders.Place"])),
        with("health_reasons", json!([{"health": "critical"}])),
    ];
    for document in bad {
        assert!(!validator.is_valid(&document) && !is_read(&document).await, "{document}");
    }
}

/// What the command line writes, whose keys are those of an instance's own JSON.
#[test]
fn what_is_written_of_an_instance_is_a_list() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let instance: switchboard_core::Instance = serde_json::from_value(whole()).unwrap();
    let written = serde_json::to_value([instance]).unwrap();
    assert!(validator.is_valid(&written), "{written}");
}
