//! Deregistering what this handle did not register: only the agent that something is registered with can.

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
    if remove_plain(client, key).await? {
        return Ok(());
    }
    let found = entries(client, whole, key).await?;
    if found.is_empty() {
        return Ok(());
    }
    let mut agents = Vec::with_capacity(client.agents.len());
    for agent in 0..client.agents.len() {
        agents.push(node_of(client, agent).await?);
    }
    let mut elsewhere = BTreeSet::new();
    for (node, id) in found {
        match agents.iter().position(|agent| *agent == node) {
            // The agent has said that it is gone; the servers are not told yet.
            Some(_) if id == *key.id() => {}
            Some(agent) => {
                let plain = InstanceKey::new(key.service().clone(), id);
                if !registrations.deregister_from(client, &plain, agent).await? {
                    remove(client, agent, plain.id()).await.map_err(|failure| failure.error)?;
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
    let nodes: Vec<_> = elsewhere.iter().map(|node| format!("{node:?}")).collect();
    let message = format!(
        "{key} is registered with node {}, which is none of this handle's agents; only the agent there can deregister it, or \
         who put it into the catalog",
        nodes.join(" and ")
    );
    Err(Error::new(ErrorKind::Unsupported, BACKEND, DEREGISTER, message))
}

/// Removes what has this id at an agent, but nothing that has it for another service; whether there was any.
async fn remove_plain(client: &Client, key: &InstanceKey) -> Result<bool> {
    let request = Request::get(format!("/v1/agent/service/{}", segment(key.id().as_str())));
    let mut removed = false;
    for agent in 0..client.agents.len() {
        let answer = client.send(DEREGISTER, agent, &request).await.map_err(|failure| failure.error)?;
        if answer.status == StatusCode::NOT_FOUND {
            continue;
        }
        let answer = answer.success(DEREGISTER)?;
        let service: serde_json::Value =
            serde_json::from_slice(&answer.body).map_err(|error| answer.malformed(DEREGISTER, error))?;
        // To an agent ids that differ in case are one.
        let is_meant = service["Service"].as_str() == Some(key.service().as_str())
            && service["ID"].as_str() == Some(key.id().as_str());
        if is_meant {
            remove(client, agent, key.id()).await.map_err(|failure| failure.error)?;
            removed = true;
        }
    }
    Ok(removed)
}

/// The entries that have this id, or are given it: the node of each, and what it was registered as.
async fn entries(client: &Client, whole: &Request, key: &InstanceKey) -> Result<Vec<(Node, InstanceId)>> {
    #[derive(Deserialize)]
    struct Placed {
        #[serde(rename = "Node")]
        node: Node,
    }
    let answer = client.read(DEREGISTER, whole).await.map_err(|failure| failure.error)?;
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
    read().map_err(|error| answer.malformed(DEREGISTER, error))
}

/// The node an agent is (<https://developer.hashicorp.com/consul/api-docs/agent#read-configuration>).
async fn node_of(client: &Client, agent: usize) -> Result<Node> {
    #[derive(Deserialize)]
    struct About {
        #[serde(rename = "Config")]
        config: Node,
    }
    let answer = client.send(DEREGISTER, agent, &Request::get("/v1/agent/self")).await;
    let answer = answer.map_err(|failure| failure.error)?.success(DEREGISTER)?;
    let about: About =
        serde_json::from_slice(&answer.body).map_err(|error| answer.malformed(DEREGISTER, error))?;
    Ok(about.config)
}
