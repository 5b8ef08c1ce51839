//! Instances as EndpointSlices have them (`discovery.k8s.io/v1`), read and written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use switchboard_core::{
    Address, Health, HealthReason, Host, Instance, InstanceId, Invalid, ServiceName, metadata_keys,
};
use xxhash_rust::xxh3::xxh3_128;

use crate::config::{IpFamily, KubernetesBuilder};

/// The label that says whose slice it is.
pub(crate) const SERVICE: &str = "kubernetes.io/service-name";

/// The label that says who keeps a slice, and what we write there.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const MANAGER: &str = "switchboard";

/// The annotations of our own slices: the instance as JSON, and when it lapses.
const INSTANCE: &str = "switchboard/instance";
const LAPSES: &str = "switchboard/lapses";

/// The label of pods that is their version.
const VERSION: &str = "app.kubernetes.io/version";

/// The most that all annotations of an object may hold, in bytes.
const MOST_ANNOTATIONS: usize = 256 * 1024;

/// The labels of pods, by the pods' names.
pub(crate) type Pods = BTreeMap<String, BTreeMap<String, String>>;

/// An endpoint, as one slice has it. The same one may be in several.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    id: InstanceId,
    /// When the slice was written, in the server's own count: of two that differ the later is right.
    written: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Endpoint(Box<Reached>),
    /// Of a slice that a Switchboard wrote.
    Own {
        instance: Box<Instance>,
        lapses: Option<Timestamp>,
        is_ready: bool,
    },
}

#[derive(Clone, Debug)]
struct Reached {
    state: State,
    addresses: Vec<Address>,
    metadata: BTreeMap<String, String>,
    pod: Option<String>,
}

/// What the conditions say. The order is that of usefulness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    NotReady,
    Terminating,
    Ready,
}

impl State {
    pub(crate) fn of(conditions: Option<&EndpointConditions>) -> Self {
        let Some(conditions) = conditions else { return Self::Ready };
        let is_ready = conditions.ready.unwrap_or(true);
        let is_terminating = conditions.terminating.unwrap_or(false);
        match (is_ready, conditions.serving.unwrap_or(is_ready)) {
            // A terminating endpoint is ready where its Service publishes those that are not.
            (true, _) => Self::Ready,
            (false, true) if is_terminating => Self::Terminating,
            _ => Self::NotReady,
        }
    }
}

/// An endpoint that is not read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) endpoint: String,
    pub(crate) why: String,
}

/// The endpoints of a slice of the service that is asked for as `name`.
pub(crate) fn parts(
    name: &ServiceName,
    slice: &EndpointSlice,
    settings: &KubernetesBuilder,
) -> Vec<Result<Part, Unread>> {
    let written = slice.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
    let written = written.unwrap_or(0);
    if let Some(own) = own(name, slice, written) {
        return vec![own];
    }
    let ports = slice.ports.as_deref().unwrap_or_default();
    let port = chosen(ports, settings.port.as_deref());
    slice.endpoints.iter().map(|endpoint| part(endpoint, ports, &port, written)).collect()
}

/// The instance that a Switchboard wrote into a slice of its own.
fn own(name: &ServiceName, slice: &EndpointSlice, written: u64) -> Option<Result<Part, Unread>> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.get(MANAGED_BY).map(String::as_str) != Some(MANAGER) {
        return None;
    }
    let annotations = slice.metadata.annotations.as_ref()?;
    let json = annotations.get(INSTANCE)?;
    let read = || -> Result<What, String> {
        let mut value: serde_json::Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let fields = value.as_object_mut().ok_or("it is no JSON object")?;
        // It may be asked for by a name with the namespace in it.
        fields.insert("service".into(), name.as_str().into());
        let instance: Instance = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let lapses = annotations.get(LAPSES).map(|time| {
            time.parse::<Timestamp>().map_err(|error| format!("its annotation {LAPSES} is no time: {error}"))
        });
        let conditions = slice.endpoints.first().and_then(|endpoint| endpoint.conditions.as_ref());
        let is_ready = !slice.endpoints.is_empty() && State::of(conditions) != State::NotReady;
        let what = What::Own {
            instance: Box::new(instance.with_health(Health::Passing)),
            lapses: lapses.transpose()?,
            is_ready,
        };
        Ok(what)
    };
    let what = match read() {
        Ok(what) => what,
        Err(why) => {
            let endpoint = slice.metadata.name.clone().unwrap_or_default();
            return Some(Err(Unread {
                endpoint,
                why: format!("its annotation {INSTANCE} is no instance: {why}"),
            }));
        }
    };
    let What::Own { instance, .. } = &what else { return None };
    Some(Ok(Part { id: instance.id().clone(), written, what }))
}

