//! What this handle did not register: only the agent that something is registered with can deregister it, or take it out of
//! use.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use switchboard_core::{Error, ErrorKind, InstanceId, InstanceKey, Result};

use crate::BACKEND;
use crate::agent_api::{DEREGISTER, remove};
use crate::client::{Client, Request, segment};
use crate::entry;
use crate::identity::qualified;
use crate::registration::Registrations;

/// A node, in an entry and in what an agent says of itself.
#[derive(Deserialize, PartialEq)]
struct Node {
    #[serde(rename = "Node", alias = "NodeName")]
    name: String,
    #[serde(rename = "Datacenter", default)]
    datacenter: String,
}

/// Removes it where this handle's agents have it; an error if others do. `whole` asks for its service.
pub(crate) async fn deregister(
    client: &Client,
    registrations: &Registrations,
    whole: &Request,
    key: &InstanceKey,
) -> Result<()> {
    let plain = plain(DEREGISTER, client, key).await?;
    for agent in &plain {
        remove(client, *agent, key, None).await.map_err(|failure| failure.error)?;
    }
    if !plain.is_empty() {
        return Ok(());
    }
    let found = entries(DEREGISTER, client, whole, key).await?;
    if found.is_empty() {
        return Ok(());
    }
    let agents = nodes(DEREGISTER, client).await?;
    let mut elsewhere = BTreeSet::new();
    for (node, id) in found {
        match agents.iter().position(|agent| *agent == node) {
            // The agent has said that it is gone; the servers are not told yet.
            Some(_) if id == *key.id() => {}
            Some(agent) => {
                let plain = InstanceKey::new(key.service().clone(), id);
                if !registrations.deregister_from(client, &plain, agent).await? {
                    remove(client, agent, &plain, None).await.map_err(|failure| failure.error)?;
                }
            }
            None => {
                elsewhere.insert(node.name);
            }
        }
    }
    if elsewhere.is_empty() {
        return Ok(());
    }
    let can = "can deregister it, or who put it into the catalog";
    Err(is_elsewhere(DEREGISTER, key, &elsewhere, can))
}

/// Where this handle's agents have it, and as what; an error if only others do. Empty for what is not registered.
pub(crate) async fn places(
    operation: &'static str,
    client: &Client,
    whole: &Request,
    key: &InstanceKey,
) -> Result<Vec<(usize, InstanceId)>> {
    let plain = plain(operation, client, key).await?;
    if !plain.is_empty() {
        return Ok(plain.into_iter().map(|agent| (agent, key.id().clone())).collect());
    }
    let found = entries(operation, client, whole, key).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let agents = nodes(operation, client).await?;
    let (mut here, mut elsewhere) = (Vec::new(), BTreeSet::new());
    for (node, id) in found {
        match agents.iter().position(|agent| *agent == node) {
            Some(agent) => here.push((agent, id)),
            None => {
                elsewhere.insert(node.name);
            }
        }
    }
    if here.is_empty() { Err(is_elsewhere(operation, key, &elsewhere, "can do that")) } else { Ok(here) }
}

fn is_elsewhere(operation: &'static str, key: &InstanceKey, nodes: &BTreeSet<String>, can: &str) -> Error {
    let nodes: Vec<_> = nodes.iter().map(|node| format!("{node:?}")).collect();
    let message = format!(
        "{key} is registered with node {}, which is none of this handle's agents; only the agent there {can}",
        nodes.join(" and ")
    );
    Error::new(ErrorKind::Unsupported, BACKEND, operation, message)
}

/// The agents that have something with this id, and not for another service.
async fn plain(operation: &'static str, client: &Client, key: &InstanceKey) -> Result<Vec<usize>> {
    let request = Request::get(format!("/v1/agent/service/{}", segment(key.id().as_str())));
    let mut found = Vec::new();
    for agent in 0..client.agents.len() {
        let answer = client.send(operation, agent, &request).await.map_err(|failure| failure.error)?;
        if answer.status == StatusCode::NOT_FOUND {
            continue;
        }
        let answer = answer.success(operation)?;
        let service: serde_json::Value =
            serde_json::from_slice(&answer.body).map_err(|error| answer.malformed(operation, error))?;
        // To an agent ids that differ in case are one.
        let is_meant = service["Service"].as_str() == Some(key.service().as_str())
            && service["ID"].as_str() == Some(key.id().as_str());
        if is_meant {
            found.push(agent);
        }
    }
    Ok(found)
}

/// The entries that have this id, or are given it: the node of each, and what it was registered as.
async fn entries(
    operation: &'static str,
    client: &Client,
    whole: &Request,
    key: &InstanceKey,
) -> Result<Vec<(Node, InstanceId)>> {
    #[derive(Deserialize)]
    struct Placed {
        #[serde(rename = "Node")]
        node: Node,
    }
    let answer = client.read(operation, whole).await.map_err(|failure| failure.error)?;
    let read = || {
        let mut found = Vec::new();
        for entry in serde_json::from_slice::<Vec<&RawValue>>(&answer.body)? {
            let Ok(instance) = entry::decode(entry.get())?.instance else { continue };
            let is_meant = instance.id() == key.id() || qualified(&instance) == *key.id();
            if instance.service() == key.service() && is_meant {
                let placed: Placed = serde_json::from_str(entry.get())?;
                found.push((placed.node, instance.id().clone()));
            }
        }
        Ok(found)
    };
    read().map_err(|error| answer.malformed(operation, error))
}

/// The node of each agent.
async fn nodes(operation: &'static str, client: &Client) -> Result<Vec<Node>> {
    let mut nodes = Vec::with_capacity(client.agents.len());
    for agent in 0..client.agents.len() {
        nodes.push(node_of(operation, client, agent).await?);
    }
    Ok(nodes)
}

/// The node an agent is (<https://developer.hashicorp.com/consul/api-docs/agent#read-configuration>).
async fn node_of(operation: &'static str, client: &Client, agent: usize) -> Result<Node> {
    #[derive(Deserialize)]
    struct About {
        #[serde(rename = "Config")]
        config: Node,
    }
    let answer = client.send(operation, agent, &Request::get("/v1/agent/self")).await;
    let answer = answer.map_err(|failure| failure.error)?.success(operation)?;
    let about: About =
        serde_json::from_slice(&answer.body).map_err(|error| answer.malformed(DEREGISTER, error))?;
    Ok(about.config)
}
