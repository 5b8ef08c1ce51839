#[cfg(test)]
mod at_scale;

use std::fmt;
use std::sync::{Arc, OnceLock};

use switchboard_core::{Instance, InstanceId, metadata_keys};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Which instances may be picked.
///
/// Filters run when the snapshot or the state of an instance changes, never on a pick. Several are applied in the order
/// given, each on what the one before left.
#[derive(Clone, PartialEq)]
pub struct Filter(Kind);

#[derive(Clone, PartialEq)]
enum Kind {
    Version(String),
    Tag(String),
    Label(String, String),
    Endpoint(String),
    Zone(String),
    Subset { seed: u64, size: usize },
    Custom(&'static str, Accept),
}

/// Equal only to its clones.
#[derive(Clone)]
struct Accept(Arc<dyn Fn(&Instance) -> bool + Send + Sync>);

impl PartialEq for Accept {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Filter {
    /// Instances of this version, compared as text.
    pub fn version(version: impl Into<String>) -> Self {
        Self(Kind::Version(version.into()))
    }

    /// Instances with this tag.
    pub fn tag(tag: impl Into<String>) -> Self {
        Self(Kind::Tag(tag.into()))
    }

    /// Instances with this metadata pair.
    pub fn label(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self(Kind::Label(key.into(), value.into()))
    }

    /// Instances that offer this endpoint, such as `Greeter.Hello`.
    pub fn endpoint(name: impl Into<String>) -> Self {
        Self(Kind::Endpoint(name.into()))
    }

    /// Instances that speak this protocol: [`label`](Self::label) of [`metadata_keys::PROTOCOL`].
    pub fn protocol(protocol: impl Into<String>) -> Self {
        Self::label(metadata_keys::PROTOCOL, protocol)
    }

    /// Instances of this zone ([`metadata_keys::ZONE`]) while enough of them are usable; all if there is none.
    ///
    /// When instances of the zone are unhealthy or ejected, what the rest cannot take goes to the other zones: the zone
    /// keeps 1.4 times the part of its instances that is usable (Envoy's overprovisioning factor), so with one of three
    /// left it keeps 47 % of the picks. A zone has no idea how many clients prefer it; give it instances for all of them. Of
    /// several such filters the last counts.
    pub fn prefer_zone(zone: impl Into<String>) -> Self {
        Self(Kind::Zone(zone.into()))
    }

    /// A subset of at most `size` (at least 1), another in each process, so that over many processes the instances are
    /// chosen evenly (gRPC A68).
    ///
    /// By rendezvous hashing of a number drawn when the process starts with the instance ids: one instance more or less
    /// changes at most one place in it. All filters of one process choose alike.
    pub fn subset(size: usize) -> Self {
        static SEED: OnceLock<u64> = OnceLock::new();
        Self(Kind::Subset { seed: *SEED.get_or_init(|| fastrand::Rng::new().u64(..)), size: size.max(1) })
    }

    /// [`subset`](Self::subset) that stays the same when the process starts again: by the id under which this client
    /// itself is registered, or another that no replica shares. With one id in all replicas, all would choose the same few.
    pub fn subset_as(client: &InstanceId, size: usize) -> Self {
        Self(Kind::Subset { seed: xxh3_64(client.as_str().as_bytes()), size: size.max(1) })
    }

    /// Instances for which `accept` says so; `name` is for the reader of a report.
    pub fn custom(name: &'static str, accept: impl Fn(&Instance) -> bool + Send + Sync + 'static) -> Self {
        Self(Kind::Custom(name, Accept(Arc::new(accept))))
    }

    /// Which instances are of the zone that this prefers, if it is such a one.
    pub(crate) fn zone(&self) -> Option<impl Fn(&Instance) -> bool> {
        let Kind::Zone(zone) = &self.0 else { return None };
        Some(move |instance: &Instance| label(instance, metadata_keys::ZONE) == Some(zone))
    }

    /// Takes out what does not pass; a preference takes out nothing. `subjects` are indices into what `look` knows.
    pub(crate) fn apply<'a>(&self, subjects: &mut Vec<usize>, look: impl Fn(usize) -> &'a Instance) {
        match &self.0 {
            Kind::Version(version) => subjects.retain(|&at| look(at).version() == Some(version)),
            Kind::Tag(tag) => subjects.retain(|&at| look(at).tags().contains(tag)),
            Kind::Label(key, value) => subjects.retain(|&at| label(look(at), key) == Some(value)),
            Kind::Endpoint(name) => {
                subjects.retain(|&at| look(at).endpoints().iter().any(|endpoint| endpoint.name == *name));
            }
            Kind::Subset { seed, size } if subjects.len() > *size => {
                let rank = |&at: &usize| (xxh3_64_with_seed(look(at).id().as_str().as_bytes(), *seed), at);
                subjects.select_nth_unstable_by_key(size - 1, rank);
                subjects.truncate(*size);
                subjects.sort_unstable();
            }
            Kind::Zone(_) | Kind::Subset { .. } => {}
            Kind::Custom(_, accept) => subjects.retain(|&at| accept.0(look(at))),
        }
    }
}

fn label<'a>(instance: &'a Instance, key: &str) -> Option<&'a str> {
    instance.metadata().get(key).map(String::as_str)
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Version(version) => write!(f, "version {version}"),
            Kind::Tag(tag) => write!(f, "tag {tag}"),
            Kind::Label(key, value) => write!(f, "label {key}={value}"),
            Kind::Endpoint(name) => write!(f, "endpoint {name}"),
            Kind::Zone(zone) => write!(f, "zone {zone}"),
            Kind::Subset { size, .. } => write!(f, "subset of {size}"),
            Kind::Custom(name, _) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({self})")
    }
}
