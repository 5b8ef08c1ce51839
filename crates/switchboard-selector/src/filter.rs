use std::fmt;
use std::sync::Arc;

use switchboard_core::{Instance, metadata_keys};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Which instances may be picked.
///
/// Filters run when the snapshot or the state of an instance changes, never on a pick. Several are applied in the order
/// given, each on what the one before left.
#[derive(Clone)]
pub struct Filter(Kind);

#[derive(Clone)]
enum Kind {
    Version(String),
    Tag(String),
    Label(String, String),
    Endpoint(String),
    Zone(String),
    Subset { client: String, size: usize },
    Custom(&'static str, Arc<dyn Fn(&Instance) -> bool + Send + Sync>),
}

/// What a filter needs to know of an instance.
pub(crate) struct Subject<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) ejected: bool,
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

    /// Instances of this zone ([`metadata_keys::ZONE`]) as long as one of them is there that is not ejected; else all.
    pub fn prefer_zone(zone: impl Into<String>) -> Self {
        Self(Kind::Zone(zone.into()))
    }

    /// A subset of at most `size` (at least 1), by rendezvous hashing of the client's name with the instance ids.
    ///
    /// One client always gets the same subset of the same instances, one more or less of them changes at most one
    /// place in it, and over many clients the instances are chosen evenly (gRPC A68).
    pub fn subset(client: impl Into<String>, size: usize) -> Self {
        Self(Kind::Subset { client: client.into(), size: size.max(1) })
    }

    /// Instances for which `accept` says so; `name` is for the reader of a report.
    pub fn custom(name: &'static str, accept: impl Fn(&Instance) -> bool + Send + Sync + 'static) -> Self {
        Self(Kind::Custom(name, Arc::new(accept)))
    }

    /// Takes out what does not pass. `subjects` are indices into what `look` knows.
    pub(crate) fn apply<'a>(&self, subjects: &mut Vec<usize>, look: impl Fn(usize) -> Subject<'a>) {
        let instance = |index: usize| look(index).instance;
        match &self.0 {
            Kind::Version(version) => subjects.retain(|&at| instance(at).version() == Some(version)),
            Kind::Tag(tag) => subjects.retain(|&at| instance(at).tags().contains(tag)),
            Kind::Label(key, value) => subjects.retain(|&at| label(instance(at), key) == Some(value)),
            Kind::Endpoint(name) => {
                subjects.retain(|&at| instance(at).endpoints().iter().any(|endpoint| endpoint.name == *name));
            }
            Kind::Zone(zone) => {
                let here = |at: usize| label(instance(at), metadata_keys::ZONE) == Some(zone);
                if subjects.iter().any(|&at| here(at) && !look(at).ejected) {
                    subjects.retain(|&at| here(at));
                }
            }
            Kind::Subset { client, size } => subset(subjects, client, *size, instance),
            Kind::Custom(_, accept) => subjects.retain(|&at| accept(instance(at))),
        }
    }
}

fn label<'a>(instance: &'a Instance, key: &str) -> Option<&'a str> {
    instance.metadata().get(key).map(String::as_str)
}

fn subset<'a>(
    subjects: &mut Vec<usize>,
    client: &str,
    size: usize,
    instance: impl Fn(usize) -> &'a Instance,
) {
    if subjects.len() <= size {
        return;
    }
    let seed = xxh3_64(client.as_bytes());
    let rank = |&at: &usize| (xxh3_64_with_seed(instance(at).id().as_str().as_bytes(), seed), at);
    subjects.select_nth_unstable_by_key(size - 1, rank);
    subjects.truncate(size);
    subjects.sort_unstable();
}

/// Custom filters are equal only to their clones.
impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Version(a), Kind::Version(b))
            | (Kind::Tag(a), Kind::Tag(b))
            | (Kind::Endpoint(a), Kind::Endpoint(b))
            | (Kind::Zone(a), Kind::Zone(b)) => a == b,
            (Kind::Label(k, v), Kind::Label(other_k, other_v)) => (k, v) == (other_k, other_v),
            (Kind::Subset { client, size }, Kind::Subset { client: other, size: other_size }) => {
                (client, size) == (other, other_size)
            }
            (Kind::Custom(_, a), Kind::Custom(_, b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Version(version) => write!(f, "version {version}"),
            Kind::Tag(tag) => write!(f, "tag {tag}"),
            Kind::Label(key, value) => write!(f, "label {key}={value}"),
            Kind::Endpoint(name) => write!(f, "endpoint {name}"),
            Kind::Zone(zone) => write!(f, "zone {zone}"),
            Kind::Subset { client, size } => write!(f, "subset of {size} for {client}"),
            Kind::Custom(name, _) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({self})")
    }
}
