use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::join_all;
use switchboard_core::{
    Error, Instance, InstanceKey, Invalid, NamesStream, RegisterOptions, Registry, Result, ServiceName,
    Snapshot, SnapshotStream,
};

use crate::parts::Parts;
use crate::union::follow;

/// Each service in the registry that its name says: the first whose pattern it matches.
///
/// A pattern is a name in which `*` stands for any characters: `legacy-*`, `*`. A service that matches none is
/// [`ErrorKind::Invalid`](switchboard_core::ErrorKind::Invalid). The names of services are those of all registries that go where they are from;
/// a registry that cannot be heard keeps the names it said last.
pub struct Route {
    patterns: Arc<[String]>,
    parts: Parts,
}

impl Route {
    /// Routes by these rules, the first that matches.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](switchboard_core::ErrorKind::Invalid) if there are none.
    pub fn new<P: Into<String>>(rules: impl IntoIterator<Item = (P, Arc<dyn Registry>)>) -> Result<Self> {
        let (patterns, list): (Vec<String>, Vec<_>) =
            rules.into_iter().map(|(pattern, registry)| (pattern.into(), registry)).unzip();
        Ok(Self { patterns: patterns.into(), parts: Parts::new("route", list)? })
    }

    fn to(&self, operation: &'static str, service: &ServiceName) -> Result<&Arc<dyn Registry>> {
        if let Some(at) = rule(&self.patterns, service) {
            return Ok(&self.parts.list()[at]);
        }
        let why = format!("goes to no registry; there are rules for: {}", self.patterns.join(", "));
        let invalid = Invalid::new(format!("service {service:?}"), why);
        Err(Error::invalid(self.parts.name(), operation, &invalid))
    }
}

/// Which rule a service goes by.
fn rule(patterns: &[String], service: &ServiceName) -> Option<usize> {
    patterns.iter().position(|pattern| matches(pattern, service.as_str()))
}

/// Whether `name` is `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(start) else { return false };
    let mut middles: Vec<&str> = rest.split('*').collect();
    let end = middles.pop().unwrap_or_default();
    for middle in middles {
        let Some(at) = name.find(middle) else { return false };
        name = &name[at + middle.len()..];
    }
    name.ends_with(end)
}

#[async_trait]
impl Registry for Route {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        self.to("register", instance.service())?.register(instance, options).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.to("deregister", key.service())?.deregister(key).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.to("lookup", service)?.lookup(service).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        let mut all = BTreeSet::new();
        let asked = join_all(self.parts.list().iter().map(Registry::services)).await;
        for (at, names) in asked.into_iter().enumerate() {
            let names = names.map_err(|error| self.parts.error("services", vec![(at, error)]))?;
            all.extend(names.into_iter().filter(|name| rule(&self.patterns, name) == Some(at)));
        }
        Ok(all)
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        match self.to("watch", service) {
            Ok(part) => part.watch(service),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn watch_services(&self) -> NamesStream {
        let own = |(at, part): (usize, &Arc<dyn Registry>)| {
            let patterns = self.patterns.clone();
            let own = move |names: BTreeSet<ServiceName>| {
                names.into_iter().filter(|name| rule(&patterns, name) == Some(at)).collect::<BTreeSet<_>>()
            };
            part.watch_services().map(move |names| names.map(&own)).boxed()
        };
        follow(self.parts.name(), self.parts.list().iter().enumerate().map(own))
    }

    async fn suspect(&self, key: &InstanceKey) {
        if let Ok(part) = self.to("suspect", key.service()) {
            part.suspect(key).await;
        }
    }

    async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        self.to("set_maintenance", key.service())?.set_maintenance(key, reason).await
    }

    async fn local_ip(&self) -> Option<IpAddr> {
        self.parts.local_ip().await
    }

    fn parts(&self) -> Vec<Arc<dyn Registry>> {
        self.parts.list().to_vec()
    }

    async fn close(&self) -> Result<()> {
        self.parts.close().await
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (pattern, part)) in self.patterns.iter().zip(self.parts.list()).enumerate() {
            let between = if at == 0 { "" } else { " ; " };
            write!(f, "{between}{pattern} -> {part}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("patterns", &self.patterns).field("registries", &self.parts).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name) in [
            ("a", "a"),
            ("*", "a"),
            ("legacy-*", "legacy-"),
            ("a*b*c", "a-b-b-c"),
            ("*.v1", "x.v1"),
            ("a**b", "ab"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("a", "ab"), ("legacy-*", "legac"), ("a*b*c", "acb"), ("*.v1", "x.v2"), ("ab*b", "ab")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
