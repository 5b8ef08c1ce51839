//! An [`Instance`] as Consul keeps it, and back.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use switchboard_core::{Address, Endpoint, Health, Instance, Invalid};

use crate::Wire;
use crate::check::CheckBody;
use crate::go_micro;

/// Consul's limits on Meta (<https://developer.hashicorp.com/consul/docs/services/configuration/services-configuration-reference>).
const MAX_PAIRS: usize = 64;
const MAX_VALUE: usize = 512;
/// How many metadata pairs are written plainly; the rest goes where what Consul refuses goes.
const MAX_PLAIN: usize = 32;
/// Meta keys `switchboard-1`, `switchboard-2`, … hold in pieces the JSON of [`Extra`].
const EXTRA: &str = "switchboard-";
const VERSION: &str = "version";
/// Tagged addresses `switchboard-2`, `switchboard-3`, … hold the addresses after the first.
const ADDRESS: &str = "switchboard-";
/// kratos keeps the version in a tag.
const KRATOS_VERSION: &str = "version=";

/// What has no place of its own in Consul, or that Consul refuses there.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct Extra {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<Endpoint>,
    /// The warning weight, where Consul cannot tell that it was given: when it equals the weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warning_weight: Option<u16>,
    /// The tags are nothing but tags, although some look like another program's encoding.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    plain_tags: bool,
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
struct Weights {
    passing: i64,
    warning: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaggedAddress {
    address: String,
    port: i64,
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

fn address(host: &str, port: i64) -> Result<Address, Invalid> {
    let port = u16::try_from(port)
        .map_err(|_| Invalid::new(format!("port {port}"), "is no number from 1 to 65535"))?;
    // A scoped IPv6 address only parses with its port.
    if host.contains(':') { format!("[{host}]:{port}").parse() } else { Address::new(host, port) }
}

/// One entry of a health answer (<https://developer.hashicorp.com/consul/api-docs/health#list-service-instances-for-service>).
///
/// What is long borrows from the answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    #[serde(borrow, default)]
    node: Option<Node<'a>>,
    #[serde(borrow)]
    service: Service<'a>,
    #[serde(borrow, default)]
    checks: Option<Vec<CheckState<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node<'a> {
    #[serde(borrow, default)]
    address: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service<'a> {
    #[serde(rename = "ID", borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    service: Text<'a>,
    #[serde(borrow, default)]
    tags: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    address: Option<Text<'a>>,
    #[serde(default)]
    port: i64,
    #[serde(borrow, default)]
    meta: Option<BTreeMap<Text<'a>, Text<'a>>>,
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(borrow, default)]
    tagged_addresses: Option<BTreeMap<Text<'a>, TaggedAddress>>,
    #[serde(default)]
    modify_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckState<'a> {
    #[serde(rename = "CheckID", borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    status: Text<'a>,
}

/// Text that borrows from the answer where it holds no escape.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// An instance that was read, or why there is none, and when it was last changed.
pub(crate) struct Read {
    pub(crate) instance: Result<Instance, Invalid>,
    pub(crate) modified: u64,
}

/// Reads one entry. What the contract cannot represent is an `Invalid` of that entry; other JSON than Consul's is an
/// error of the whole answer.
pub(crate) fn decode(json: &str) -> Result<Read, serde_json::Error> {
    let entry: Entry<'_> = serde_json::from_str(json)?;
    let modified = entry.service.modify_index;
    Ok(Read { instance: instance(entry), modified })
}

fn instance(entry: Entry<'_>) -> Result<Instance, Invalid> {
    let Entry { node, service, checks } = entry;
    let host = [service.address, node.and_then(|node| node.address)]
        .into_iter()
        .flatten()
        .find(|host| !host.0.is_empty())
        .ok_or_else(|| Invalid::quoting("instance", &service.id.0, "has no address, nor has its node"))?;
    let mut builder = Instance::builder(&*service.service.0)
        .id(&*service.id.0)
        .address(address(&host.0, service.port)?)
        .health(health(&checks.unwrap_or_default()));

    let mut further: Vec<_> = service
        .tagged_addresses
        .iter()
        .flatten()
        .filter_map(|(name, tagged)| Some((name.0.strip_prefix(ADDRESS)?.parse::<u16>().ok()?, tagged)))
        .filter_map(|(number, tagged)| Some((number, address(&tagged.address, tagged.port).ok()?)))
        .collect();
    further.sort_by_key(|(number, _)| *number);
    for (_, address) in further {
        builder = builder.address(address);
    }

    let mut meta = service.meta.unwrap_or_default();
    let extra = take_extra(&mut meta, &service.id.0);
    let mut wire = go_micro::Decoded::default();
    let mut version = None;
    for tag in service.tags.unwrap_or_default() {
        if extra.plain_tags || !wire.take(&tag.0) {
            if !extra.plain_tags {
                version = version.or_else(|| tag.0.strip_prefix(KRATOS_VERSION).map(str::to_owned));
            }
            builder = builder.tag(tag.0);
        }
    }
    if let Some(own) = wire.version {
        version = (!own.is_empty()).then_some(own);
    } else if wire.found {
        // Its Meta is metadata and nothing else.
    } else if let Some(plain) = meta.remove(VERSION) {
        version = Some(plain.0.into_owned());
    }
    if let Some(version) = version {
        builder = builder.version(version);
    }
    for (key, value) in meta {
        builder = builder.metadata(key.0, value.0);
    }
    for (key, value) in extra.metadata.into_iter().chain(wire.metadata) {
        builder = builder.metadata(key, value);
    }
    for endpoint in extra.endpoints.into_iter().chain(wire.endpoints) {
        builder = builder.endpoint(endpoint);
    }
    if let Some(weights) = service.weights {
        let within = |weight: i64| u16::try_from(weight.clamp(0, u16::MAX.into())).unwrap_or(u16::MAX);
        builder = builder.weight(within(weights.passing));
        if weights.warning != weights.passing {
            builder = builder.warning_weight(within(weights.warning));
        }
    }
    if let Some(warning) = extra.warning_weight {
        builder = builder.warning_weight(warning);
    }
    builder.build_lossy()
}

/// Takes our own pieces out of the Meta and puts them together.
fn take_extra(meta: &mut BTreeMap<Text<'_>, Text<'_>>, id: &str) -> Extra {
    let number = |key: &Text<'_>| key.0.strip_prefix(EXTRA)?.parse::<u16>().ok();
    let mut pieces = BTreeMap::new();
    meta.retain(|key, value| match number(key) {
        Some(number) => {
            pieces.insert(number, value.0.to_string());
            false
        }
        None => true,
    });
    if pieces.is_empty() {
        return Extra::default();
    }
    let json: String = pieces.into_values().collect();
    serde_json::from_str(&json).unwrap_or_else(|error| {
        tracing::debug!(id, %error, "ignoring a Meta that Switchboard did not write");
        Extra::default()
    })
}

/// The worst of the checks, of the instance and of its node; maintenance before all.
fn health(checks: &[CheckState<'_>]) -> Health {
    let of_check = |check: &CheckState<'_>| {
        if check.id.0 == "_node_maintenance" || check.id.0.starts_with("_service_maintenance:") {
            Health::Maintenance
        } else {
            check.status.0.parse().unwrap_or(Health::Critical)
        }
    };
    checks.iter().map(of_check).max().unwrap_or(Health::Passing)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