/// When a slice of ours has lapsed or will.
pub(crate) fn lapsed_since(slice: &EndpointSlice) -> Option<Timestamp> {
    slice.metadata.annotations.as_ref()?.get(LAPSES)?.parse().ok()
}

/// The port that instances are reached at.
fn chosen<'a>(ports: &'a [EndpointPort], name: Option<&str>) -> Result<(u16, &'a EndpointPort), String> {
    let number =
        |port: &EndpointPort| port.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let of_tcp = |port: &&EndpointPort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let port = match name {
        Some(name) => ports.iter().find(|port| port.name.as_deref().unwrap_or_default() == name),
        None => ports.iter().find(of_tcp).or(ports.first()),
    };
    let names = || {
        let names: Vec<_> =
            ports.iter().map(|port| format!("{:?}", port.name.as_deref().unwrap_or_default())).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    match (port, name) {
        (Some(port), _) => match number(port) {
            Some(number) => Ok((number, port)),
            None => Err(format!("its port {:?} has no number", port.name.as_deref().unwrap_or_default())),
        },
        (None, Some(name)) => Err(format!("its slice has no port named {name:?}; there are: {}", names())),
        (None, None) => Err("its slice has no port".into()),
    }
}

fn part(
    endpoint: &Endpoint,
    ports: &[EndpointPort],
    port: &Result<(u16, &EndpointPort), String>,
    written: u64,
) -> Result<Part, Unread> {
    let target = endpoint.target_ref.as_ref();
    let named = target.and_then(|target| target.name.clone());
    let unread = |why: String| {
        let endpoint = named.clone().or_else(|| endpoint.addresses.first().cloned()).unwrap_or_default();
        Unread { endpoint, why }
    };
    let (number, port) = port.clone().map_err(&unread)?;
    let addresses: Result<Vec<Address>, Invalid> =
        endpoint.addresses.iter().map(|host| Address::new(host, number)).collect();
    let addresses = addresses.map_err(|invalid| unread(invalid.to_string()))?;
    let Some(first) = addresses.first() else { return Err(unread("it has no address".into())) };
    let id = match target.and_then(|target| target.uid.as_deref()) {
        Some(uid) => InstanceId::new(uid),
        None => InstanceId::new(first.to_string()),
    };
    let id = id.map_err(|invalid| unread(invalid.to_string()))?;
    let is_pod = target.is_some_and(|target| target.kind.as_deref() == Some("Pod"));
    let pod = named.clone().filter(|_| is_pod);
    let mut metadata = BTreeMap::new();
    let mut say = |key: &str, value: Option<&String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            metadata.insert(key.to_owned(), value.clone());
        }
    };
    say(metadata_keys::ZONE, endpoint.zone.as_ref());
    say("node", endpoint.node_name.as_ref());
    say("pod", pod.as_ref());
    say(metadata_keys::PROTOCOL, port.app_protocol.as_ref());
    for other in ports.iter().filter(|other| other.name != port.name) {
        if let (Some(name), Some(number)) = (&other.name, other.port) {
            say(&format!("port.{name}"), Some(&number.to_string()));
        }
    }
    let state = State::of(endpoint.conditions.as_ref());
    Ok(Part { id, written, what: What::Endpoint(Box::new(Reached { state, addresses, metadata, pod })) })
}

