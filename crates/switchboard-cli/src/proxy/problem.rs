//! What the proxy answers itself when it cannot forward: what, why, and what to do.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{HeaderMap, Response, StatusCode, Version};
use switchboard::client::NotCalled;
use switchboard::selector::PickError;
use switchboard::{Error, ServiceName};

use super::body::{Body, Broken};
use crate::failure::chain;

/// RFC 9209: who in a chain of proxies could not do it, and why, for programs.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    /// An error type of RFC 9209, section 2.3.
    kind: &'static str,
    /// What, and why; and what to do.
    text: String,
    advice: String,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { status, kind, text: text.into(), advice: advice.into() }
    }

    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "http_request_error", text, "mend the request")
    }

    pub(crate) fn not_found(text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "destination_not_found", text, advice)
    }

    pub(crate) fn unavailable(text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable", text, advice)
    }

    pub(crate) fn too_late(text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "http_response_timeout", text, advice)
    }

    /// No instance could be called.
    pub(crate) fn not_called(service: &ServiceName, error: &NotCalled) -> Self {
        let NotCalled::Pick { source, .. } = error else {
            return Self::too_late(error.to_string(), "try again, or raise --request-timeout");
        };
        let text = error.to_string();
        match source {
            PickError::NotFound { .. } => Self::not_found(text, unknown(service)),
            PickError::NoneUsable { .. } => {
                Self::unavailable(text, format!("`switchboard describe {service}` tells why"))
            }
            PickError::Registry(error) => Self::not_heard(service, error),
            _ => Self::unavailable(text, format!("`switchboard doctor {service}` finds out why")),
        }
    }

    /// The registry was asked for the service and did not answer.
    pub(crate) fn not_heard(service: &ServiceName, error: &Error) -> Self {
        Self::unavailable(
            format!("nothing known of service {service:?}, as the registry is not heard: {}", chain(error)),
            "try again when it is; `switchboard doctor` finds out why",
        )
    }

    pub(crate) fn unknown(service: &ServiceName) -> Self {
        let text = format!("nothing known of service {service:?}: the registry has no instance of it");
        Self::not_found(text, unknown(service))
    }

    /// No connection to an instance came about.
    pub(crate) fn unreached(line: &str) -> Self {
        let advice = "see that what is registered runs, and listens where it is registered";
        Self::new(StatusCode::BAD_GATEWAY, "connection_refused", line, advice)
    }

    /// An instance was reached by `version`, and did not answer.
    pub(crate) fn broke(line: &str, version: Version) -> Self {
        let advice = match version {
            Version::HTTP_2 => {
                "see its log; if it speaks no HTTP/2, register it with the metadata protocol=http"
            }
            _ => "see its log; if it speaks HTTP/2 only, register it with the metadata protocol=h2c",
        };
        Self::new(StatusCode::BAD_GATEWAY, "connection_terminated", line, advice)
    }

    /// The client's own body broke off.
    pub(crate) fn broken_off(how: Option<Broken>) -> Self {
        if let Some(Broken::Malformed) = how {
            return Self::bad_request("the chunks of the body are malformed");
        }
        let text = "the body of the request broke off, or did not go on in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "http_request_error", text, "send it again")
    }

    pub(crate) fn switched_unasked() -> Self {
        let text = "the instance has switched to another protocol, which nobody asked for";
        Self::new(StatusCode::BAD_GATEWAY, "http_upgrade_failed", text, "see that it is an HTTP server")
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// As an answer to a request with these headers.
    pub(crate) fn answer(self, asked: &HeaderMap) -> Response<Body> {
        let mut response = if is_grpc(asked) { self.in_grpc() } else { self.in_text() };
        let status = HeaderValue::from_str(&format!("switchboard; error={}", self.kind));
        response.headers_mut().extend(status.ok().map(|status| (PROXY_STATUS, status)));
        response
    }

    fn in_text(&self) -> Response<Body> {
        let text = format!("switchboard: {}\n{}\n", self.text, self.advice);
        let mut response = Response::new(Body::from(Bytes::from(text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    /// gRPC's clients read a status, and take any other answer for a broken one.
    fn in_grpc(&self) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from_static(self.grpc_status()));
        if let Ok(message) = HeaderValue::from_str(&percent_encoded(&self.text)) {
            headers.insert(GRPC_MESSAGE, message);
        }
        response
    }

    /// As gRPC maps HTTP's (its `http-grpc-status-mapping`), except that what is unknown may be there later, and that a time that
    /// is over is a deadline.
    fn grpc_status(&self) -> &'static str {
        match self.status {
            StatusCode::GATEWAY_TIMEOUT => "4",
            StatusCode::NOT_FOUND | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => "14",
            _ => "13",
        }
    }
}

fn unknown(service: &ServiceName) -> String {
    format!(
        "`switchboard services` lists what there is, `switchboard doctor {service}` finds out why it is missing"
    )
}

/// Whether it is a gRPC call.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    match kind.strip_prefix(b"application/grpc") {
        // Not gRPC-Web, which is HTTP like any other.
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// As gRPC's protocol has messages: all but printable ASCII, and the percent sign, are encoded.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;

    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            // Writing to a string does not fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_from_what_is_like_it() {
        let is = |kind: &'static str| {
            is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]))
        };
        assert!(is("application/grpc") && is("application/grpc+proto") && is("application/grpc;x=y"));
        assert!(!is("application/grpc-web") && !is("application/json") && !is_grpc(&HeaderMap::new()));
        assert_eq!(percent_encoded("50 % é\n"), "50 %25 %C3%A9%0A");
    }
}
