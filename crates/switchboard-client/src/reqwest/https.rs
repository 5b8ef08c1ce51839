use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, Request, Response};
use reqwest_middleware::{Error, Result};
use switchboard_core::{Instance, ServiceName};
use switchboard_selector::Balancer;

use super::limited;
use crate::connections::Connections;
use crate::pick::address;

/// Clients that connect to one instance and know it by the name in the URL.
#[derive(Clone)]
pub(crate) struct Https {
    settings: Arc<dyn Fn(ClientBuilder) -> ClientBuilder + Send + Sync>,
    clients: Arc<Mutex<HashMap<Names, Connections<Client>>>>,
}

/// A service, and the name it has in URLs: there may be several.
type Names = (ServiceName, String);

/// The clients of so many names are kept; beyond that, all begin anew.
const KEPT: usize = 1024;

impl Https {
    pub(crate) fn new(settings: impl Fn(ClientBuilder) -> ClientBuilder + Send + Sync + 'static) -> Self {
        Self { settings: Arc::new(settings), clients: Arc::default() }
    }

    /// Sends `request`, whose URL has the name, to `instance`.
    pub(crate) async fn send(
        &self,
        balancer: &Balancer,
        instance: &Arc<Instance>,
        request: Request,
    ) -> Result<Response> {
        let name = request.url().host_str().unwrap_or_default();
        let clients = self.clients(balancer, name);
        let client = clients.get(instance, |instance| self.client(name, instance));
        let client = client.map_err(|error| Error::middleware(Unbuilt(error)))?;
        Ok(client.execute(request).await?)
    }

    fn clients(&self, balancer: &Balancer, name: &str) -> Connections<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let names = (balancer.service().clone(), name.to_owned());
        if let Some(clients) = clients.get(&names) {
            return clients.clone();
        }
        if clients.len() >= KEPT {
            clients.clear();
        }
        clients.entry(names).insert_entry(Connections::new(balancer.view())).get().clone()
    }

    fn client(&self, name: &str, instance: &Instance) -> reqwest::Result<Client> {
        let address = address(instance);
        let builder = (self.settings)(limited(Client::builder()));
        let builder = match (address.socket_addr(), address.host()) {
            (Some(socket), _) => builder.resolve(name, socket),
            (None, host) => builder.dns_resolver(Alias { name: name.to_owned(), host: host.to_string() }),
        };
        builder.build()
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Https")
    }
}

/// Resolves one name as another, and all others as themselves.
struct Alias {
    name: String,
    host: String,
}

impl Resolve for Alias {
    fn resolve(&self, name: Name) -> Resolving {
        let host = if name.as_str() == self.name { self.host.clone() } else { name.as_str().to_owned() };
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// Why there is no client for an instance.
#[derive(Debug, thiserror::Error)]
#[error("the client of tls_by_name cannot be built")]
struct Unbuilt(#[source] reqwest::Error);
