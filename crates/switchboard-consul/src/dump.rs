//! Everything that is registered, in one request.
//!
//! Consul has none in its public API. This one is what its own UI shows the nodes with; where an agent does not answer
//! it, for it may be blocked or gone, the services are asked for one by one.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use switchboard_core::{ServiceName, Snapshot};

use crate::client::Request;
use crate::query::{Query, ReadOptions};

pub(crate) const PATH: &str = "/v1/internal/ui/nodes";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Dumped<'a> {
    #[serde(rename = "ID", borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    node: Option<&'a RawValue>,
    #[serde(borrow, default)]
    address: Option<&'a RawValue>,
    #[serde(borrow, default)]
    services: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    checks: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Service")]
    name: String,
}

#[derive(Deserialize)]
struct Check {
    /// Empty for a check of the node.
    #[serde(rename = "ServiceID", default)]
    service: String,
}

/// All snapshots, from one answer.
pub(crate) struct Everything<'a> {
    request: Request,
    reads: &'a ReadOptions,
}

impl<'a> Everything<'a> {
    pub(crate) fn new(request: Request, reads: &'a ReadOptions) -> Self {
        Self { request, reads }
    }

    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// Each service as an answer about that one service would have it, so that both are read alike.
    pub(crate) fn decode(&self, body: &[u8]) -> serde_json::Result<Vec<Snapshot>> {
        let nodes: Vec<Dumped<'_>> = serde_json::from_slice(body)?;
        let mut answers: BTreeMap<String, String> = BTreeMap::new();
        for node in &nodes {
            let checks =
                node.checks.iter().flatten().map(|raw| {
                    serde_json::from_str::<Check>(raw.get()).map(|check| (check.service, raw.get()))
                });
            let mut of_service: BTreeMap<String, Vec<&str>> = BTreeMap::new();
            for check in checks {
                let (service, json) = check?;
                of_service.entry(service).or_default().push(json);
            }
            let of_node = of_service.remove("").unwrap_or_default();
            let raw = |value: Option<&RawValue>| value.map_or("null", |raw| raw.get()).to_owned();
            let (id, name, address) = (raw(node.id), raw(node.node), raw(node.address));
            for json in node.services.iter().flatten() {
                let service: Service = serde_json::from_str(json.get())?;
                let own = of_service.get(&service.id).map(Vec::as_slice).unwrap_or_default();
                let checks = [&*of_node, own].concat().join(",");
                let entry = format!(
                    r#"{{"Node":{{"ID":{id},"Node":{name},"Address":{address}}},"Service":{},"Checks":[{checks}]}}"#,
                    json.get()
                );
                let answer = answers.entry(service.name).or_default();
                answer.push(if answer.is_empty() { '[' } else { ',' });
                answer.push_str(&entry);
            }
        }
        let mut snapshots = Vec::with_capacity(answers.len());
        for (name, mut answer) in answers {
            answer.push(']');
            match ServiceName::new(name) {
                Ok(name) => snapshots.push(self.reads.instances(&name).decode(answer.as_bytes())?),
                Err(invalid) => tracing::debug!(%invalid, "leaving out a service"),
            }
        }
        snapshots.retain(|snapshot| !snapshot.is_empty());
        Ok(snapshots)
    }
}
