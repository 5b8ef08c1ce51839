//! The instances' side: connections, and what an answer or its absence says of an instance.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use switchboard::selector::FailureKind;
use switchboard::{Address, Instance, metadata_keys};
use tokio::net::TcpStream;
use tower_service::Service;

use super::body::{Received, RequestBody};
use super::connection::{HEADERS, WRITE};
use super::http2;
use super::quiet::Watched;
use crate::output;

/// Less than the 5 s after which Node, Apache and uvicorn close connections that are not used: whoever sends on one in the very
/// moment may not send again.
const IDLE: Duration = Duration::from_secs(4);

/// Unused connections to one instance; nginx's manual keeps fewer, but for a process with fewer clients.
const IDLE_CONNECTIONS: usize = 256;

/// TCP's own probes, as the gRPC client of the libraries has them: a host that is gone shows.
const PROBE: Duration = Duration::from_secs(15);

/// What speaks to instances.
pub(crate) struct Upstreams {
    http1: Client<Connector, RequestBody>,
    http2: http2::Connections,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) struct Unanswered {
    pub(crate) why: String,
    /// `None` for what is not the instance's fault.
    pub(crate) kind: Option<FailureKind>,
    /// Another instance would do no better.
    pub(crate) own: bool,
    pub(crate) reached: bool,
    /// The instance cannot have worked on the request.
    pub(crate) unsent: bool,
}

impl Upstreams {
    pub(crate) fn new(connect_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_keepalive(Some(PROBE));
        connector.set_keepalive_interval(Some(PROBE / 3));
        connector.set_keepalive_retries(Some(3));
        let mut builder = Client::builder(TokioExecutor::new());
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
        builder.pool_idle_timeout(IDLE).pool_max_idle_per_host(IDLE_CONNECTIONS).set_host(false);
        let http1 = builder.http1_max_buf_size(HEADERS).build(Connector(connector.clone()));
        Self { http1, http2: http2::Connections::new(connector, connect_timeout) }
    }

    /// Sends a request to where an instance is, and waits for the head of its answer.
    pub(crate) async fn send(
        &self,
        mut request: Request<RequestBody>,
        address: &Address,
        host: &Authority,
    ) -> Result<Response<Received>, Unanswered> {
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let place = uri(address, path.clone())?;
        if request.version() == Version::HTTP_2 {
            let target = Uri::builder().scheme(Scheme::HTTP).authority(host.clone()).path_and_query(path);
            *request.uri_mut() = target.build().map_err(|error| Unanswered::own(&error))?;
            let (response, stream) = Box::pin(self.http2.send(request, address, &place)).await?;
            return Ok(response.map(|incoming| Received { incoming, _stream: Some(stream) }));
        }
        *request.uri_mut() = place;
        let answer = self.http1.request(request).await;
        let response = answer.map_err(|error| {
            if error.is_connect() { Unanswered::unconnected(&error) } else { Unanswered::of(&error, false) }
        })?;
        Ok(response.map(|incoming| Received { incoming, _stream: None }))
    }
}

fn uri(address: &Address, path: PathAndQuery) -> Result<Uri, Unanswered> {
    let place = format!("{}:{}", output::host(address), address.port());
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(place).path_and_query(path);
    uri.build().map_err(|error| Unanswered::own(&error))
}

/// What an instance is spoken to with: what it says of itself, else what every HTTP server speaks, and gRPC's do not. A connection
/// that is to become another is HTTP/1.1.
pub(crate) fn version(instance: &Instance, is_grpc: bool, upgrades: bool) -> Version {
    let says = instance.metadata().get(metadata_keys::PROTOCOL).map(|says| says.to_ascii_lowercase());
    match says.as_deref() {
        _ if upgrades => Version::HTTP_11,
        _ if is_grpc => Version::HTTP_2,
        Some("grpc" | "h2" | "h2c" | "http2" | "http/2") => Version::HTTP_2,
        _ => Version::HTTP_11,
    }
}

/// What a status says of the instance: server errors, except that something is not implemented, which is no trouble.
pub(crate) fn judge_status(status: StatusCode) -> Result<(), FailureKind> {
    let trouble = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
    if trouble { Err(FailureKind::Response) } else { Ok(()) }
}

/// What gRPC's status says of the instance, if there is one: `UNKNOWN`, `DEADLINE_EXCEEDED`, `INTERNAL`, `UNAVAILABLE` and
/// `DATA_LOSS` are trouble, as for the libraries' gRPC client.
pub(crate) fn judge(headers: &HeaderMap) -> Option<Result<(), FailureKind>> {
    Some(match headers.get("grpc-status")?.as_bytes() {
        b"4" => Err(FailureKind::Timeout),
        b"2" | b"13" | b"14" | b"15" => Err(FailureKind::Response),
        _ => Ok(()),
    })
}

