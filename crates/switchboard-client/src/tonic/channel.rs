use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use switchboard_core::{Instance, InstanceId, Invalid, Result, ServiceName};
use switchboard_selector::{Balancer, FailureKind, Selector};
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::{self, Endpoint};
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::body::ResponseBody;
use super::endpoint::ConnectionLimits;
use super::outcome::{self, failure, gives_up, was_given_up, was_not_sent};
use super::replay::Replay;
use super::status::{no_endpoint, no_instance, no_response, timed_out};
use super::timeout;
use crate::connections::Connections;
use crate::limits::Limits;
use crate::pick::{Verdict, finish, pick};
use crate::span::Call;
use crate::{Options, Retry, TimedOut};

/// A gRPC channel to a service: give it to a generated client in place of a `tonic::transport::Channel`.
///
/// It picks an instance for each call. Connections are made when first needed, kept while their instance is listed and
/// dropped when it leaves; calls on them end first. Cheap to clone; clones share everything.
///
/// A call counts as in flight until its response has ended, which for a streaming one is the end of the stream; then its
/// status is told to the balancer. `UNAVAILABLE`, `INTERNAL`, `UNKNOWN`, `DATA_LOSS` and `DEADLINE_EXCEEDED` are failures of the
/// instance, other codes the application's own. A call that is dropped before its response began
/// says something of the instance only after longer than usual, as a dropped [`Pick`](switchboard_selector::Pick) does.
///
/// A call is tried again on another instance, within the limits of [`Retry`], if it cannot have been worked on: when no
/// connection came about, or the server refused the stream or closed the connection before taking it (RFC 9113, section
/// 8.7). For methods that are [`idempotent`](ChannelBuilder::idempotent) also when the connection broke before the response
/// began, when an attempt took longer than it may, or the response is nothing but `UNAVAILABLE`. Requests of more than 64 KiB
/// are sent once.
///
/// A deadline (`tonic::Request::set_timeout`, or [`Options::timeout`] of the call or the channel; the shortest counts) bounds
/// all of it: waiting for a first snapshot, connecting, every attempt, pauses, the stream of responses. When it is over, the
/// status is `DEADLINE_EXCEEDED`. Each attempt tells the server what is left of it. There is none by default, as gRPC has it;
/// but a response has to begin within 15 s of the end of the request, see [`Options::per_try_timeout`].
/// A deadline that is over is a failure of the instance if the attempt had at least half of the time. So it is when the
/// server is first to say so: a `CANCELLED` (which tonic's servers make of it) or `DEADLINE_EXCEEDED` in the last 10 ms, or
/// the last tenth if that is shorter, is the deadline; earlier ones are the application's own. The status always has a
/// [`TimedOut`] as its source.
///
/// [`Options`] in the request's extensions say what one call wants otherwise. A request whose own stream breaks off says
/// nothing of the instance, and is not tried again.
///
/// A status that no instance has sent says in a line which were tried and why each failed. A response has the instance that it is
/// of in its extensions, as an `Arc<Instance>`.
///
/// When there is no instance to call, the status is `UNAVAILABLE`, with the
/// [`PickError`](switchboard_selector::PickError) in its source. A service that
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
    connections: Connections<transport::Channel>,
    endpoint: MakeEndpoint,
    retry: Retry,
    options: Options,
    idempotent: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

type MakeEndpoint = Box<dyn Fn(&Instance) -> std::result::Result<Endpoint, transport::Error> + Send + Sync>;

/// Settings of a [`Channel`]. Made with [`Channel::builder`].
#[must_use = "a channel comes into being with `build()`"]
pub struct ChannelBuilder {
    balancer: Balancer,
    endpoint: Option<MakeEndpoint>,
    limits: ConnectionLimits,
    retry: Retry,
    options: Options,
    idempotent: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl ChannelBuilder {
    /// Replaces how an instance is connected to: TLS, windows, limits, as tonic's `Endpoint` has them. Then nothing is limited
    /// but by what the endpoint says; [`limited`](super::limited) gives it the default limits.
    ///
    /// Default: `http://` and the instance's first address, the service's name as the authority, the limits of
    /// [`connect_timeout`](Self::connect_timeout) and [`keep_alive`](Self::keep_alive).
    ///
    /// A time limit of the endpoint's own (`Endpoint::timeout`) counts for each attempt.
    pub fn endpoint(
        mut self,
        endpoint: impl Fn(&Instance) -> std::result::Result<Endpoint, transport::Error> + Send + Sync + 'static,
    ) -> Self {
        self.endpoint = Some(Box::new(endpoint));
        self
    }

    /// How long connecting by the default endpoint may take. Default 3 s, in which one lost packet is sent again (RFC 6298 has
    /// 1 s before the first repetition, and then 2 s). [`Duration::MAX`] is for ever.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.limits.connect = limit;
        self
    }

