use std::error::Error;

use http::{HeaderMap, StatusCode};
use switchboard_selector::FailureKind;
use tonic::{Code, ConnectError, Status, TimeoutExpired};

use crate::failures::root;
use crate::unsent::{any, is_refused};

/// What the balancer learns of a status. The codes that say the instance is in trouble are those that Envoy counts as
/// HTTP 500, 503 and 504; the others are the application's own.
pub(crate) fn judge(code: Code) -> Result<(), FailureKind> {
    match code {
        Code::DeadlineExceeded => Err(FailureKind::Timeout),
        Code::Unavailable | Code::Internal | Code::Unknown | Code::DataLoss => Err(FailureKind::Response),
        _ => Ok(()),
    }
}

/// The status in these headers or trailers, if it is there.
pub(crate) fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// What the head of a response says; `None` while the end is open.
pub(crate) fn head<B>(response: &http::Response<B>) -> Option<Result<(), FailureKind>> {
    if response.status() == StatusCode::OK {
        code(response.headers()).map(judge)
    } else {
        // Not of a gRPC server but of something before it.
        Some(Err(FailureKind::Response))
    }
}

/// How a call failed of which no response came.
pub(crate) fn failure(error: &(dyn Error + 'static)) -> FailureKind {
    if is_timeout(error) {
        FailureKind::Timeout
    } else if is_refused(error) {
        FailureKind::Response
    } else {
        FailureKind::Connection
    }
}

/// Why a call failed of which no response came, in words.
pub(crate) fn why(error: &(dyn Error + 'static)) -> String {
    if is_unconnected(error) { format!("cannot connect: {}", root(error)) } else { root(error) }
}

/// Whether the instance cannot have worked on the request: there was no connection, the request never left the queue for
/// it, or the instance says so.
pub(crate) fn was_not_sent(error: &(dyn Error + 'static)) -> bool {
    let unsent = |cause: &(dyn Error + 'static)| {
        cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
    };
    is_unconnected(error) || any(error, unsent) || is_refused(error)
}

/// Whether no connection came about.
pub(crate) fn is_unconnected(error: &(dyn Error + 'static)) -> bool {
    any(error, <dyn Error>::is::<ConnectError>)
}

/// What a server answers that gives a request up, as when its time is over: tonic's says `CANCELLED`, others
/// `DEADLINE_EXCEEDED`.
pub(crate) fn gives_up(code: Code) -> bool {
    matches!(code, Code::Cancelled | Code::DeadlineExceeded)
}

/// Whether the server, or tonic on this side, gave the request up instead of a response.
pub(crate) fn was_given_up(error: &(dyn Error + 'static)) -> bool {
    let reset = |cause: &(dyn Error + 'static)| {
        cause
            .downcast_ref::<h2::Error>()
            .is_some_and(|error| error.is_remote() && error.reason() == Some(h2::Reason::CANCEL))
    };
    is_timeout(error) || any(error, reset)
}

/// Whether the time was over that the endpoint, or the request, gives an attempt.
pub(crate) fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    any(error, <dyn Error>::is::<TimeoutExpired>)
}
