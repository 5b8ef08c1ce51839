//! One request on its way to an instance, or to several until one answers.

use std::convert::identity;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use switchboard::client::{Attempt, Call, InFlight, Options, TimedOut};
use switchboard::{InstanceId, ServiceName};
use tokio::time::sleep;
use tracing::Instrument as _;

use super::body::{Answer, Body, Download, Received, RequestBody, Upload};
use super::connection::{Busy, Client};
use super::headers::{self, Came, Wants};
use super::known::Service;
use super::problem::{Problem, is_grpc};
use super::quiet::{Moved, Quiet};
use super::upstream::{Unanswered, judge, judge_status, version};
use super::{Proxy, tunnel};

/// How long a client of HTTP/1.1 may send nothing of a body: nginx's `client_body_timeout`. HTTP/2's are pinged instead.
const UPLOAD: Duration = Duration::from_secs(60);

/// What an attempt came to.
enum Outcome {
    /// An answer; whether another instance may be asked instead.
    Answer(Response<Received>, bool),
    Nothing(Unanswered),
    Over(TimedOut),
}

/// A request, made ready to be sent as often as it may be.
struct Outgoing {
    head: Parts,
    came: Came,
    wants: Wants,
    /// `None` for none.
    upload: Option<Arc<Upload>>,
    /// It is bodiless and idempotent (RFC 9110, section 9.2.2).
    may_repeat: bool,
    is_grpc: bool,
    moved: Moved,
    /// How long nothing of the body may move.
    limit: Duration,
    on_upgrade: Option<OnUpgrade>,
    client: Client,
    busy: Busy,
}

/// A problem, and the instance that it is of, if one was called.
pub(crate) struct Failed(pub(crate) Problem, pub(crate) Option<InstanceId>);

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem, None)
    }
}

/// Forwards a request to `service`, and gives its answer.
pub(crate) async fn forward(
    proxy: &Arc<Proxy>,
    name: &ServiceName,
    service: Arc<Service>,
    request: Request<Incoming>,
    came: Came,
    client: Client,
    busy: Busy,
) -> Result<Response<Body>, Failed> {
    let key = proxy.key_header.as_ref().and_then(|name| request.headers().get(name));
    let options = key.map_or_else(Options::new, |key| Options::new().key(key));
    let outgoing = Outgoing::new(proxy, request, came, client, busy)?;
    let call = proxy.caller.begin::<ServiceName>(name.clone(), options);
    let call = call.map_err(|error| Problem::not_heard(name, &error))?;
    let span = call.span();
    run(proxy, name, service, outgoing, call).instrument(span).await
}

async fn run(
    proxy: &Arc<Proxy>,
    name: &ServiceName,
    service: Arc<Service>,
    outgoing: Outgoing,
    mut call: Call,
) -> Result<Response<Body>, Failed> {
    let mut last = None;
    loop {
        let attempt = match call.attempt(outgoing.may_repeat).await {
            Ok(attempt) => attempt,
            Err(error) => return Err(Failed(proxy.not_called(name, &error), last)),
        };
        let id = attempt.instance().id().clone();
        let (outcome, spoken) = outgoing.send(proxy, &attempt).await;
        let broken = outgoing.upload.as_ref().and_then(|upload| upload.broken());
        match outcome {
            Outcome::Answer(response, false) => {
                let in_flight = call.answered(attempt);
                return outgoing
                    .answer(proxy, &service, response, &id, Some(in_flight))
                    .map_err(|problem| Failed(problem, Some(id)));
            }
            Outcome::Answer(response, true) => {
                let kind = judge_status(response.status()).err();
                call.fail(attempt, kind, format!("HTTP {}", response.status()));
                if !call.again(true).await {
                    return outgoing
                        .answer(proxy, &service, response, &id, None)
                        .map_err(|problem| Failed(problem, Some(id)));
                }
            }
            Outcome::Nothing(_) if broken.is_some() => {
                call.fail(attempt, None, "the request broke off");
                return Err(Problem::broken_off(broken).into());
            }
            Outcome::Nothing(Unanswered { why, kind, own, reached, unsent }) => {
                call.fail(attempt, kind, why);
                let may = if unsent { outgoing.is_whole() } else { outgoing.may_repeat };
                if own || !may || !call.again(reached).await {
                    let problem = if unsent && !reached {
                        Problem::unreached(&call.to_string())
                    } else {
                        Problem::broke(&call.to_string(), spoken)
                    };
                    return Err(Failed(problem, Some(id)));
                }
            }
            Outcome::Over(over) => {
                let kind = attempt.timeout();
                call.fail(attempt, kind, over.to_string());
                let may = outgoing.may_repeat && matches!(over, TimedOut::Try(_));
                if !may || !call.again(true).await {
                    let advice = "raise --answer-timeout or --request-timeout if it may take so long";
                    return Err(Failed(Problem::too_late(call.to_string(), advice), Some(id)));
                }
            }
        }
        last = Some(id);
    }
}