    /// After how long without a word from the server a connection of the default endpoint with calls in flight sends a ping
    /// (RFC 9113, section 6.7), and how long it waits for the answer before it ends, with its calls. So a stream of which the
    /// server has hung ends, while one that is merely quiet may go on for ever.
    ///
    /// Default: 310 s and 20 s. gRPC has 20 s for the answer, and no ping by default; its servers close connections that ping more
    /// often than every 5 min while they send nothing (`ENHANCE_YOUR_CALM`, gRPC A8), and that would end quiet streams. Where
    /// the servers allow it, as tonic's do, 10 s is a good choice. [`Duration::MAX`] is no ping.
    ///
    /// Calls that wait for the head of a response end by [`Options::per_try_timeout`], and a host that is gone shows by TCP's
    /// keep-alive within 30 s.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        (self.limits.ping, self.limits.pong) = (interval, timeout);
        self
    }

    /// Replaces how often is tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Replaces what all calls want, such as a deadline or a time for each attempt, where a call's own options say nothing.
    /// Default: nothing.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Says which methods, as `/package.Service/Method`, may be sent twice. Default: none.
    pub fn idempotent(mut self, methods: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.idempotent = Box::new(methods);
        self
    }

    /// Makes the channel. Nothing is connected until a call needs it.
    pub fn build(self) -> Channel {
        let Self { balancer, endpoint, limits, retry, options, idempotent } = self;
        let name = balancer.service().to_string();
        let endpoint = endpoint.unwrap_or_else(|| Box::new(move |instance| limits.plain(&name, instance)));
        let connections = Connections::new(balancer.view());
        Channel { shared: Arc::new(Shared { balancer, connections, endpoint, retry, options, idempotent }) }
    }
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
        ChannelBuilder {
            balancer,
            endpoint: None,
            limits: ConnectionLimits::default(),
            retry: Retry::default(),
            options: Options::new(),
            idempotent: Box::new(|_| false),
        }
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

/// What an attempt came to: a response, no response, or no time left for one.
type Attempt =
    std::result::Result<std::result::Result<Response<tonic::body::Body>, transport::Error>, TimedOut>;

