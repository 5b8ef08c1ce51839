use std::sync::{Arc, Once};
use std::time::Duration;

use async_trait::async_trait;
use http::{Extensions, HeaderValue, header};
use reqwest::{Request, Response, StatusCode, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error, Middleware, Next, Result};
use switchboard_core::{Host, Instance, InstanceId, Invalid, ServiceName};
use switchboard_selector::{Balancer, PickError, Selector};
use tokio::time::Instant;
use tracing::Instrument;

use super::https::Https;
use super::names::Names;
use super::outcome::{is_idempotent, may_retry, verdict, why};
use super::redirect::was_left;
use super::unknown_host;
use super::upload::Upload;
use crate::failures::Failures;
use crate::pick::{address, finish, pick};
use crate::span::Call;
use crate::{Options, Retry};

/// A middleware that sends each request for a service to an instance picked for it.
///
/// **Which requests.** A URL whose host is a name without a dot, other than `localhost`, and that gives no port, is for
/// the service of that name; [`names`](Self::names) sets another rule. All others pass through untouched; when the system's
/// resolver does not know such a host the error says how to make it a service. URLs know lower case only and no spaces, so a
/// service called `Orders`, `go.micro.orders` or `my orders` takes a rule that maps a host to it.
///
/// **What is sent.** The URL's host and port become those of the instance; scheme, path and query stay. The `Host` header
/// keeps the name as written in the URL, unless [`host_header`](Self::host_header) says otherwise or the request sets it.
/// With `https`, the server's certificate must be for the instance's address, unless
/// [`tls_by_name`](Self::tls_by_name) is set.
///
/// **What is learned.** Any answer but a server error (500 and above, without 501) is a success. A request counts as in
/// flight until the head of the response is there, not its body. One that is cancelled, or whose own body breaks off, is no
/// verdict: it says something only after longer than usual, as a dropped [`Pick`](switchboard_selector::Pick) does.
///
/// **When it is tried again.** On another instance and within the limits of [`Retry`]: when no connection came about or the
/// server says that it has not worked on the request (RFC 9113, section 8.7), for any method; when the connection broke, an
/// attempt took longer than [`Options::per_try_timeout`], or the status is one of [`retry_statuses`](Self::retry_statuses),
/// for idempotent methods (RFC 9110, section 9.2.2) and requests whose [`Options`] say so; never if the body is a stream.
/// When there is no retry left, the last response or error is the result.
///
/// **How long it takes.** The time-out of the request (`RequestBuilder::timeout`) and [`Options::timeout`], of which the
/// shorter counts, bound all of it: waiting for a first snapshot, connecting, every attempt, pauses, the response's body.
/// What the error is of is reqwest's own (`is_timeout()`) or, while waiting for something else and for
/// [`Options::per_try_timeout`], a [`TimedOut`](crate::TimedOut); [`is_timeout`](crate::is_timeout) knows both. The
/// time-out of the client cannot be known here. Where neither of the two is set it counts for each attempt, and ends the
/// call when it passes. There is none by default, as in reqwest; but a response has to begin within 15 s of the end of the
/// request ([`Options::per_try_timeout`]). Connecting has to be limited by the client, or an attempt waits for the kernel's limit,
/// which is minutes: [`client`](Self::client) and [`limited`](super::limited) give it 3 s.
///
/// **What one request wants otherwise.** [`Options`] in its extensions: `client.get(…).with_extension(options)`.
///
/// **Redirects.** The client beneath follows them, not this, and would carry the `Host` of the service to other servers.
/// Made by [`client`](Self::client) or [`limited`](super::limited) it follows only those that stay with the instance
/// ([`redirects`](super::redirects)); any other is then the response. What comes of a redirect that was followed elsewhere says
/// nothing of the instance and is not tried again.
///
/// **What comes back.** A response has the instance that it is of in its extensions, as an `Arc<Instance>`. An error is
/// `reqwest_middleware::Error::Middleware` and says in a line which instances were tried and why each failed; it downcasts to what the
/// last one failed with, such as `reqwest::Error`, and that is its source. Without an instance it is a [`PickError`].
///
/// **Where in the chain.** Middlewares before it see the name and one request; those after it see the address, once for
/// each attempt.
#[derive(Clone, Debug)]
pub struct Discovery {
    selector: Selector,
    names: Names,
    retry: Retry,
    statuses: Vec<StatusCode>,
    host_header: HostHeader,
    https: Option<Https>,
    options: Options,
    /// That the client follows redirects to other servers is said once.
    leak: Arc<Once>,
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

/// Middlewares that wait behind this one may take so much longer than the call's time; the client's own clock goes first.
const GRACE: Duration = Duration::from_millis(50);

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
            options: Options::new(),
            leak: Arc::new(Once::new()),
        }
    }

    /// Replaces the rule for which hosts (in lower case) are services: `None` is none.
    ///
    /// ```
    /// # use switchboard_client::reqwest::Discovery;
    /// # use switchboard_core::{MemoryRegistry, ServiceName};
    /// # use switchboard_selector::Selector;
    /// # use switchboard_watcher::Directory;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let selector = Selector::new(Directory::new(MemoryRegistry::new()));
    /// // http://orders.service/ is for the service `go.micro.orders`.
    /// let discovery = Discovery::new(selector).names(|host| {
    ///     let name = host.strip_suffix(".service")?;
    ///     ServiceName::new(format!("go.micro.{name}")).ok()
    /// });
    /// # drop(discovery);
    /// # }
    /// ```
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

    /// Replaces what all requests want, such as a time for each attempt, where a request's own options say nothing. Default:
    /// nothing.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// With `https`, checks the server's certificate against the name in the URL and sends that name in TLS (SNI).
    ///
    /// That takes a client of its own for each instance, made when first needed and dropped when the instance leaves;
    /// `settings` says how, from a builder that is [`limited`](super::limited). Such requests do not go
    /// through the client and the middlewares behind this one, so make this the last one.
    pub fn tls_by_name(
        mut self,
        settings: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder + Send + Sync + 'static,
    ) -> Self {
        self.https = Some(Https::new(settings));
        self
    }

    /// A client with this and nothing else before or behind it, on a plain one that is [`limited`](super::limited).
    ///
    /// # Errors
    ///
    /// Those of `reqwest::ClientBuilder::build`, such as TLS without any certificates.
    pub fn client(self) -> std::result::Result<ClientWithMiddleware, reqwest::Error> {
        let plain = super::limited(reqwest::Client::builder()).build()?;
        Ok(ClientBuilder::new(plain).with(self).build())
    }

    async fn call(
        &self,
        service: ServiceName,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
        call: &mut Call,
    ) -> Result<Response> {
        let balancer = self.selector.service::<ServiceName>(service).map_err(|error| failed(error.into()))?;
        let options = extensions.get::<Options>().cloned().unwrap_or_default().or(&self.options);
        let limits = options.limits(request.timeout().copied());
        let idempotent = options.idempotent_or(|| is_idempotent(request.method()));
        let balancer = options.balancer(&balancer);
        let upload = Upload::watch(&mut request);
        let mut attempts = self.retry.begin(balancer.service(), &options);
        loop {
            let picked = match limits.wait(pick(&balancer, &options, attempts.tried())).await {
                Ok(Ok(picked)) => picked,
                Ok(Err(error)) => {
                    call.not_picked();
                    // It names the service.
                    return Err(if attempts.failures.is_empty() {
                        failed(error)
                    } else {
                        ended(error, &attempts.failures)
                    });
                }
                Err(over) => {
                    call.timed_out();
                    return Err(ended(over, &attempts.failures));
                }
            };
            let instance = picked.instance().clone();
            call.attempt(&instance);
            let spare = if attempts.has_more() { request.try_clone() } else { None };
            self.direct(&mut request, &instance).map_err(Error::middleware)?;
            // Else what the request says stays: a time without end, which the client's own must not take the place of.
            if let Some(left) = limits.left() {
                *request.timeout_mut() = Some(left);
            }
            let may_move = idempotent && spare.is_some();
            let limits = if may_move && picked.is_trial() { limits.of_trial() } else { limits };
            let (began, sent) = (Instant::now(), request.url().clone());
            let attempt = self.send(request, &balancer, &instance, extensions, next.clone());
            let result = limits
                .attempt(GRACE, upload.sent().wait(), attempt)
                .await
                .unwrap_or_else(|over| Err(Error::middleware(over)));

            let says_nothing = upload.is_broken() || self.was_left(&sent, &result);
            let verdict = if says_nothing { None } else { verdict(&result, &limits, began) };
            finish(picked, verdict);
            call.judged(verdict);
            let spare = spare.filter(|_| !says_nothing && may_retry(&result, idempotent, &self.statuses));
            if result.is_err() || spare.is_some() {
                attempts.failures.note(&instance, why(&result));
            }
            let Some(spare) = spare else { return tell(result, instance, &attempts.failures) };
            let is_unconnected = matches!(&result, Err(Error::Reqwest(error)) if error.is_connect());
            let has_other = |tried: &[InstanceId]| balancer.has_other(&options.request(tried));
            if !attempts.again(instance.id(), &limits, !is_unconnected, has_other).await {
                return tell(result, instance, &attempts.failures);
            }
            request = spare;
            tracing::debug!(service = %balancer.service(), instance = %instance.id(), why = why(&result), "failed; trying another instance");
        }
    }

    /// Lets `request` go to `instance`.
    fn direct(&self, request: &mut Request, instance: &Instance) -> std::result::Result<(), Invalid> {
        let by_name = self.by_name(request.url()).is_some();
        let name = request.url().host_str().unwrap_or_default().to_owned();
        match self.host_header {
            HostHeader::Name => keep_host(request, &name),
            // The header is made of the URL, which has the name.
            HostHeader::Address if by_name => keep_host(request, &address(instance).to_string()),
            HostHeader::Address => {}
        }
        point(request.url_mut(), instance, !by_name)
    }

    /// What sends to `url` if the certificate is to be for the name in it.
    fn by_name(&self, url: &Url) -> Option<&Https> {
        self.https.as_ref().filter(|_| url.scheme() == "https")
    }

    async fn send(
        &self,
        request: Request,
        balancer: &Balancer,
        instance: &Arc<Instance>,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        match self.by_name(request.url()) {
            Some(https) => https.send(balancer, instance, request).await,
            None => next.run(request, extensions).await,
        }
    }

    /// Whether the client has followed a redirect to another server.
    fn was_left(&self, sent: &Url, result: &Result<Response>) -> bool {
        let left = was_left(sent, result);
        if left && self.host_header == HostHeader::Name {
            self.leak.call_once(|| {
                tracing::warn!("the client follows redirects to other servers and sends them the service's name as `Host`: build it with `limited()`");
            });
        }
        left
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
        if let Some(service) = self.names.service(request.url()) {
            let mut call = Call::new(&service);
            let span = call.span();
            return self.call(service, request, extensions, next, &mut call).instrument(span).await;
        }
        next.run(request, extensions).await.map_err(unknown_host::explain)
    }
}

/// Puts `host` into the header, unless there is one.
fn keep_host(request: &mut Request, host: &str) {
    if let Ok(host) = HeaderValue::from_str(host) {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
}

/// Lets `url` point at `instance`; its host only `with_host`.
fn point(url: &mut Url, instance: &Instance, with_host: bool) -> std::result::Result<(), Invalid> {
    let address = address(instance);
    let set = match address.host() {
        _ if !with_host => true,
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

/// Why a call failed that ended with `error` between two attempts, or before the first.
fn ended<E: std::error::Error + Send + Sync + 'static>(error: E, failures: &Failures) -> Error {
    let line = failures.line_and(&error);
    Error::Middleware(anyhow::Error::new(error).context(line))
}

/// Adds to a response which instance it is of, and to an error which were tried and why each failed.
fn tell(result: Result<Response>, instance: Arc<Instance>, failures: &Failures) -> Result<Response> {
    match result {
        Ok(mut response) => {
            response.extensions_mut().insert(instance);
            Ok(response)
        }
        Err(Error::Reqwest(error)) => {
            Err(Error::Middleware(anyhow::Error::new(error).context(failures.to_string())))
        }
        Err(Error::Middleware(error)) => Err(Error::Middleware(error.context(failures.to_string()))),
    }
}
