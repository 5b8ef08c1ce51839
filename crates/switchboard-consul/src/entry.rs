//! An entry of Consul's health answers as an [`Instance`].

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;

use serde::Deserialize;
use switchboard_core::{Address, Health, HealthReason, Instance, Invalid};

use crate::record::{ADDRESS, EXTRA, Extra, KRATOS_VERSION, TaggedAddress, VERSION, Weights};
use crate::{go_micro, notice, reason};

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
    #[serde(rename = "Service", borrow)]
    name: Text<'a>,
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
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    output: Option<Text<'a>>,
    #[serde(borrow, default)]
    notes: Option<Text<'a>>,
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
    let reasons = reasons(checks.unwrap_or_default());
    let mut builder = Instance::builder(&*service.name.0)
        .id(&*service.id.0)
        .address(address(&host.0, service.port)?)
        .health(reasons.first().map_or(Health::Passing, |worst| worst.health));
    for reason in reasons {
        builder = builder.health_reason(reason);
    }

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
    for (name, tagged) in service.tagged_addresses.iter().flatten() {
        if !is_consuls_own(&name.0) && !name.0.starts_with(ADDRESS) {
            builder = builder.metadata(format!("{TAGGED}{}", name.0), foreign_address(tagged));
        }
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
    builder.build_lossy_noting(|why| notice::left_out(&service.name.0, &service.id.0, &why))
}

/// Metadata `address.grpc` holds the tagged address `grpc` that another program registered. It is no address of the
/// instance: nobody knows what is spoken there.
const TAGGED: &str = "address.";

/// Tagged addresses that Consul adds or reads itself, all of the same port.
fn is_consuls_own(name: &str) -> bool {
    let known = ["lan", "wan", "lan_ipv4", "lan_ipv6", "wan_ipv4", "wan_ipv6", "virtual"];
    known.contains(&name) || name.starts_with("consul-")
}

/// kratos writes a URL with the port in it.
fn foreign_address(tagged: &TaggedAddress) -> String {
    let TaggedAddress { address, port } = tagged;
    if address.contains("://") || *port == 0 {
        address.clone()
    } else if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
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

/// What the checks of the instance and of its node say that do not pass, the worst first; maintenance before all.
fn reasons(checks: Vec<CheckState<'_>>) -> Vec<HealthReason> {
    let text = |text: Option<Text<'_>>| text.map(|text| text.0.into_owned()).unwrap_or_default();
    let of_check = |check: CheckState<'_>| {
        let health = if check.id.0 == "_node_maintenance" || check.id.0.starts_with("_service_maintenance:") {
            Health::Maintenance
        } else {
            check.status.0.parse().unwrap_or(Health::Critical)
        };
        let name = check.name.filter(|name| !name.0.is_empty()).unwrap_or(check.id);
        // Of checks that pass nothing is copied.
        (health != Health::Passing)
            .then(|| HealthReason::new(name.0, health).output(text(check.output)).notes(text(check.notes)))
    };
    reason::sorted(checks.into_iter().filter_map(of_check).collect())
}

pub(crate) fn address(host: &str, port: i64) -> Result<Address, Invalid> {
    let port = u16::try_from(port)
        .map_err(|_| Invalid::new(format!("port {port}"), "is no number from 1 to 65535"))?;
    // A scoped IPv6 address only parses with its port.
    if host.contains(':') { format!("[{host}]:{port}").parse() } else { Address::new(host, port) }
}
