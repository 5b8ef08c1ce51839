use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::health_reason::HealthReasons;
use crate::{Address, Endpoint, Health, HealthReason, InstanceId, Invalid, ServiceName};

/// Metadata keys with a meaning that Switchboard's own parts, or go-micro's, share.
pub mod metadata_keys {
    /// The failure domain the instance runs in; zone-aware filters compare it.
    pub const ZONE: &str = "zone";
    /// What the instance speaks: `http`, `grpc`, `mucp`, …
    pub const PROTOCOL: &str = "protocol";
    /// The transport go-micro servers announce.
    pub const TRANSPORT: &str = "transport";
    /// The server implementation go-micro servers announce.
    pub const SERVER: &str = "server";
}

/// One running copy of a service: who it is, where it listens, and what is known about it.
///
/// Immutable and always valid: it has at least one address, a weight above zero, and nothing in it that no backend
/// could carry. Made with [`Instance::builder`], or from JSON by serde; both check.
///
/// ```
/// use switchboard_core::Instance;
///
/// let instance = Instance::builder("greeter")
///     .id("greeter-1")
///     .version("1.2.0")
///     .address("10.0.0.7:8080")
///     .tag("canary")
///     .metadata("zone", "eu-1")
///     .endpoint("Greeter.Hello")
///     .weight(5)
///     .build()?;
/// assert_eq!(instance.key().to_string(), "greeter/greeter-1");
/// # Ok::<(), switchboard_core::Invalid>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Draft")]
pub struct Instance {
    service: ServiceName,
    id: InstanceId,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    addresses: Vec<Address>,
    tags: BTreeSet<String>,
    metadata: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
    weight: NonZeroU16,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning_weight: Option<u16>,
    health: Health,
    #[serde(skip_serializing_if = "HealthReasons::is_empty")]
    health_reasons: HealthReasons,
}

impl Instance {
    /// Starts an instance of `service`; it still needs at least one address.
    pub fn builder<S>(service: S) -> InstanceBuilder
    where
        S: TryInto<ServiceName>,
        Invalid: From<S::Error>,
    {
        InstanceBuilder { draft: service.try_into().map(Draft::new).map_err(Invalid::from) }
    }

    /// The service this is an instance of.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The id, which tells it from the service's other instances; see [`InstanceId`].
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// Service and id: what [`deregister`](crate::Registry::deregister) and
    /// [`suspect`](crate::Registry::suspect) take.
    pub fn key(&self) -> InstanceKey {
        InstanceKey::new(self.service.clone(), self.id.clone())
    }

    /// The version, if one was given.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Where it listens, most preferred first; never empty.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The most preferred address.
    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    /// Free-form labels.
    pub fn tags(&self) -> &BTreeSet<String> {
        &self.tags
    }

    /// Free-form pairs; [`metadata_keys`] has the names with a shared meaning.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The operations it offers, sorted by name.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The share of traffic it should get relative to others while passing; 1 unless given.
    pub fn weight(&self) -> NonZeroU16 {
        self.weight
    }

    /// The share of traffic while [`Health::Warning`]; `None` means the same as [`weight`](Self::weight).
    pub fn warning_weight(&self) -> Option<u16> {
        self.warning_weight
    }

    /// The share of traffic at its present health: 0 when it should get none.
    pub fn effective_weight(&self) -> u16 {
        match self.health {
            Health::Passing => self.weight.get(),
            Health::Warning => self.warning_weight.unwrap_or(self.weight.get()),
            Health::Critical | Health::Maintenance => 0,
        }
    }

    /// Health as the registry sees it. What a program registers is passing; only reading tells more.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Why it is not passing: the checks that say so, the worst first. Empty for an instance that passes, and where the
    /// registry does not tell.
    ///
    /// Equality of instances, and so what a watch tells, is by which checks fail and how badly, and by whether they put
    /// out anything, but not by what: many put out something else whenever they run. In a snapshot of a watch the
    /// output, notes and time are therefore those of when something else about the instance last changed; a
    /// [`lookup`](crate::Registry::lookup) has the latest.
    pub fn health_reasons(&self) -> &[HealthReason] {
        &self.health_reasons.0
    }