/// What there is of a service.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) instances: Vec<Instance>,
    /// Those of slices that we write: nothing moves them.
    pub(crate) own: BTreeSet<InstanceId>,
    /// When one of them lapses next.
    pub(crate) next_lapse: Option<Timestamp>,
}

/// The union of parts: each endpoint once.
pub(crate) fn gather<'a>(
    name: &ServiceName,
    parts: impl Iterator<Item = &'a Part>,
    pods: &Pods,
    settings: &KubernetesBuilder,
    now: Timestamp,
) -> Gathered {
    let mut gathered = Gathered::default();
    let mut owned: BTreeMap<&InstanceId, (u64, Instance)> = BTreeMap::new();
    let mut endpoints: BTreeMap<&InstanceId, (u64, Reached)> = BTreeMap::new();
    for Part { id, written, what } in parts {
        match what {
            What::Own { lapses: Some(lapses), .. } if *lapses <= now => {}
            What::Own { instance, lapses, is_ready } => {
                gathered.next_lapse = [gathered.next_lapse, *lapses].into_iter().flatten().min();
                let health = if *is_ready { Health::Passing } else { Health::Critical };
                let before = owned.get(id).map_or(0, |(before, _)| *before);
                if before <= *written {
                    owned.insert(id, (*written, Instance::clone(instance).with_health(health)));
                }
            }
            What::Endpoint(reached) => match endpoints.get_mut(id) {
                None => {
                    endpoints.insert(id, (*written, Reached::clone(reached)));
                }
                Some((before, merged)) => {
                    merged.join(reached, *before <= *written);
                    *before = (*before).max(*written);
                }
            },
        }
    }
    let has_ready = endpoints.values().any(|(_, reached)| reached.state == State::Ready)
        || owned.values().any(|(_, instance)| instance.health() == Health::Passing);
    for (id, (_, reached)) in endpoints.into_iter().filter(|(id, _)| !owned.contains_key(id)) {
        match reached.instance(name, id, pods, settings, has_ready) {
            Ok(instance) => gathered.instances.push(instance),
            Err(invalid) => tracing::debug!(%name, %id, %invalid, "an endpoint that is no instance"),
        }
    }
    gathered.own = owned.keys().map(|id| (*id).clone()).collect();
    gathered.instances.extend(owned.into_values().map(|(_, instance)| instance));
    gathered
}

impl Reached {
    /// Takes in what another slice says of the same endpoint.
    fn join(&mut self, other: &Self, is_later: bool) {
        if is_later {
            self.state = other.state;
            for (key, value) in &other.metadata {
                self.metadata.insert(key.clone(), value.clone());
            }
        }
        for address in &other.addresses {
            if !self.addresses.contains(address) {
                self.addresses.push(address.clone());
            }
        }
    }

    fn instance(
        mut self,
        name: &ServiceName,
        id: &InstanceId,
        pods: &Pods,
        settings: &KubernetesBuilder,
        has_ready: bool,
    ) -> Result<Instance, Invalid> {
        // Whichever slice came first, the same order.
        self.addresses.sort();
        self.addresses.sort_by_key(|address| !is_of(address, settings.ip_family));
        let mut builder = Instance::builder(name).id(id.as_str());
        for address in &self.addresses {
            builder = builder.address(address);
        }
        for (key, value) in &self.metadata {
            builder = builder.metadata(key, value);
        }
        if let (Some(wanted), Some(labels)) =
            (&settings.labels, self.pod.as_ref().and_then(|pod| pods.get(pod)))
        {
            for (label, value) in labels.iter().filter(|(label, _)| wanted.contains(*label)) {
                builder = builder.metadata(label, value);
            }
            if let Some(version) = labels.get(VERSION) {
                builder = builder.version(version);
            }
        }
        let reason = |health, notes: &str| HealthReason::new("conditions", health).notes(notes);
        builder = match self.state {
            State::Ready => builder,
            State::Terminating if has_ready => {
                let notes = "it is terminating, and others are ready";
                builder.health(Health::Critical).health_reason(reason(Health::Critical, notes))
            }
            State::Terminating => {
                let notes = "it is terminating, and nothing else is ready";
                builder.health(Health::Warning).health_reason(reason(Health::Warning, notes))
            }
            State::NotReady => {
                builder.health(Health::Critical).health_reason(reason(Health::Critical, "it is not ready"))
            }
        };
        builder.build_lossy()
    }
}