impl Shared {
    async fn call(
        &self,
        request: Request<tonic::body::Body>,
        mut call: Call,
    ) -> std::result::Result<Response<ResponseBody>, Status> {
        let (mut head, body) = request.into_parts();
        let options = head.extensions.remove::<Options>().unwrap_or_default().or(&self.options);
        let limits = options.limits(timeout::read(&head.headers));
        let idempotent = options.idempotent_or(|| (self.idempotent)(head.uri.path()));
        let balancer = options.balancer(&self.balancer);
        let mut attempts = self.retry.begin(balancer.service(), &options);
        let replay = Replay::new(body);
        // A body that was not read yet is there.
        let mut body = replay.body().unwrap_or_default();
        loop {
            let mut picked = match limits.wait(pick(&balancer, &options, attempts.tried())).await {
                Ok(Ok(picked)) => picked,
                Ok(Err(error)) => {
                    call.not_picked();
                    return Err(no_instance(error, &attempts.failures));
                }
                Err(over) => {
                    call.timed_out();
                    let line = attempts.failures.line_and(&over);
                    return Err(timed_out(over, line));
                }
            };
            let instance = picked.instance().clone();
            call.attempt(&instance);
            let channel = self
                .connections
                .get(&instance, |instance| Ok((self.endpoint)(instance)?.connect_lazy()))
                .map_err(|error| no_endpoint(error, &instance))?;
            if let Some(left) = limits.left() {
                timeout::write(&mut head.headers, left);
            }
            let may_move = idempotent && attempts.has_more();
            let limits = if may_move && picked.is_trial() { limits.of_trial() } else { limits };
            let began = Instant::now();
            let request = Request::from_parts(head.clone(), body);
            let result =
                limits.attempt(Duration::ZERO, replay.sent().wait(), channel.clone().oneshot(request)).await;

            let broken = replay.broken().status();
            if let (Some(status), Ok(Err(_))) = (broken, &result) {
                call.judged(None);
                return Err(status.clone());
            }
            let result = by_own_clock(result, &limits, began);
            let verdict = verdict(&result, &limits, began).filter(|_| broken.is_none());
            let open = if verdict.is_none() && matches!(result, Ok(Ok(_))) {
                picked.responded();
                Some(picked)
            } else {
                finish(picked, verdict);
                call.judged(verdict);
                None
            };
            let may_retry = attempts.has_more() && may_retry(&result, idempotent);
            if may_retry || !matches!(result, Ok(Ok(_))) {
                attempts.failures.note(&instance, why(&result));
            }
            // What cannot be sent again costs no budget.
            if let Some(again) = if may_retry { replay.body() } else { None } {
                let has_other = |tried: &[InstanceId]| balancer.has_other(&options.request(tried));
                if attempts.again(instance.id(), &limits, was_reached(&result), has_other).await {
                    tracing::debug!(service = %balancer.service(), instance = %instance.id(), why = why(&result), "failed; trying another instance");
                    body = again;
                    continue;
                }
            }
            return match result {
                Ok(Ok(mut response)) => {
                    response.extensions_mut().insert(instance);
                    let (open, broken) = (open.map(|pick| (pick, call)), replay.broken().clone());
                    Ok(response.map(|body| ResponseBody::new(body, open, broken, limits).on(channel)))
                }
                Ok(Err(error)) => Err(no_response(error, attempts.failures.to_string())),
                Err(error) => Err(timed_out(error, attempts.failures.to_string())),
            };
        }
    }
}

/// A time that is over is over by this side's clock, although the server's or tonic's own may have said so first: who wins
/// that race must not decide what is learned of the instance.
fn by_own_clock(attempt: Attempt, limits: &Limits, began: Instant) -> Attempt {
    let given_up = match &attempt {
        Ok(Ok(response)) => outcome::code(response.headers()).is_some_and(gives_up),
        Ok(Err(error)) => was_given_up(error),
        Err(_) => false,
    };
    match limits.spent(began).filter(|_| given_up) {
        Some(over) => Err(over),
        None => attempt,
    }
}

/// What the balancer learns of an attempt; `None` also while the end of the response is open.
fn verdict(attempt: &Attempt, limits: &Limits, began: Instant) -> Verdict {
    match attempt {
        Ok(Ok(response)) => outcome::head(response),
        Ok(Err(error)) => {
            let kind = failure(error);
            (kind != FailureKind::Timeout || limits.blames(began)).then_some(Err(kind))
        }
        Err(_) => limits.blames(began).then_some(Err(FailureKind::Timeout)),
    }
}

/// Why an attempt failed that came to this.
fn why(attempt: &Attempt) -> String {
    match attempt {
        Ok(Ok(response)) => {
            let status = Status::from_header_map(response.headers());
            status.map_or_else(String::new, |status| format!("{:?}: {}", status.code(), status.message()))
        }
        Ok(Err(error)) => outcome::why(error),
        Err(over) => over.to_string(),
    }
}

/// Whether there was a connection.
fn was_reached(attempt: &Attempt) -> bool {
    !matches!(attempt, Ok(Err(error)) if outcome::is_unconnected(error))
}

/// Whether another instance may be asked the same.
fn may_retry(attempt: &Attempt, idempotent: bool) -> bool {
    match attempt {
        Ok(Ok(response)) => idempotent && outcome::code(response.headers()) == Some(tonic::Code::Unavailable),
        Ok(Err(error)) => was_not_sent(error) || idempotent,
        Err(TimedOut::Try(_)) => idempotent,
        Err(TimedOut::Call(_)) => false,
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
        let call = Call::new(shared.balancer.service());
        let span = call.span();
        Box::pin(async move { shared.call(request, call).await }.instrument(span))
    }
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