    /// The same instance with another health, for backends and tests. The reasons for the one it had go.
    pub fn with_health(mut self, health: Health) -> Self {
        if self.health != health {
            self.health_reasons = HealthReasons::default();
        }
        self.health = health;
        self
    }

    /// The same instance under another service's name.
    pub(crate) fn with_service(self, service: ServiceName) -> Self {
        Self { service, ..self }
    }

    /// As healthy as another one, for the same reasons.
    pub(crate) fn with_health_of(mut self, other: &Self) -> Self {
        self.health = other.health;
        self.health_reasons = other.health_reasons.clone();
        self
    }

    /// Taken out of use, for this reason.
    pub(crate) fn in_maintenance(mut self, reason: &str) -> Self {
        self.health = Health::Maintenance;
        self.health_reasons =
            HealthReasons(vec![HealthReason::new("maintenance", Health::Maintenance).notes(reason)]);
        self
    }

    /// A builder that starts from this instance, to register it changed.
    pub fn to_builder(&self) -> InstanceBuilder {
        let Self {
            service,
            id,
            version,
            addresses,
            tags,
            metadata,
            endpoints,
            weight,
            warning_weight,
            health,
            health_reasons,
        } = self.clone();
        let draft = Draft {
            service,
            id: Some(id),
            version,
            addresses,
            tags,
            metadata,
            endpoints,
            weight: weight.get(),
            warning_weight,
            health,
            health_reasons,
        };
        InstanceBuilder { draft: Ok(draft) }
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            id,
            version,
            addresses,
            tags,
            metadata,
            endpoints,
            weight,
            warning_weight,
            health,
            health_reasons,
        } = self;
        f.debug_struct("Instance")
            .field("service", service)
            .field("id", id)
            .field("version", version)
            .field("addresses", addresses)
            .field("tags", tags)
            .field("metadata", metadata)
            .field("endpoints", endpoints)
            .field("weight", weight)
            .field("warning_weight", warning_weight)
            .field("health", health)
            .field("health_reasons", &health_reasons.0)
            .finish()
    }
}

/// Builds an [`Instance`]; mistakes are kept until [`build`](Self::build) and told there.
#[derive(Clone, Debug)]
#[must_use = "an instance comes into being with `build()`"]
pub struct InstanceBuilder {
    draft: Result<Draft, Invalid>,
}

/// What may or may not become an [`Instance`]: the builder's fields, and the form serde reads.
#[derive(Clone, Debug, Deserialize)]
struct Draft {
    service: ServiceName,
    #[serde(default)]
    id: Option<InstanceId>,
    #[serde(default)]
    version: Option<String>,
    addresses: Vec<Address>,
    #[serde(default)]
    tags: BTreeSet<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    #[serde(default = "default_weight")]
    weight: u16,
    #[serde(default)]
    warning_weight: Option<u16>,
    #[serde(default)]
    health: Health,
    #[serde(default)]
    health_reasons: HealthReasons,
}

fn default_weight() -> u16 {
    1
}

impl InstanceBuilder {
    fn map(mut self, change: impl FnOnce(&mut Draft) -> Result<(), Invalid>) -> Self {
        if let Ok(draft) = &mut self.draft {
            if let Err(invalid) = change(draft) {
                self.draft = Err(invalid);
            }
        }
        self
    }

    /// Sets the id. Without it, [`InstanceId::random`] makes one.
    pub fn id<I>(self, id: I) -> Self
    where
        I: TryInto<InstanceId>,
        Invalid: From<I::Error>,
    {
        self.map(|draft| {
            draft.id = Some(id.try_into()?);
            Ok(())
        })
    }

    /// Sets the version.
    pub fn version(self, version: impl Into<String>) -> Self {
        self.map(|draft| {
            draft.version = Some(version.into());
            Ok(())
        })
    }

