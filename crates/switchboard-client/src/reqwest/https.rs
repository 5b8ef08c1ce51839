use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, Request, Response};
use reqwest_middleware::{Error, Result};
use switchboard_core::{Instance, Invalid, ServiceName};
use switchboard_selector::Balancer;

use super::HostHeader;
use super::middleware::keep_host;
use crate::connections::Connections;
use crate::pick::address;

/// Clients that connect to one instance and know it by its service's name.
#[derive(Clone)]
pub(crate) struct Https {
    builder: Arc<dyn Fn() -> ClientBuilder + Send + Sync>,
    services: Arc<Mutex<HashMap<ServiceName, Connections<Made>>>>,
}

/// A client, or why there is none.
type Made = std::result::Result<Client, Arc<reqwest::Error>>;

/// So many services are kept; beyond that, all begin anew.
const KEPT: usize = 1024;

impl Https {
    pub(crate) fn new(builder: impl Fn() -> ClientBuilder + Send + Sync + 'static) -> Self {
        Self { builder: Arc::new(builder), services: Arc::default() }
    }

    pub(crate) async fn send(
        &self,
        balancer: &Balancer,
        instance: &Arc<Instance>,
        mut request: Request,
        host: HostHeader,
    ) -> Result<Response> {
        let name = request.url().host_str().unwrap_or_default().to_owned();
        let client = self.clients(balancer).get(instance, |instance| self.connect(&name, instance));
        let client = client.map_err(|error| Error::middleware(Unbuilt(error)))?;
        // The header is made of the URL, which has the name in any case.
        match host {
            HostHeader::Name => keep_host(&mut request, &name),
            HostHeader::Address => keep_host(&mut request, &address(instance).to_string()),
        }
        // The name's addresses are the instance's; its port is said by the URL.
        let port = address(instance).port();
        if request.url_mut().set_port(Some(port)).is_err() {
            return Err(Error::middleware(Invalid::new(request.url().as_str(), "takes no port")));
        }
        Ok(client.execute(request).await?)
    }

    fn clients(&self, balancer: &Balancer) -> Connections<Made> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clients) = services.get(balancer.service()) {
            return clients.clone();
        }
        if services.len() >= KEPT {
            services.clear();
        }
        let clients = Connections::new(balancer.view());
        services.insert(balancer.service().clone(), clients.clone());
        clients
    }

    fn connect(&self, name: &str, instance: &Instance) -> Made {
        let address = address(instance);
        let builder = (self.builder)();
        let builder = match (address.socket_addr(), address.host()) {
            (Some(socket), _) => builder.resolve(name, socket),
            (None, host) => builder.dns_resolver(Alias(host.to_string())),
        };
        builder.build().map_err(Arc::new)
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Https")
    }
}

/// Resolves every name as this one.
struct Alias(String);

impl Resolve for Alias {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// Why there is no client for an instance.
#[derive(Debug, thiserror::Error)]
#[error("the client of tls_by_name cannot be built")]
struct Unbuilt(#[source] Arc<reqwest::Error>);
