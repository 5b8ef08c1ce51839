//! An instance as key and value, and back; also as others write them.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use switchboard_core::{Endpoint, Health, Instance, InstanceId, Invalid, ServiceName};

use crate::Wire;

/// What is escaped in a part of a key, so that no part holds a slash and every name fits.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'/').add(b'%').add(b' ');

/// What the keys of all services begin with, up to and with the slash.
pub(crate) fn root(prefix: &str) -> String {
    if prefix.is_empty() { String::new() } else { format!("{}/", prefix.trim_end_matches('/')) }
}

/// What the keys of a service begin with, up to and with the slash, so that none is a prefix of another's.
pub(crate) fn service_root(prefix: &str, wire: Wire, service: &ServiceName) -> String {
    let name = match wire {
        // go-micro's own: a slash would end the name.
        Wire::GoMicro => service.as_str().replace('/', "-"),
        Wire::Plain | Wire::Grpc => escaped(service.as_str()),
    };
    format!("{}{name}/", root(prefix))
}

pub(crate) fn key(prefix: &str, wire: Wire, service: &ServiceName, id: &InstanceId) -> String {
    let id = match wire {
        Wire::GoMicro => id.as_str().replace('/', "-"),
        Wire::Plain | Wire::Grpc => escaped(id.as_str()),
    };
    format!("{}{id}", service_root(prefix, wire, service))
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// The service and the rest of a key beneath `root`; `None` for what is none of ours.
pub(crate) fn split(root: &str, key: &[u8]) -> Option<(ServiceName, String)> {
    let key = std::str::from_utf8(key).ok()?.strip_prefix(root)?;
    let (service, id) = key.split_once('/')?;
    let name = unescaped(service)?;
    // Escaped in another way, nobody would look for it there.
    if escaped(&name) != service {
        return None;
    }
    Some((ServiceName::new(name).ok()?, unescaped(id)?))
}

fn unescaped(text: &str) -> Option<String> {
    percent_decode(text.as_bytes()).decode_utf8().ok().map(Into::into)
}

/// An instance as a value.
pub(crate) fn value(wire: Wire, instance: &Instance) -> Vec<u8> {
    let value = match wire {
        Wire::Plain => {
            let passing = instance.clone().with_health(Health::Passing);
            serde_json::to_value(passing).unwrap_or_default()
        }
        Wire::GoMicro => go_micro(instance),
        Wire::Grpc => json!({
            "Op": 0,
            "Addr": instance.address().to_string(),
            "Metadata": instance.metadata(),
        }),
    };
    value.to_string().into_bytes()
}

/// go-micro's service with one node.
fn go_micro(instance: &Instance) -> Value {
    json!({
        "name": instance.service(),
        "version": instance.version().unwrap_or("latest"),
        "metadata": {},
        "endpoints": instance.endpoints(),
        "nodes": [{
            "id": instance.id(),
            "address": instance.address().to_string(),
            "metadata": instance.metadata(),
        }],
    })
}

/// What others write, as far as it is of use.
#[derive(Deserialize)]
#[serde(untagged)]
enum Foreign {
    GoMicro {
        nodes: Vec<Node>,
        version: Option<String>,
        #[serde(default)]
        endpoints: Value,
    },
    Grpc {
        #[serde(rename = "Addr")]
        addr: String,
        #[serde(rename = "Metadata", default)]
        metadata: Value,
    },
    Kratos {
        id: String,
        endpoints: Vec<String>,
        version: Option<String>,
        metadata: Option<serde_json::Map<String, Value>>,
    },
}

#[derive(Deserialize)]
struct Node {
    id: String,
    address: String,
    metadata: Option<serde_json::Map<String, Value>>,
}

/// The instance at this key.
pub(crate) fn read(service: &ServiceName, rest: &str, value: &[u8]) -> Result<Instance, Invalid> {
    if let Ok(instance) = serde_json::from_slice::<Instance>(value) {
        return if instance.service() == service {
            Ok(instance.with_health(Health::Passing))
        } else {
            Err(Invalid::new(
                format!("an instance of {:?}", instance.service()),
                format!("is under {service:?}"),
            ))
        };
    }
    let wrong = |why: String| Invalid::new(format!("the value of {service}/{rest}"), why);
    let foreign: Foreign = serde_json::from_slice(value)
        .map_err(|_| wrong("is no JSON that Switchboard, go-micro, gRPC or kratos writes".into()))?;
    let mut described = Vec::new();
    let (id, addresses, version, metadata) = match foreign {
        Foreign::GoMicro { nodes, version, endpoints } => {
            described = read_endpoints(endpoints);
            let node = nodes.into_iter().next().ok_or_else(|| wrong("has no nodes".into()))?;
            (node.id, vec![node.address], version, node.metadata.unwrap_or_default())
        }
        Foreign::Grpc { addr, metadata } => {
            let metadata = if let Value::Object(map) = metadata { map } else { serde_json::Map::new() };
            (rest.to_owned(), vec![addr], None, metadata)
        }
        Foreign::Kratos { id, endpoints, version, metadata } => {
            // grpc://10.0.0.1:9000?isSecure=false
            let host = |url: String| {
                let host = url.split_once("://").map_or(&*url, |(_, host)| host);
                host.split(['?', '/']).next().unwrap_or_default().to_owned()
            };
            (id, endpoints.into_iter().map(host).collect(), version, metadata.unwrap_or_default())
        }
    };
    let mut builder = Instance::builder(service).id(id);
    for address in addresses {
        builder = builder.address(address);
    }
    if let Some(version) = version.filter(|version| !version.is_empty()) {
        builder = builder.version(version);
    }
    for (key, value) in metadata {
        let text = if let Value::String(text) = value { text } else { value.to_string() };
        builder = builder.metadata(key, text);
    }
    described.into_iter().fold(builder, switchboard_core::InstanceBuilder::endpoint).build_lossy()
}

/// go-micro's endpoints, which are as ours but for what is null.
fn read_endpoints(endpoints: Value) -> Vec<Endpoint> {
    let Value::Array(all) = without_nulls(endpoints) else { return Vec::new() };
    all.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Array(all) => all.into_iter().map(without_nulls).collect(),
        Value::Object(all) => all
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName::new(name).unwrap()
    }

    #[test]
    fn no_service_is_beneath_another_and_all_come_back() {
        for service in ["a", "ab", "go.micro.srv.greeter", "registry-consul.service"] {
            let service = name(service);
            let id = InstanceId::new("x/y%z").unwrap();
            let key = key("sb", Wire::Plain, &service, &id);
            assert_eq!(split(&root("sb"), key.as_bytes()), Some((service.clone(), "x/y%z".into())));
            assert!(!key.starts_with("sb/a/") || service.as_str() == "a", "{key}");
        }
        assert_eq!(split("sb/", b"sb/a"), None);
        assert_eq!(split("sb/", b"sbx/a/b"), None);
        assert_eq!(split("sb/", b"sb/\xff/b"), None);
    }

    #[test]
    fn others_are_read() {
        for (value, id, address) in [
            (
                r#"{"name":"a","version":"1","nodes":[{"id":"a-1","address":"10.0.0.1:80","metadata":{"zone":"eu"}}]}"#,
                "a-1",
                "10.0.0.1:80",
            ),
            (r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}"#, "rest", "10.0.0.1:80"),
            (
                r#"{"id":"k","name":"a","version":"","metadata":null,"endpoints":["grpc://10.0.0.1:90?isSecure=false"]}"#,
                "k",
                "10.0.0.1:90",
            ),
        ] {
            let instance = read(&name("a"), "rest", value.as_bytes()).unwrap();
            assert_eq!((instance.id().as_str(), &*instance.address().to_string()), (id, address));
        }
        for value in ["", "{}", "[]", "\u{0}", r#"{"nodes":[]}"#, r#"{"Addr":""}"#, "7"] {
            assert!(read(&name("a"), "rest", value.as_bytes()).is_err(), "{value}");
        }
    }

    #[test]
    fn what_is_written_comes_back() {
        let endpoint = Endpoint::new("Greeter.Hello").with_metadata("stream", "false");
        let builder = Instance::builder("a").id("1").address("10.0.0.1:80").metadata("k", "v");
        let instance = builder.endpoint(endpoint).build().unwrap();
        for wire in [Wire::Plain, Wire::GoMicro, Wire::Grpc] {
            let read = read(&name("a"), "1", &value(wire, &instance)).unwrap();
            assert_eq!(read.endpoints().len(), usize::from(wire != Wire::Grpc));
            assert_eq!(
                (read.id(), read.address(), read.metadata()),
                (instance.id(), instance.address(), instance.metadata())
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_others_write_panics(key in proptest::collection::vec(0_u8.., 0..40), value in ".*") {
            let _ = split("sb/", &key);
            let _ = read(&name("a"), "rest", &key);
            let _ = read(&name("a"), &value, value.as_bytes());
            let _ = read(&name("a"), "rest", format!(r#"{{"Addr":{value:?},"Metadata":{value:?}}}"#).as_bytes());
        }

        #[test]
        fn every_name_and_id_comes_back(service in "[!-~]{1,40}", id in ".{1,40}") {
            if let (Ok(service), Ok(id)) = (ServiceName::new(&*service), InstanceId::new(&*id)) {
                let key = key("sb", Wire::Plain, &service, &id);
                proptest::prop_assert_eq!(split("sb/", key.as_bytes()), Some((service, id.as_str().to_owned())));
            }
        }
    }
}