    /// Adds an address; the first is the most preferred. A repeated one counts once.
    pub fn address<A>(self, address: A) -> Self
    where
        A: TryInto<Address>,
        Invalid: From<A::Error>,
    {
        self.map(|draft| {
            let address = address.try_into()?;
            if !draft.addresses.contains(&address) {
                draft.addresses.push(address);
            }
            Ok(())
        })
    }

    /// Forgets the addresses given so far.
    pub fn clear_addresses(self) -> Self {
        self.map(|draft| {
            draft.addresses.clear();
            Ok(())
        })
    }

    /// Forgets the tags given so far.
    pub fn clear_tags(self) -> Self {
        self.map(|draft| {
            draft.tags.clear();
            Ok(())
        })
    }

    /// Forgets the metadata given so far.
    pub fn clear_metadata(self) -> Self {
        self.map(|draft| {
            draft.metadata.clear();
            Ok(())
        })
    }

    /// Forgets the endpoints given so far.
    pub fn clear_endpoints(self) -> Self {
        self.map(|draft| {
            draft.endpoints.clear();
            Ok(())
        })
    }

    /// Adds a tag.
    pub fn tag(self, tag: impl Into<String>) -> Self {
        self.map(|draft| {
            draft.tags.insert(tag.into());
            Ok(())
        })
    }

    /// Adds a metadata pair; an earlier one of the same key is replaced.
    pub fn metadata(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.map(|draft| {
            draft.metadata.insert(key.into(), value.into());
            Ok(())
        })
    }

    /// Adds an endpoint, or only its name.
    pub fn endpoint(self, endpoint: impl Into<Endpoint>) -> Self {
        self.map(|draft| {
            draft.endpoints.push(endpoint.into());
            Ok(())
        })
    }

    /// Sets the weight, from 1 to 65,535 as in DNS SRV records (RFC 2782) and Consul. Default 1.
    pub fn weight(self, weight: u16) -> Self {
        self.map(|draft| {
            draft.weight = weight;
            Ok(())
        })
    }

    /// Sets the weight that counts while the instance's health is a warning; 0 takes it out. Default: the same
    /// weight.
    pub fn warning_weight(self, weight: u16) -> Self {
        self.map(|draft| {
            draft.warning_weight = Some(weight);
            Ok(())
        })
    }

    /// Sets the health, for backends; what a program registers starts as passing whatever this says.
    pub fn health(self, health: Health) -> Self {
        self.map(|draft| {
            draft.health = health;
            Ok(())
        })
    }

    /// Adds a reason for the health, for backends; the worst goes first. What a program registers has none.
    pub fn health_reason(self, reason: HealthReason) -> Self {
        self.map(|draft| {
            draft.health_reasons.0.push(reason);
            Ok(())
        })
    }

    /// Forgets the reasons given so far.
    pub fn clear_health_reasons(self) -> Self {
        self.map(|draft| {
            draft.health_reasons.0.clear();
            Ok(())
        })
    }

    /// Checks everything and makes the instance.
    ///
    /// # Errors
    ///
    /// [`Invalid`] for the first thing found wrong: a name, id or address that does not parse; no address; weight 0;
    /// an empty version or tag, or one with control characters or more than 255 bytes; a metadata key that is empty,
    /// longer than 128 bytes, or not printable ASCII without `=` (RFC 6763 §6.4); two endpoints of one name.
    pub fn build(self) -> Result<Instance, Invalid> {
        self.draft?.try_into()
    }

    /// For backends, which read what other programs wrote: like [`build`](Self::build), but leaves out a version, tags,
    /// metadata pairs and endpoints that are invalid, and makes a weight of 0 a 1, instead of refusing the whole.
    ///
    /// # Errors
    ///
    /// [`Invalid`] for a name, id or address that does not parse, and when there is no address.
    pub fn build_lossy(self) -> Result<Instance, Invalid> {
        self.build_lossy_noting(|_| ())
    }