impl Outgoing {
    fn new(
        proxy: &Proxy,
        mut request: Request<Incoming>,
        came: Came,
        client: Client,
        busy: Busy,
    ) -> Result<Self, Problem> {
        headers::check(request.headers())?;
        let is_grpc = is_grpc(request.headers());
        let wants = headers::onward(request.headers_mut(), &came, &proxy.name)?;
        let on_upgrade = wants.upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        let moved = Moved::now();
        let limit = if came.version == Version::HTTP_2 { proxy.idle_timeout } else { UPLOAD };
        let upload = (!body.is_end_stream()).then(|| Upload::new(body, moved.clone(), limit));
        let may_repeat = upload.is_none() && wants.upgrade.is_none() && is_idempotent(&head.method);
        Ok(Self { head, came, wants, upload, may_repeat, is_grpc, moved, limit, on_upgrade, client, busy })
    }

    /// Whether another attempt may have the whole body.
    fn is_whole(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.is_whole())
    }

    /// Sends it, and tells what was spoken.
    async fn send(&self, proxy: &Proxy, attempt: &Attempt) -> (Outcome, Version) {
        let version = version(attempt.instance(), self.is_grpc, self.wants.upgrade.is_some());
        let (body, sent) = RequestBody::of(self.upload.as_ref());
        let mut request = Request::new(body);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.head.uri.clone();
        *request.version_mut() = version;
        *request.headers_mut() = self.head.headers.clone();
        headers::want(request.headers_mut(), &self.wants, version);
        // An instance of HTTP/2 that takes nothing of a body has the time for its answer from then on.
        let mut quiet = Quiet::new(self.moved.clone(), self.limit);
        let late = async {
            tokio::select! {
                () = sent => {}
                () = quiet.over() => {}
            }
            sleep(proxy.answer_timeout).await;
        };
        let answer = async {
            tokio::select! {
                biased;
                answer = proxy.upstreams.send(request, attempt.address(), &self.came.host) => Ok(answer),
                () = late => Err(TimedOut::Try(proxy.answer_timeout)),
            }
        };
        let outcome = match attempt.wait(pending(), answer).await.and_then(identity) {
            Ok(Ok(response)) => {
                let may_move = self.may_repeat && is_retried(response.status());
                Outcome::Answer(response, may_move)
            }
            Ok(Err(nothing)) => Outcome::Nothing(nothing),
            Err(over) => Outcome::Over(over),
        };
        (outcome, version)
    }

    /// The answer to the client; the instance's judgement is with its head, or gRPC's with its end.
    fn answer(
        self,
        proxy: &Proxy,
        service: &Arc<Service>,
        mut response: Response<Received>,
        id: &InstanceId,
        in_flight: Option<InFlight>,
    ) -> Result<Response<Body>, Problem> {
        let spoken = response.version();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(proxy, service, response, id, in_flight);
        }
        let at_head = if self.is_grpc { judge(response.headers()) } else { None };
        let at_head = at_head.or_else(|| judge_status(response.status()).err().map(Err));
        let in_flight = match (in_flight, at_head) {
            (Some(in_flight), Some(outcome)) => {
                in_flight.finish(outcome);
                None
            }
            (Some(in_flight), None) if response.body().incoming.is_end_stream() && !self.is_grpc => {
                in_flight.finish(Ok(()));
                None
            }
            (in_flight, _) => in_flight,
        };
        headers::back(response.headers_mut(), spoken, &proxy.name, id);
        *response.version_mut() = Version::default();
        let Self { came, upload, moved, is_grpc, busy, .. } = self;
        if let Some(upload) = &upload {
            upload.keep_no_more();
        }
        moved.again();
        let quiet = Quiet::new(moved, proxy.idle_timeout);
        let is_http2 = came.version == Version::HTTP_2;
        Ok(response.map(|received| {
            let answer = Answer { received, in_flight, is_grpc, upload };
            Body::Forwarded(Box::new(Download::new(answer, quiet, is_http2, busy)))
        }))
    }

    /// The connection becomes what the client has asked for.
    fn switch(
        self,
        proxy: &Proxy,
        service: &Arc<Service>,
        mut response: Response<Received>,
        id: &InstanceId,
        in_flight: Option<InFlight>,
    ) -> Result<Response<Body>, Problem> {
        let protocol = response.headers().get(UPGRADE).cloned();
        let (Some(near), Some(protocol)) = (self.on_upgrade, protocol) else {
            return Err(Problem::switched_unasked());
        };
        let far = hyper::upgrade::on(&mut response);
        let (limit, service, busy) = (proxy.idle_timeout, service.clone(), self.busy);
        self.client.tunnel.set(
            async move {
                let _held = (busy, service.measures.tunnel());
                let (Ok(near), Ok(far)) = (near.await, far.await) else { return };
                let passed = tunnel::pass_upgraded(near, far, limit).await;
                if let (Ok(()), Some(in_flight)) = (passed, in_flight) {
                    in_flight.finish(Ok(()));
                }
            }
            .boxed(),
        );
        let mut switched = Response::new(Body::Empty);
        *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *switched.headers_mut() = std::mem::take(response.headers_mut());
        headers::back(switched.headers_mut(), response.version(), &proxy.name, id);
        switched.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        switched.headers_mut().insert(UPGRADE, protocol);
        Ok(switched)
    }
}

/// Whether another instance is asked the same: what the HTTP client of the libraries does it on.
fn is_retried(status: StatusCode) -> bool {
    [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT].contains(&status)
}

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

/// Which instance a problem is of, for the client.
pub(crate) fn say(headers: &mut HeaderMap, instance: Option<&InstanceId>) {
    if let Some(instance) = instance {
        headers::say_instance(headers, instance);
    }
}
