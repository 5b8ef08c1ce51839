use std::fmt;
use std::sync::Arc;

use reqwest::Url;
use switchboard_core::ServiceName;

/// Which hosts are names of services.
#[derive(Clone)]
pub(crate) struct Names(Arc<Rule>);

type Rule = dyn Fn(&str) -> Option<ServiceName> + Send + Sync;

impl Names {
    pub(crate) fn new(names: impl Fn(&str) -> Option<ServiceName> + Send + Sync + 'static) -> Self {
        Self(Arc::new(names))
    }

    /// The service that `url` is for; a port in it says that it is for a host.
    pub(crate) fn service(&self, url: &Url) -> Option<ServiceName> {
        if url.port().is_some() || !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        self.host(url.host_str()?)
    }

    /// The service that `host` names.
    pub(crate) fn host(&self, host: &str) -> Option<ServiceName> {
        (self.0)(host)
    }
}

/// Names without a dot, other than `localhost`, and no IP addresses.
impl Default for Names {
    fn default() -> Self {
        Self::new(|host| {
            let service = !host.contains(['.', ':']) && host != "localhost";
            service.then(|| ServiceName::new(host).ok()).flatten()
        })
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_dot_and_port_are_services() {
        let names = Names::default();
        let service = |url: &str| names.service(&url.parse().unwrap()).map(|name| name.to_string());
        for (url, expected) in [
            ("http://hello/greet", Some("hello")),
            ("https://hello-2/", Some("hello-2")),
            ("http://HELLO/", Some("hello")),
            ("http://hello:8080/", None),
            ("http://hello.example.com/", None),
            ("http://localhost/", None),
            ("http://127.0.0.1/", None),
            ("http://[::1]/", None),
            ("ftp://hello/", None),
        ] {
            assert_eq!(service(url).as_deref(), expected, "{url}");
        }
    }
}
