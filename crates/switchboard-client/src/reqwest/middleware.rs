use async_trait::async_trait;
use http::{Extensions, HeaderValue, header};
use reqwest::{Request, Response, StatusCode, Url};
use reqwest_middleware::{Error, Middleware, Next, Result};
use switchboard_core::{Host, Instance, Invalid, ServiceName};
use switchboard_selector::{Balancer, Pick, PickError, Selector};

use super::https::Https;
use super::names::Names;
use super::outcome::{is_idempotent, may_retry, verdict};
use crate::Retry;
use crate::pick::{address, pick};

/// A middleware that sends each request for a service to an instance picked for it.
///
/// **Which requests.** A URL whose host is a name without a dot, other than `localhost`, and that gives no port, is for
/// the service of that name; [`names`](Self::names) sets another rule. All others pass through untouched. URLs know lower
/// case only, so the service's name must be in lower case or the rule must map it.
///
/// **What is sent.** The URL's host and port become those of the instance; scheme, path and query stay. The `Host` header
/// keeps the name as written in the URL, unless [`host_header`](Self::host_header) says otherwise or the request sets it.
/// With `https`, the server's certificate must be for the instance's address, unless
/// [`tls_by_name`](Self::tls_by_name) is set.
///
/// **What is learned.** Any answer but a server error (500 and above, without 501) is a success. A request counts as in
/// flight until the head of the response is there, not its body; one that is cancelled says nothing of the instance.
///
/// **When it is tried again.** On another instance and within the limits of [`Retry`]: when no connection came about, for
/// any method; when the connection broke or the status is one of [`retry_statuses`](Self::retry_statuses), for idempotent
/// methods (RFC 9110, section 9.2.2) and requests that carry [`Idempotent`]; never after a time-out, and never if the body
/// is a stream. When there is no retry left, the last response or error is the result.
///
/// **Where in the chain.** Middlewares before it see the name and one request; those after it see the address, once for
/// each attempt. A redirect to another service's name is followed by the client beneath, not by this: set
/// [`Resolver`](super::Resolver) on the client for that.
#[derive(Clone, Debug)]
pub struct Discovery {
    selector: Selector,
    names: Names,
    retry: Retry,
    statuses: Vec<StatusCode>,
    host_header: HostHeader,
    https: Option<Https>,
}

/// What the `Host` header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// The host in the URL that the caller wrote: the service's name.
    #[default]
    Name,
    /// The address of the instance.
    Address,
}

/// An extension for a request that may (`true`) or must not (`false`) be sent twice, whatever its method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotent(pub bool);

/// An extension for a request: those of one key go to one instance, with a strategy that hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashKey(pub String);

impl Discovery {
    /// Picks by `selector`, with the defaults.
    pub fn new(selector: Selector) -> Self {
        Self {
            selector,
            names: Names::default(),
            retry: Retry::default(),
            statuses: vec![
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ],
            host_header: HostHeader::default(),
            https: None,
        }
    }

    /// Replaces the rule for which hosts (in lower case) are services: `None` is none.
    pub fn names(mut self, names: impl Fn(&str) -> Option<ServiceName> + Send + Sync + 'static) -> Self {
        self.names = Names::new(names);
        self
    }

    /// Replaces how often is tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Replaces the statuses on which idempotent requests are tried again. Default 502, 503 and 504.
    pub fn retry_statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.statuses = statuses.into_iter().collect();
        self
    }

    /// Replaces what the `Host` header says. Default [`HostHeader::Name`].
    pub fn host_header(mut self, host: HostHeader) -> Self {
        self.host_header = host;
        self
    }

    /// With `https`, checks the server's certificate against the name in the URL and sends that name in TLS (SNI).
    ///
    /// That takes a client of its own for each instance, made by `client` when first needed and dropped when the instance
    /// leaves. Such requests do not go through the client and the middlewares behind this one, so make this the last one.
    pub fn tls_by_name(
        mut self,
        client: impl Fn() -> reqwest::ClientBuilder + Send + Sync + 'static,
    ) -> Self {
        self.https = Some(Https::new(client));
        self
    }

    async fn call(
        &self,
        service: ServiceName,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let balancer = self.selector.service::<ServiceName>(service).map_err(|error| failed(error.into()))?;
        let declared = extensions.get::<Idempotent>().copied();
        let idempotent = declared.map_or_else(|| is_idempotent(request.method()), |declared| declared.0);
        let key = extensions.get::<HashKey>().cloned();
        let mut attempts = self.retry.begin();
        loop {
            let mut wish = switchboard_selector::Request::new().avoid(attempts.tried());
            if let Some(HashKey(key)) = &key {
                wish = wish.key(key);
            }
            let picked = pick(&balancer, &wish).await.map_err(failed)?;
            let spare = if attempts.has_more() { request.try_clone() } else { None };
            let result = self.send(&picked, &balancer, request, extensions, next.clone()).await;
            let id = picked.instance().id().clone();
            match verdict(&result) {
                Some(outcome) => picked.finish(outcome),
                None => drop(picked),
            }
            let spare = spare.filter(|_| may_retry(&result, idempotent, &self.statuses));
            let Some(spare) = spare else { return result };
            if !attempts.again(&id).await {
                return result;
            }
            request = spare;
            tracing::debug!(service = %balancer.service(), instance = %id, "failed; trying another instance");
        }
    }

    /// Sends `request` to the picked instance.
    async fn send(
        &self,
        picked: &Pick,
        balancer: &Balancer,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        if let Some(https) = self.https.as_ref().filter(|_| request.url().scheme() == "https") {
            return https.send(balancer, picked.instance(), request, self.host_header).await;
        }
        if self.host_header == HostHeader::Name {
            let name = request.url().host_str().unwrap_or_default().to_owned();
            keep_host(&mut request, &name);
        }
        point(request.url_mut(), picked.instance()).map_err(Error::middleware)?;
        next.run(request, extensions).await
    }
}

#[async_trait]
impl Middleware for Discovery {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        match self.names.service(request.url()) {
            Some(service) => self.call(service, request, extensions, next).await,
            None => next.run(request, extensions).await,
        }
    }
}

/// Puts `host` into the header, unless there is one.
pub(super) fn keep_host(request: &mut Request, host: &str) {
    if let Ok(host) = HeaderValue::from_str(host) {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
}

/// Lets `url` point at `instance`.
fn point(url: &mut Url, instance: &Instance) -> std::result::Result<(), Invalid> {
    let address = address(instance);
    let set = match address.host() {
        Host::Ip(ip) => url.set_ip_host(ip).is_ok(),
        Host::Name(name) => url.set_host(Some(name)).is_ok(),
    };
    if set && url.set_port(Some(address.port())).is_ok() {
        Ok(())
    } else {
        Err(Invalid::new(format!("address {address} of instance {}", instance.id()), "fits into no URL"))
    }
}

fn failed(error: PickError) -> Error {
    Error::middleware(error)
}
