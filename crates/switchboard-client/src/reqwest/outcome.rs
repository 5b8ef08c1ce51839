use reqwest::{Method, Response, StatusCode};
use reqwest_middleware::{Error, Result};
use switchboard_selector::FailureKind;
use tokio::time::Instant;

use crate::TimedOut;
use crate::failures::root;
use crate::limits::Limits;
use crate::pick::Verdict;
use crate::unsent::is_refused;

/// What the balancer learns of an attempt that began at `began`; `None` if it says nothing of the instance.
pub(crate) fn verdict(result: &Result<Response>, limits: &Limits, began: Instant) -> Verdict {
    let timeout = || limits.blames(began).then_some(Err(FailureKind::Timeout));
    match result {
        Ok(response) if is_trouble(response.status()) => Some(Err(FailureKind::Response)),
        Ok(_) => Some(Ok(())),
        Err(Error::Reqwest(error)) if error.is_builder() || error.is_redirect() => None,
        Err(Error::Reqwest(error)) if error.is_connect() => Some(Err(FailureKind::Connection)),
        Err(Error::Reqwest(error)) if error.is_timeout() => timeout(),
        Err(Error::Reqwest(error)) if is_refused(error) => Some(Err(FailureKind::Response)),
        Err(Error::Reqwest(_)) => Some(Err(FailureKind::Connection)),
        Err(Error::Middleware(error)) if error.is::<TimedOut>() => timeout(),
        // Another middleware's own words.
        Err(Error::Middleware(_)) => None,
    }
}

/// Server errors, except that something is not implemented, which is no trouble.
fn is_trouble(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}

/// Whether another instance may be asked the same.
pub(crate) fn may_retry(result: &Result<Response>, idempotent: bool, statuses: &[StatusCode]) -> bool {
    match result {
        Ok(response) => idempotent && statuses.contains(&response.status()),
        // Without a connection nothing was sent. A time-out of the client has used up the caller's time.
        Err(Error::Reqwest(error)) => {
            let broke = error.is_request() && !error.is_timeout();
            error.is_connect() || is_refused(error) || idempotent && broke
        }
        Err(Error::Middleware(error)) => idempotent && matches!(error.downcast_ref(), Some(TimedOut::Try(_))),
    }
}

/// Why an attempt failed that came to this.
pub(crate) fn why(result: &Result<Response>) -> String {
    match result {
        Ok(response) => format!("HTTP {}", response.status()),
        Err(Error::Reqwest(error)) if error.is_connect() => format!("cannot connect: {}", root(error)),
        Err(Error::Reqwest(error)) => root(error),
        Err(Error::Middleware(error)) => format!("{error:#}"),
    }
}

/// RFC 9110, section 9.2.2.
pub(crate) fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}
