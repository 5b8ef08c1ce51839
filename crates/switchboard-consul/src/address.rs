//! Where agents listen.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use switchboard_core::Invalid;

/// The address of one Consul agent.
///
/// Written as in `CONSUL_HTTP_ADDR`: `127.0.0.1:8500`, `consul.example.com` (port 8500, or 8501 with TLS),
/// `https://10.0.0.7:8501`, `[::1]:8500`, `unix:///run/consul/http.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AgentAddress {
    Tcp { host: String, port: Option<u16>, tls: Option<bool> },
    Unix(PathBuf),
}

impl AgentAddress {
    /// A list separated by commas, as in `consul://a:8500,b:8500`; `None` if it names no agent.
    pub(crate) fn list(text: &str) -> Result<Option<Vec<Self>>, Invalid> {
        if text.is_empty() {
            return Ok(None);
        }
        text.split(',').map(str::parse).collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// The base of its URLs, and the host and port alone.
    pub(crate) fn base(&self, tls_by_default: bool) -> (String, String, bool) {
        match self {
            Self::Tcp { host, port, tls } => {
                let tls = tls.unwrap_or(tls_by_default);
                let port = port.unwrap_or(if tls { 8501 } else { 8500 });
                let authority = format!("{host}:{port}");
                (format!("{}://{authority}", if tls { "https" } else { "http" }), authority, tls)
            }
            Self::Unix(path) => ("http://localhost".into(), format!("unix://{}", path.display()), false),
        }
    }
}

impl FromStr for AgentAddress {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // It is not repeated if it may hold a password.
        if text.contains('@') {
            let why = "holds a user or password; Consul takes a token, by the parameter token or token_file";
            return Err(Invalid::new("Consul address", why));
        }
        let refuse = |why: &str| Err(Invalid::quoting("Consul address", text, why));
        let unix = text.strip_prefix("unix://").or_else(|| text.starts_with('/').then_some(text));
        if let Some(path) = unix {
            return if path.is_empty() {
                refuse("has no socket path")
            } else if path.rfind('/') == Some(0) {
                // No socket is in the root directory: it is an agent with a slash too few or too many.
                refuse(&format!(
                    "is no path of a unix socket; write consul:/{path} for an agent, or \
                     consul:///run/consul/http.sock for a socket"
                ))
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let (tls, rest) = match text.split_once("://") {
            None => (None, text),
            Some(("http", rest)) => (Some(false), rest),
            Some(("https", rest)) => (Some(true), rest),
            Some(_) => return refuse("has a scheme that is none of http, https, unix"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let colon = rest.rfind(':').filter(|&at| !rest[at..].contains(']'));
        let (host, port) = match colon {
            None => (rest, None),
            Some(at) => match rest[at + 1..].parse::<u16>() {
                Ok(port) if port > 0 => (&rest[..at], Some(port)),
                _ => return refuse("has a port that is no number from 1 to 65535"),
            },
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let valid = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
            }
        };
        if !valid {
            return refuse(
                "has a host that is neither a name, an IPv4 address nor an IPv6 address in brackets",
            );
        }
        Ok(Self::Tcp { host: host.into(), port, tls })
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base(false).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn base(text: &str) -> String {
        text.parse::<AgentAddress>().unwrap().base(false).0
    }

    #[test]
    fn reads_what_consul_reads() {
        assert_eq!(base("127.0.0.1:8500"), "http://127.0.0.1:8500");
        assert_eq!(base("consul.example.com"), "http://consul.example.com:8500");
        assert_eq!(base("https://a"), "https://a:8501");
        assert_eq!(base("http://[::1]:80/"), "http://[::1]:80");
        assert_eq!("a".parse::<AgentAddress>().unwrap().base(true).0, "https://a:8501");
        assert_eq!(
            "unix:///run/consul.sock".parse::<AgentAddress>().unwrap(),
            AgentAddress::Unix("/run/consul.sock".into())
        );
        assert_eq!(AgentAddress::list("a:1,b:2").unwrap().unwrap().len(), 2);
        assert_eq!(AgentAddress::list("").unwrap(), None);
    }

    #[test]
    fn refuses_and_says_why_without_a_password() {
        for (text, why) in [
            ("a:0", "has a port that is no number from 1 to 65535"),
            ("a:b", "has a port that is no number from 1 to 65535"),
            ("ftp://a", "has a scheme that is none of http, https, unix"),
            ("::1", "has a host that is neither a name, an IPv4 address nor an IPv6 address in brackets"),
            ("a/b", "has a host that is neither a name, an IPv4 address nor an IPv6 address in brackets"),
            (
                "a:1,,b:2",
                "has a host that is neither a name, an IPv4 address nor an IPv6 address in brackets",
            ),
            ("unix://", "has no socket path"),
            (
                "/127.0.0.1",
                "is no path of a unix socket; write consul://127.0.0.1 for an agent, or \
                 consul:///run/consul/http.sock for a socket",
            ),
        ] {
            assert_eq!(AgentAddress::list(text).unwrap_err().why(), why, "{text}");
        }
        let refused = AgentAddress::list("u:hunter2@a").unwrap_err();
        assert!(!refused.to_string().contains("hunter2"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            let _ = AgentAddress::list(&text);
        }
    }
}
