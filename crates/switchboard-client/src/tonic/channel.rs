use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use switchboard_core::{Instance, Invalid, Result, ServiceName};
use switchboard_selector::{Balancer, PickError, Selector};
use tonic::Status;
use tonic::transport::{self, Endpoint};
use tower::{Service, ServiceExt};

use super::body::ResponseBody;
use super::outcome::{self, failure, was_not_sent};
use super::replay::Replay;
use crate::Retry;
use crate::connections::Connections;
use crate::pick::{address, pick};

/// A gRPC channel to a service: give it to a generated client in place of a `tonic::transport::Channel`.
///
/// It picks an instance for each call. Connections are made when first needed, kept while their instance is listed and
/// dropped when it leaves; calls on them end first. Cheap to clone; clones share everything.
///
/// A call counts as in flight until its response has ended, which for a streaming one is the end of the stream; then its
/// status is told to the balancer. `UNAVAILABLE`, `INTERNAL`, `UNKNOWN`, `DATA_LOSS` and `DEADLINE_EXCEEDED` are failures of the
/// instance, other codes the application's own. A call that is dropped before its end says nothing of the instance.
///
/// A call is tried again on another instance, within the limits of [`Retry`], if it cannot have arrived: when no connection
/// came about. For methods that are [`idempotent`](ChannelBuilder::idempotent) also when the connection broke before the
/// response began, or the response is nothing but `UNAVAILABLE`. Requests of more than 64 KiB are sent once. A deadline
/// counts for each attempt.
///
/// When there is no instance to call, the status is `UNAVAILABLE`, with the [`PickError`] in its source. A service that
/// nothing has been heard of yet is waited for, at most the directory's `ready_timeout`.
///
/// ```no_run
/// # use switchboard_core::MemoryRegistry;
/// # use switchboard_selector::Selector;
/// # use switchboard_watcher::Directory;
/// use switchboard_client::tonic::Channel;
/// use tonic_health::pb::health_client::HealthClient;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let selector = Selector::new(Directory::new(MemoryRegistry::new()));
/// let mut client = HealthClient::new(Channel::new(&selector, "greeter")?);
/// let answer = client.check(tonic_health::pb::HealthCheckRequest::default()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Shared>,
}

struct Shared {
    balancer: Balancer,
    connections: Connections<Made>,
    endpoint: MakeEndpoint,
    retry: Retry,
    idempotent: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

/// A connection, or why there is none.
type Made = std::result::Result<transport::Channel, Arc<transport::Error>>;

type MakeEndpoint = Box<dyn Fn(&Instance) -> std::result::Result<Endpoint, transport::Error> + Send + Sync>;

/// Settings of a [`Channel`]. Made with [`Channel::builder`].
#[must_use = "a channel comes into being with `build()`"]
pub struct ChannelBuilder {
    balancer: Balancer,
    endpoint: Option<MakeEndpoint>,
    retry: Retry,
    idempotent: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl ChannelBuilder {
    /// Replaces how an instance is connected to: TLS, time limits, keep-alive, windows, as tonic's `Endpoint` has them.
    ///
    /// Default: `http://` and the instance's first address, a connection within 3 s, the service's name as the authority.
    pub fn endpoint(
        mut self,
        endpoint: impl Fn(&Instance) -> std::result::Result<Endpoint, transport::Error> + Send + Sync + 'static,
    ) -> Self {
        self.endpoint = Some(Box::new(endpoint));
        self
    }

    /// Replaces how often is tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Says which methods, as `/package.Service/Method`, may be sent twice. Default: none.
    pub fn idempotent(mut self, methods: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.idempotent = Box::new(methods);
        self
    }

    /// Makes the channel. Nothing is connected until a call needs it.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn build(self) -> Channel {
        let Self { balancer, endpoint, retry, idempotent } = self;
        let name = balancer.service().to_string();
        let endpoint = endpoint.unwrap_or_else(|| Box::new(move |instance| plain(&name, instance)));
        let connections = Connections::new(balancer.view());
        Channel { shared: Arc::new(Shared { balancer, connections, endpoint, retry, idempotent }) }
    }
}

/// The default endpoint.
fn plain(service: &str, instance: &Instance) -> std::result::Result<Endpoint, transport::Error> {
    let endpoint = Endpoint::try_from(format!("http://{}", address(instance)))?
        .connect_timeout(Duration::from_secs(3))
        .tcp_nodelay(true);
    // A name that is no authority is not sent as one.
    Ok(match format!("http://{service}").parse() {
        Ok(origin) => endpoint.origin(origin),
        Err(_) => endpoint,
    })
}

impl Channel {
    /// A channel to `service` with the default settings.
    ///
    /// # Errors
    ///
    /// Those of [`Selector::service`].
    pub fn new<S>(selector: &Selector, service: S) -> Result<Self>
    where
        S: TryInto<ServiceName>,
        Invalid: From<S::Error>,
    {
        Ok(Self::builder(selector.service(service)?).build())
    }