impl Unanswered {
    /// There is no connection.
    pub(crate) fn unconnected(error: &(dyn StdError + 'static)) -> Self {
        let root = root(error);
        // No free file or port is trouble of this process.
        let own = root.downcast_ref::<io::Error>().is_some_and(is_own);
        let kind = (!own).then_some(FailureKind::Connection);
        Self { why: format!("cannot connect: {root}"), kind, own, reached: false, unsent: true }
    }

    /// There is one, on which nothing can be said.
    pub(crate) fn speechless(why: String) -> Self {
        Self { why, kind: Some(FailureKind::Connection), own: false, reached: true, unsent: true }
    }

    /// The connection broke, or the instance refused; `unsent` when it cannot have seen the request.
    pub(crate) fn of(error: &(dyn StdError + 'static), unsent: bool) -> Self {
        let refusal = refusal(error);
        let canceled = chain(error)
            .any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled));
        let kind = match refusal {
            Some(h2::Reason::NO_ERROR) => None,
            Some(_) => Some(FailureKind::Response),
            None => Some(FailureKind::Connection),
        };
        let unsent = unsent || refusal.is_some() || canceled;
        Self { why: root(error).to_string(), kind, own: false, reached: true, unsent }
    }

    /// The request cannot be said to the instance.
    fn own(error: &(dyn StdError + 'static)) -> Self {
        Self { why: error.to_string(), kind: None, own: true, reached: false, unsent: false }
    }
}

#[cfg(unix)]
pub(crate) fn is_own(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let own = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| own.iter().any(|own| own.raw_os_error() == code))
}

#[cfg(not(unix))]
pub(crate) fn is_own(_: &io::Error) -> bool {
    false
}

/// Why, if the server says that it has not worked on the request (RFC 9113, section 8.7): without an error, when the connection ends.
fn refusal(error: &(dyn StdError + 'static)) -> Option<h2::Reason> {
    chain(error).find_map(|cause| {
        let error = cause.downcast_ref::<h2::Error>().filter(|error| error.is_remote())?;
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.reason().filter(|_| refused || error.is_go_away())
    })
}

pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What is behind an error, which those around it say in more general words.
pub(crate) fn root<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    chain(error).last().unwrap_or(error)
}

#[derive(Clone)]
struct Connector(HttpConnector);

impl Service<Uri> for Connector {
    type Response = TokioIo<Watched<TcpStream>>;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connecting = self.0.call(target);
        connecting.map(|stream| Ok(TokioIo::new(Watched::new(stream?.into_inner(), WRITE)))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_spoken_to_as_it_says_or_as_the_request_needs() {
        let version = |says: &str, is_grpc, upgrades| {
            let instance = Instance::builder("web").address("h:1").metadata(metadata_keys::PROTOCOL, says);
            super::version(&instance.build().unwrap(), is_grpc, upgrades)
        };
        for (says, is_grpc, expected) in [
            ("", false, Version::HTTP_11),
            ("", true, Version::HTTP_2),
            ("mucp", false, Version::HTTP_11),
            ("GRPC", false, Version::HTTP_2),
            ("h2c", false, Version::HTTP_2),
            ("http", false, Version::HTTP_11),
        ] {
            assert_eq!(version(says, is_grpc, false), expected, "{says:?}");
        }
        assert_eq!(version("h2c", false, true), Version::HTTP_11);
    }

    #[test]
    fn statuses_blame_the_instance_for_what_is_its_fault() {
        let grpc = |status: &'static str| {
            judge(&HeaderMap::from_iter([(
                hyper::header::HeaderName::from_static("grpc-status"),
                hyper::header::HeaderValue::from_static(status),
            )]))
        };
        assert_eq!(judge(&HeaderMap::new()), None);
        assert_eq!((grpc("0"), grpc("5")), (Some(Ok(())), Some(Ok(()))));
        assert_eq!(
            (grpc("14"), grpc("4")),
            (Some(Err(FailureKind::Response)), Some(Err(FailureKind::Timeout)))
        );
        assert_eq!(judge_status(StatusCode::NOT_IMPLEMENTED), Ok(()));
        assert_eq!(judge_status(StatusCode::BAD_GATEWAY), Err(FailureKind::Response));
    }
}