fn is_of(address: &Address, family: IpFamily) -> bool {
    matches!(
        (address.host(), family),
        (Host::Ip(IpAddr::V4(_)), IpFamily::Ipv4) | (Host::Ip(IpAddr::V6(_)), IpFamily::Ipv6)
    )
}

/// The names that our slices of an instance may have: one for each type of address, which cannot change.
pub(crate) fn names_of(service: &str, id: &InstanceId) -> [String; 3] {
    ["ipv4", "ipv6", "fqdn"].map(|kind| name_of(service, id, kind))
}

fn name_of(service: &str, id: &InstanceId, kind: &str) -> String {
    // A service's name in Kubernetes has no line end.
    let text = format!("{service}\n{id}");
    format!("switchboard-{:032x}-{kind}", xxh3_128(text.as_bytes()))
}

/// The slice that registers an instance until `lapses`.
pub(crate) fn slice(
    instance: &Instance,
    service: &str,
    lapses: Option<Timestamp>,
) -> Result<EndpointSlice, Invalid> {
    let (kind, host) = kind(instance)?;
    // Health is the readers' to judge.
    let json = serde_json::to_string(&instance.clone().with_health(Health::Passing))
        .map_err(|error| Invalid::new(format!("instance {}", instance.key()), error.to_string()))?;
    if json.len() > MOST_ANNOTATIONS - 1024 {
        let why = format!(
            "takes {} bytes, and an object's annotations may hold {MOST_ANNOTATIONS} in all",
            json.len()
        );
        return Err(Invalid::new(format!("instance {}", instance.key()), why));
    }
    let mut annotations = BTreeMap::from([(INSTANCE.to_owned(), json)]);
    if let Some(lapses) = lapses {
        annotations.insert(LAPSES.to_owned(), lapses.to_string());
    }
    let labels = [(SERVICE, service), (MANAGED_BY, MANAGER)];
    let port = EndpointPort {
        name: Some(String::new()),
        port: Some(instance.address().port().into()),
        protocol: Some("TCP".into()),
        app_protocol: None,
    };
    let conditions = EndpointConditions { ready: Some(true), ..EndpointConditions::default() };
    let endpoint = Endpoint {
        addresses: vec![host],
        conditions: Some(conditions),
        zone: instance.metadata().get(metadata_keys::ZONE).cloned().filter(|zone| !zone.is_empty()),
        ..Endpoint::default()
    };
    let metadata = ObjectMeta {
        name: Some(name_of(service, instance.id(), &kind.to_ascii_lowercase())),
        labels: Some(labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into()),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    };
    Ok(EndpointSlice {
        address_type: kind.into(),
        endpoints: vec![endpoint],
        metadata,
        ports: Some(vec![port]),
    })
}

/// The type of the first address, which must be one that the API server takes.
fn kind(instance: &Instance) -> Result<(&'static str, String), Invalid> {
    let address = instance.address();
    let refuse = |why: &str| Err(Invalid::new(format!("first address {address}"), why));
    match address.host() {
        Host::Ip(ip) => {
            let is_special = match ip {
                IpAddr::V4(ip) => ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
            };
            if is_special || ip.is_loopback() {
                return refuse("is of loopback or the link, which Kubernetes takes for no endpoint");
            }
            Ok((if ip.is_ipv4() { "IPv4" } else { "IPv6" }, ip.to_string()))
        }
        Host::Name(name) => {
            let name = name.to_ascii_lowercase();
            let labels = || name.split('.');
            if !labels().all(crate::place::is_dns_label) || labels().count() < 2 {
                return refuse(
                    "is no full host name of RFC 1123, as Kubernetes asks for: letters, digits and '-', and a dot",
                );
            }
            Ok(("FQDN", name))
        }
    }
}

#[cfg(test)]
mod tests;