    /// A channel that picks by `balancer`, with settings to change first.
    pub fn builder(balancer: Balancer) -> ChannelBuilder {
        ChannelBuilder { balancer, endpoint: None, retry: Retry::default(), idempotent: Box::new(|_| false) }
    }

    /// The balancer beneath.
    pub fn balancer(&self) -> &Balancer {
        &self.shared.balancer
    }

    /// How many instances there is a connection for now, or one on its way.
    pub fn connected(&self) -> usize {
        self.shared.connections.len()
    }
}

impl Shared {
    async fn call(
        &self,
        request: Request<tonic::body::Body>,
    ) -> std::result::Result<Response<ResponseBody>, Status> {
        let (head, body) = request.into_parts();
        let idempotent = (self.idempotent)(head.uri.path());
        let mut attempts = self.retry.begin();
        let replay = Replay::new(body);
        let mut body = replay.body();
        loop {
            let wish = switchboard_selector::Request::new().avoid(attempts.tried());
            let picked = pick(&self.balancer, &wish).await.map_err(no_instance)?;
            let channel = self
                .connections
                .get(picked.instance(), |instance| {
                    (self.endpoint)(instance).map(|endpoint| endpoint.connect_lazy()).map_err(Arc::new)
                })
                .map_err(no_endpoint)?;
            // `body` is there: the loop goes on only with one.
            let request = Request::from_parts(head.clone(), body.take().unwrap_or_default());
            let result = channel.oneshot(request).await;
            let (again, outcome) = match &result {
                Ok(response) => {
                    let code = outcome::code(response.headers());
                    (idempotent && code == Some(tonic::Code::Unavailable), outcome::head(response))
                }
                Err(error) => {
                    let kind = failure(error);
                    let broke = kind == switchboard_selector::FailureKind::Connection;
                    (was_not_sent(error) || idempotent && broke, Some(Err(kind)))
                }
            };
            let id = picked.instance().id().clone();
            let open = match outcome {
                Some(outcome) => {
                    picked.finish(outcome);
                    None
                }
                None => Some(picked),
            };
            if again && attempts.again(&id).await {
                body = replay.body();
                if body.is_some() {
                    tracing::debug!(service = %self.balancer.service(), instance = %id, "failed; trying another instance");
                    continue;
                }
            }
            return match result {
                Ok(response) => Ok(response.map(|body| ResponseBody::new(body, open))),
                Err(error) => Err(Status::from_error(error.into())),
            };
        }
    }
}

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = BoxFuture<'static, std::result::Result<Response<ResponseBody>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { shared.call(request).await })
    }
}

fn no_instance(error: PickError) -> Status {
    let mut status = Status::unavailable(error.to_string());
    status.set_source(Arc::new(error));
    status
}

fn no_endpoint(error: Arc<transport::Error>) -> Status {
    let mut status =
        Status::internal(format!("the settings of the channel do not fit the instance: {error}"));
    status.set_source(error);
    status
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("balancer", &self.shared.balancer)
            .field("connections", &self.shared.connections)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ChannelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelBuilder").field("balancer", &self.balancer).finish_non_exhaustive()
    }
}
