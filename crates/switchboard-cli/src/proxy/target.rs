//! Who a request is for, by its host.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::HOST;
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use switchboard::ServiceName;

use super::problem::Problem;

/// Names under it are of this machine, whoever resolves them (RFC 6761, section 6.3).
const SUFFIX: &str = ".localhost";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The proxy itself.
    Own,
    Service(ServiceName),
}

/// The target of a request, and the host that it was written with.
pub(crate) fn target(
    head: &Parts,
    mapped: &HashMap<String, ServiceName>,
) -> Result<(Target, Authority), Problem> {
    let authority = authority(head)?;
    // A host may end with the dot of the root.
    let host = authority.host().to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let target = match (mapped.get(host), host.strip_suffix(SUFFIX)) {
        (Some(service), _) => Target::Service(service.clone()),
        (None, Some(name)) => Target::Service(ServiceName::new(name).map_err(|_| not_ours(host))?),
        (None, None) if host == "localhost" || is_ip(host) => Target::Own,
        (None, None) => return Err(not_ours(host)),
    };
    Ok((target, authority))
}

/// What the client asks for: of an absolute target, else of the one `Host` (RFC 9112, section 3.2).
fn authority(head: &Parts) -> Result<Authority, Problem> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    let authority = match (head.uri.authority(), host, another) {
        (_, _, Some(_)) => return Err(Problem::bad_request("the request has more than one Host header")),
        // Of this form `CONNECT` alone is.
        (Some(_), ..) if head.uri.scheme().is_none() => {
            return Err(Problem::bad_request("the target is neither a path nor a URL"));
        }
        (Some(authority), ..) => authority.clone(),
        (None, Some(host), None) => Authority::try_from(host.as_bytes())
            .map_err(|_| Problem::bad_request(format!("the Host header {host:?} is no host")))?,
        (None, None, None) => return Err(Problem::bad_request("the request has no Host header")),
    };
    // What is before the host is a user, what is after it a port.
    let port = authority.as_str().strip_prefix(authority.host());
    let is_port = |port: &str| {
        port.strip_prefix(':').is_some_and(|port| port.is_empty() || port.parse::<u16>().is_ok())
    };
    if authority.host().is_empty() || !port.is_some_and(|port| port.is_empty() || is_port(port)) {
        return Err(Problem::bad_request(format!("{:?} is no host", authority.as_str())));
    }
    Ok(authority)
}

/// An address as such cannot be another's name, so this is no way for a web page of elsewhere.
fn is_ip(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.parse::<Ipv4Addr>().is_ok() || bare.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

fn not_ours(host: &str) -> Problem {
    Problem::not_found(
        format!("{host:?} is no service's host"),
        "ask for http://NAME.localhost, or give `switchboard proxy` this host by --map HOST=SERVICE",
    )
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let request =
            hosts.iter().fold(Request::builder().uri(uri), |request, host| request.header(HOST, *host));
        request.body(()).unwrap().into_parts().0
    }

    fn of(uri: &str, hosts: &[&str]) -> Result<Target, u16> {
        let mapped = HashMap::from([("api.test".to_owned(), ServiceName::new("Orders").unwrap())]);
        let target = target(&parts(uri, hosts), &mapped);
        target.map(|(target, _)| target).map_err(|problem| problem.status().as_u16())
    }

    fn service(name: &str) -> Target {
        Target::Service(ServiceName::new(name).unwrap())
    }

    #[test]
    fn a_host_is_a_service_the_proxy_itself_or_nobody() {
        for host in ["web.localhost", "web.localhost:8080", "WEB.LocalHost", "web.localhost.:1"] {
            assert_eq!(of("/", &[host]), Ok(service("web")), "{host}");
        }
        assert_eq!(of("/", &["go.micro.srv.greeter.localhost"]), Ok(service("go.micro.srv.greeter")));
        assert_eq!(of("/", &["API.test:80"]), Ok(service("Orders")));
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "192.0.2.1"] {
            assert_eq!(of("/", &[host]), Ok(Target::Own), "{host}");
        }
        for host in
            ["example.com", "localhost.example.com", ".localhost", "..localhost", "web", "weblocalhost"]
        {
            assert_eq!(of("/", &[host]), Err(404), "{host}");
        }
    }

    #[test]
    fn a_host_that_is_missing_doubled_or_none_is_refused() {
        assert_eq!(of("/", &[]), Err(400));
        for hosts in [&["a.localhost", "b.localhost"][..], &["a.localhost", "a.localhost"]] {
            assert_eq!(of("/", hosts), Err(400));
            assert_eq!(of("http://a.localhost/", hosts), Err(400));
        }
        for host in
            ["", "a b", "a.localhost/x", "u@a.localhost", "a.localhost:x", "a.localhost:99999", "[::1", ":80"]
        {
            assert_eq!(of("/", &[host]), Err(400), "{host:?}");
        }
    }

    #[test]
    fn a_target_that_is_a_host_alone_is_refused() {
        for target in ["a.localhost", "a.localhost:80", "x"] {
            assert_eq!(of(target, &["a.localhost"]), Err(400), "{target}");
        }
    }

    #[test]
    fn an_absolute_target_counts_before_the_host() {
        assert_eq!(of("http://a.localhost/x", &["b.localhost"]), Ok(service("a")));
        assert_eq!(of("http://a.localhost:8080/x", &[]), Ok(service("a")));
        let (_, authority) =
            target(&parts("http://a.localhost:81/x", &["b.localhost"]), &HashMap::new()).unwrap();
        assert_eq!(authority.as_str(), "a.localhost:81");
    }
}
