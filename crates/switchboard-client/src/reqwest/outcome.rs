use reqwest::{Method, Response, StatusCode};
use reqwest_middleware::{Error, Result};
use switchboard_selector::FailureKind;

/// What the balancer learns of an attempt; `None` if it says nothing of the instance.
pub(crate) fn verdict(result: &Result<Response>) -> Option<std::result::Result<(), FailureKind>> {
    match result {
        Ok(response) if is_trouble(response.status()) => Some(Err(FailureKind::Response)),
        Ok(_) => Some(Ok(())),
        Err(Error::Reqwest(error)) if error.is_builder() || error.is_redirect() => None,
        Err(Error::Reqwest(error)) if error.is_connect() => Some(Err(FailureKind::Connection)),
        Err(Error::Reqwest(error)) if error.is_timeout() => Some(Err(FailureKind::Timeout)),
        Err(Error::Reqwest(_)) => Some(Err(FailureKind::Connection)),
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
        // Without a connection nothing was sent. A time-out has used up the caller's time.
        Err(Error::Reqwest(error)) => {
            error.is_connect() || idempotent && error.is_request() && !error.is_timeout()
        }
        Err(Error::Middleware(_)) => false,
    }
}

/// RFC 9110, section 9.2.2.
pub(crate) fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}