    /// Like [`build_lossy`](Self::build_lossy), and tells `note` of each thing that is left out.
    ///
    /// # Errors
    ///
    /// As [`build_lossy`](Self::build_lossy).
    pub fn build_lossy_noting(self, mut note: impl FnMut(Invalid)) -> Result<Instance, Invalid> {
        let mut draft = self.draft?;
        let mut valid = |checked: Result<(), Invalid>| checked.map_err(&mut note).is_ok();
        draft.version = draft.version.filter(|version| valid(check_label("version", version)));
        draft.tags.retain(|tag| valid(check_label("tag", tag)));
        draft.metadata.retain(|key, _| valid(check_metadata_key(key)));
        draft.endpoints.retain(|endpoint| valid(check_label("endpoint name", &endpoint.name)));
        draft.endpoints.sort_by(|a, b| a.name.cmp(&b.name));
        draft.endpoints.dedup_by(|a, b| a.name == b.name);
        draft.weight = draft.weight.max(1);
        draft.try_into()
    }
}

impl Draft {
    fn new(service: ServiceName) -> Self {
        Self {
            service,
            id: None,
            version: None,
            addresses: Vec::new(),
            tags: BTreeSet::new(),
            metadata: BTreeMap::new(),
            endpoints: Vec::new(),
            weight: default_weight(),
            warning_weight: None,
            health: Health::default(),
            health_reasons: HealthReasons::default(),
        }
    }
}

impl TryFrom<Draft> for Instance {
    type Error = Invalid;

    fn try_from(draft: Draft) -> Result<Self, Invalid> {
        let Draft {
            service,
            id,
            version,
            addresses,
            tags,
            metadata,
            mut endpoints,
            weight,
            warning_weight,
            health,
            health_reasons,
        } = draft;
        if addresses.is_empty() {
            return Err(Invalid::new(
                format!("instance of {service:?}"),
                "has no address; it needs at least one",
            ));
        }
        if let Some(version) = &version {
            check_label("version", version)?;
        }
        for tag in &tags {
            check_label("tag", tag)?;
        }
        for key in metadata.keys() {
            check_metadata_key(key)?;
        }
        for endpoint in &endpoints {
            check_label("endpoint name", &endpoint.name)?;
        }
        endpoints.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = endpoints.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Invalid::quoting("endpoint name", &pair[0].name, "is given twice"));
        }
        let weight = NonZeroU16::new(weight)
            .ok_or_else(|| Invalid::new("weight 0", "is too small; a weight is 1 to 65535"))?;
        let id = id.unwrap_or_else(|| InstanceId::random(&service));
        Ok(Self {
            service,
            id,
            version,
            addresses,
            tags,
            metadata,
            endpoints,
            weight,
            warning_weight,
            health,
            health_reasons,
        })
    }
}

fn check_label(what: &str, label: &str) -> Result<(), Invalid> {
    const MAX_BYTES: usize = 255;
    if label.is_empty() {
        Err(Invalid::quoting(what, label, "is empty"))
    } else if label.len() > MAX_BYTES {
        let why = format!("is {} bytes long, the limit is {MAX_BYTES}", label.len());
        Err(Invalid::quoting(what, label, why))
    } else if label.chars().any(char::is_control) {
        Err(Invalid::quoting(what, label, "contains a control character"))
    } else {
        Ok(())
    }
}

fn check_metadata_key(key: &str) -> Result<(), Invalid> {
    const MAX_BYTES: usize = 128;
    let refuse = |why: String| Err(Invalid::quoting("metadata key", key, why));
    if key.is_empty() {
        refuse("is empty".into())
    } else if key.len() > MAX_BYTES {
        refuse(format!("is {} bytes long, the limit is {MAX_BYTES}", key.len()))
    } else if key.contains('=') {
        refuse("contains '='".into())
    } else if !key.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        refuse("contains something other than printable ASCII".into())
    } else {
        Ok(())
    }
}

/// As `greeter/1 at 10.0.0.7:80, passing`, with all its addresses.
impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at ", self.key())?;
        for (nth, address) in self.addresses().iter().enumerate() {
            let separator = if nth == 0 { "" } else { " and " };
            write!(f, "{separator}{address}")?;
        }
        write!(f, ", {}", self.health())
    }
}

