//! An [`Instance`] as it is registered with Consul; `entry` reads it back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use switchboard_core::{Address, Endpoint, Instance, Invalid};

use crate::Wire;
use crate::check::CheckBody;
use crate::go_micro;

/// Consul's limits on Meta (<https://developer.hashicorp.com/consul/docs/services/configuration/services-configuration-reference>).
const MAX_PAIRS: usize = 64;
const MAX_VALUE: usize = 512;
/// How many metadata pairs are written plainly; the rest goes where what Consul refuses goes.
const MAX_PLAIN: usize = 32;
/// Meta keys `switchboard-1`, `switchboard-2`, … hold in pieces the JSON of [`Extra`].
pub(crate) const EXTRA: &str = "switchboard-";
pub(crate) const VERSION: &str = "version";
/// Tagged addresses `switchboard-2`, `switchboard-3`, … hold the addresses after the first.
pub(crate) const ADDRESS: &str = "switchboard-";
/// kratos keeps the version in a tag.
pub(crate) const KRATOS_VERSION: &str = "version=";

/// What has no place of its own in Consul, or that Consul refuses there.
#[derive(Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Extra {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) endpoints: Vec<Endpoint>,
    /// The warning weight, where Consul cannot tell that it was given: when it equals the weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warning_weight: Option<u16>,
    /// The tags are nothing but tags, although some look like another program's encoding.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) plain_tags: bool,
}

/// The body of a registration (<https://developer.hashicorp.com/consul/api-docs/agent/service#register-service>).
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Registration<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    tags: Vec<String>,
    address: String,
    port: u16,
    meta: BTreeMap<String, String>,
    weights: Weights,
    tagged_addresses: BTreeMap<String, TaggedAddress>,
    checks: &'a [CheckBody],
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Weights {
    pub(crate) passing: i64,
    pub(crate) warning: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TaggedAddress {
    pub(crate) address: String,
    pub(crate) port: i64,
}

/// The JSON that registers `instance` with these checks.
pub(crate) fn encode(instance: &Instance, checks: &[CheckBody], wire: Wire) -> Result<Vec<u8>, Invalid> {
    let (address, port) = host_and_port(instance.address());
    let further = instance.addresses().iter().enumerate().skip(1).map(|(index, address)| {
        let (host, port) = host_and_port(address);
        (format!("{ADDRESS}{}", index + 1), TaggedAddress { address: host, port: port.into() })
    });
    let weight = instance.weight().get();
    let registration = Registration {
        id: instance.id().as_str(),
        name: instance.service().as_str(),
        tags: match wire {
            Wire::Plain => instance.tags().iter().cloned().collect(),
            Wire::GoMicro => go_micro::tags(instance)?,
        },
        address,
        port,
        meta: meta(instance, wire)?,
        weights: Weights {
            passing: weight.into(),
            warning: instance.warning_weight().unwrap_or(weight).into(),
        },
        tagged_addresses: further.collect(),
        checks,
    };
    serde_json::to_vec(&registration).map_err(|error| Invalid::new("instance", error.to_string()))
}

fn meta(instance: &Instance, wire: Wire) -> Result<BTreeMap<String, String>, Invalid> {
    let mut meta = BTreeMap::new();
    let mut extra = Extra {
        warning_weight: instance.warning_weight().filter(|&warning| warning == instance.weight().get()),
        ..Extra::default()
    };
    for (key, value) in instance.metadata() {
        if meta.len() < MAX_PLAIN && is_plain(key, value, wire) {
            meta.insert(key.clone(), value.clone());
        } else if wire == Wire::Plain {
            extra.metadata.insert(key.clone(), value.clone());
        }
    }
    if wire == Wire::Plain {
        extra.endpoints = instance.endpoints().to_vec();
        extra.plain_tags = instance.tags().iter().any(|tag| {
            go_micro::looks_encoded(tag) || (instance.version().is_none() && tag.starts_with(KRATOS_VERSION))
        });
        meta.extend(instance.version().map(|version| (VERSION.into(), version.into())));
    }
    if extra != Extra::default() {
        let json =
            serde_json::to_string(&extra).map_err(|error| Invalid::new("instance", error.to_string()))?;
        let room = MAX_PAIRS - meta.len();
        let mut rest = json.as_str();
        for piece in 1.. {
            if rest.is_empty() {
                break;
            }
            if piece > room {
                let what = format!("endpoints and escaped metadata of {:?}", instance.id());
                let why =
                    format!("take {} bytes as JSON, the limit is about {}", json.len(), room * MAX_VALUE);
                return Err(Invalid::new(what, why));
            }
            let cut =
                (0..=rest.len().min(MAX_VALUE)).rev().find(|&at| rest.is_char_boundary(at)).unwrap_or(0);
            meta.insert(format!("{EXTRA}{piece}"), rest[..cut].to_owned());
            rest = &rest[cut..];
        }
    }
    Ok(meta)
}

/// Whether Consul takes the pair as it is, and it reads back as what it was.
fn is_plain(key: &str, value: &str, wire: Wire) -> bool {
    key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
        && value.len() <= MAX_VALUE
        && !key.starts_with("consul-")
        && !key.starts_with(EXTRA)
        && (key != VERSION || wire == Wire::GoMicro)
}

/// Host and port apart, the way Consul wants them: an IPv6 address without brackets.
fn host_and_port(address: &Address) -> (String, u16) {
    let text = address.to_string();
    // The text of an address always ends in its port.
    let host = text.rsplit_once(':').map_or(text.as_str(), |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (bare.to_owned(), address.port())
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
