use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use switchboard_core::ServiceName;
use switchboard_selector::{Balancer, Request, Selector};

use super::names::Names;
use crate::Options;
use crate::pick::{address, pick};

/// A DNS resolver for plain reqwest clients that knows services: `reqwest::Client::builder().dns_resolver(…)`.
///
/// A name without a dot, other than `localhost`, is a service, unless [`names`](Self::names) sets another rule: it resolves
/// to the address and port of a picked instance, then those of the other usable ones, which the client tries in turn
/// when it cannot connect. All other names go to the system's resolver.
///
/// Its limits are those of DNS; [`Discovery`](super::Discovery) has none of them:
///
/// - Picks are made for each new connection, and connections are kept: busy clients stay with few instances, and also with
///   one that has left, until it closes the connection.
/// - Nothing is learned of calls, so no instance is ejected for failing, nor are calls in flight known.
/// - A port in the URL overrides the instance's.
#[derive(Clone, Debug)]
pub struct Resolver {
    selector: Selector,
    names: Names,
}

/// So many instances are handed out for one name at most.
const MOST: usize = 8;

impl Resolver {
    /// Picks by `selector`.
    pub fn new(selector: Selector) -> Self {
        Self { selector, names: Names::default() }
    }

    /// Replaces the rule for which hosts (in lower case) are services: `None` is none.
    pub fn names(mut self, names: impl Fn(&str) -> Option<ServiceName> + Send + Sync + 'static) -> Self {
        self.names = Names::new(names);
        self
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_ascii_lowercase();
        let Some(service) = self.names.host(&host) else {
            return Box::pin(async move {
                let found = tokio::net::lookup_host((host, 0)).await?;
                Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
            });
        };
        let balancer = self.selector.service::<ServiceName>(service);
        Box::pin(async move {
            let found = sockets(&balancer?).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The addresses of a picked instance, then those of others.
async fn sockets(balancer: &Balancer) -> Result<Vec<SocketAddr>, BoxError> {
    let mut picked = pick(balancer, &Options::new(), &[]).await?;
    let (mut tried, mut found) = (Vec::new(), Vec::new());
    while tried.len() < MOST && !tried.contains(picked.id()) {
        match tokio::net::lookup_host(address(&picked).to_string()).await {
            Ok(sockets) => found.extend(sockets),
            Err(error) => tracing::debug!(instance = %picked.id(), %error, "its address does not resolve"),
        }
        tried.push(picked.id().clone());
        picked = balancer.pick_for(&Request::new().avoid(&tried))?;
    }
    Ok(found)
}