/// What names one instance in a registry: its service and its id. Displayed as `service/id`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceKey {
    service: ServiceName,
    id: InstanceId,
}

impl InstanceKey {
    /// The key of instance `id` of `service`.
    pub fn new(service: ServiceName, id: InstanceId) -> Self {
        Self { service, id }
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The instance's id.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    fn complete() -> Instance {
        Instance::builder("greeter")
            .id("greeter-1")
            .version("1.2.0")
            .address("10.0.0.7:8080")
            .address("host.example:8080")
            .tag("a")
            .metadata("zone", "eu")
            .metadata("empty", "")
            .endpoint(
                Endpoint::new("B")
                    .with_request(Value::new("Req", "Req").with_values([Value::new("n", "u8")])),
            )
            .endpoint("A")
            .weight(7)
            .warning_weight(0)
            .build()
            .unwrap()
    }

    #[test]
    fn survives_json() {
        let instance = complete().with_health(Health::Warning);
        let json = serde_json::to_string(&instance).unwrap();
        assert_eq!(serde_json::from_str::<Instance>(&json).unwrap(), instance);
    }

    #[test]
    fn survives_its_own_builder() {
        assert_eq!(complete().to_builder().build().unwrap(), complete());
    }

    #[test]
    fn json_is_checked_like_the_builder() {
        let error = serde_json::from_str::<Instance>(r#"{"service":"a","addresses":[]}"#).unwrap_err();
        assert!(error.to_string().contains("has no address"), "{error}");
        assert!(
            serde_json::from_str::<Instance>(r#"{"service":"a","addresses":["h:1"],"weight":0}"#).is_err()
        );
        assert!(serde_json::from_str::<Instance>(r#"{"service":"a","addresses":["h:1"]}"#).is_ok());
    }

    #[test]
    fn refuses_and_says_why() {
        let base = || Instance::builder("a").address("h:1");
        for (builder, message) in [
            (Instance::builder("a"), "instance of \"a\": has no address; it needs at least one"),
            (Instance::builder("").address("h:1"), "service name \"\": is empty"),
            (base().id("a\tb"), "instance id \"a\\tb\": contains a control character"),
            (base().address("h"), "address \"h\": has no port; write host:port"),
            (base().version(""), "version \"\": is empty"),
            (base().tag("a\nb"), "tag \"a\\nb\": contains a control character"),
            (base().metadata("", "v"), "metadata key \"\": is empty"),
            (base().metadata("a=b", "v"), "metadata key \"a=b\": contains '='"),
            (base().metadata("ä", "v"), "metadata key \"ä\": contains something other than printable ASCII"),
            (base().endpoint("E").endpoint("E"), "endpoint name \"E\": is given twice"),
            (base().weight(0), "weight 0: is too small; a weight is 1 to 65535"),
        ] {
            assert_eq!(builder.build().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_lossy_build_keeps_all_that_is_valid() {
        let base = Instance::builder("a").id("1").address("h:1").tag("ok").metadata("k", "v").endpoint("E");
        let clean = base.clone().build().unwrap();
        let dirty = base.version("").tag("").metadata("a=b", "v").endpoint("E").endpoint("").weight(0);
        let mut left_out = Vec::new();
        assert_eq!(dirty.build_lossy_noting(|invalid| left_out.push(invalid.to_string())).unwrap(), clean);
        assert_eq!(left_out.len(), 4, "{left_out:?}");
        assert_eq!(left_out[1], "tag \"\": is empty");
        assert!(Instance::builder("a").build_lossy().is_err());
    }

    #[test]
    fn effective_weight_follows_health() {
        let instance = complete();
        assert_eq!(instance.effective_weight(), 7);
        assert_eq!(instance.clone().with_health(Health::Warning).effective_weight(), 0);
        assert_eq!(instance.clone().with_health(Health::Maintenance).effective_weight(), 0);
        let same = instance.to_builder().weight(3).build().unwrap();
        assert_eq!(same.with_health(Health::Critical).effective_weight(), 0);
    }
}
