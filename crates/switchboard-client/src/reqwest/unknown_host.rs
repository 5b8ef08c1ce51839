use std::error::Error as StdError;
use std::fmt;

use reqwest_middleware::Error;
use switchboard_core::ServiceName;

/// A host that no resolver knows, and that is no service by the rule.
#[derive(Debug)]
struct UnknownHost {
    host: String,
    source: reqwest::Error,
}

impl fmt::Display for UnknownHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the system's resolver does not know the host {0:?}, which is no service by the rule of `Discovery::names`: \
             names with a dot are none by default; if it is one, give `.names(|host| …)` a rule that says so",
            self.host
        )
    }
}

impl StdError for UnknownHost {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

/// Says what to do about a host that might have been meant for a service.
pub(crate) fn explain(error: Error) -> Error {
    match error {
        Error::Reqwest(source) if is_dns(&source) => match might_be_service(&source) {
            Some(host) => Error::middleware(UnknownHost { host, source }),
            None => Error::Reqwest(source),
        },
        other => other,
    }
}

/// The host of the request, if a service could have this name; a port says that it is for a host.
fn might_be_service(error: &reqwest::Error) -> Option<String> {
    let url = error.url().filter(|url| url.port().is_none())?;
    let host = url.host_str()?;
    ServiceName::new(host).is_ok().then(|| host.to_owned())
}

/// Whether the resolver failed. hyper-util's connector says so in words only.
fn is_dns(error: &reqwest::Error) -> bool {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    error.is_connect() && causes.into_iter().any(|cause| cause.to_string().starts_with("dns error"))
}
