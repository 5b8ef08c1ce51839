use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// Where a client connects: an IP address or host name, and a port.
///
/// Text form `127.0.0.1:8080`, `[::1]:8080`, `[fe80::1%2]:8080` (the number after `%` is the interface's index,
/// RFC 4007), `db.example.com:5432`. Port 0, the unspecified addresses `0.0.0.0` and `::`, and those of multicast and broadcast
/// are refused: nobody can connect to them.
///
/// ```
/// # use switchboard_core::Address;
/// let address: Address = "10.0.0.7:8080".parse()?;
/// assert_eq!(address.port(), 8080);
/// assert!(address.socket_addr().is_some());
/// # Ok::<(), switchboard_core::Invalid>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(Repr);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Repr {
    Ip(SocketAddr),
    Name(Arc<str>, u16),
}

/// The host part of an [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// An IP address.
    Ip(IpAddr),
    /// A host name, to be resolved by whoever connects.
    Name(&'a str),
}

impl Address {
    /// An address from a host (IP address or name) and a port.
    ///
    /// # Errors
    ///
    /// [`Invalid`] for port 0, an unspecified IP address, and a host name that is not 1 to 253 letters, digits,
    /// `-`, `_` and `.`.
    pub fn new(host: &str, port: u16) -> Result<Self, Invalid> {
        match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).try_into(),
            Err(_) => Self::named(host, port),
        }
    }

    fn named(host: &str, port: u16) -> Result<Self, Invalid> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if host.is_empty() {
            Err(Invalid::quoting("host", host, "is empty"))
        } else if host.len() > 253 {
            Err(Invalid::quoting("host", host, format!("is {} bytes long, the limit is 253", host.len())))
        } else if !host.chars().all(allowed) {
            Err(Invalid::quoting(
                "host",
                host,
                "is neither an IP address nor a name of letters, digits, -, _ and .",
            ))
        } else if port == 0 {
            Err(Invalid::quoting("address", &format!("{host}:0"), "has port 0, which nobody can connect to"))
        } else {
            Ok(Self(Repr::Name(host.into(), port)))
        }
    }

    /// The host part.
    pub fn host(&self) -> Host<'_> {
        match &self.0 {
            Repr::Ip(socket) => Host::Ip(socket.ip()),
            Repr::Name(name, _) => Host::Name(name),
        }
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        match &self.0 {
            Repr::Ip(socket) => socket.port(),
            Repr::Name(_, port) => *port,
        }
    }

    /// The socket address, with its scope if it is link-local; `None` for a host name.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Repr::Ip(socket) => Some(*socket),
            Repr::Name(..) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Ip(socket) => socket.fmt(f),
            Repr::Name(name, port) => f.pad(&format!("{name}:{port}")),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.pad(name),
        }
    }
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return socket.try_into();
        }
        if text.contains("://") {
            let why = "is a URL; write host:port alone, without scheme and path";
            return Err(Invalid::quoting("address", text, why));
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| Invalid::quoting("address", text, "has no port; write host:port"))?;
        if host.contains(':') {
            let why = "is an IPv6 address that is malformed or not in brackets; write [host]:port";
            return Err(Invalid::quoting("address", text, why));
        }
        let port = port
            .parse()
            .map_err(|_| Invalid::quoting("address", text, "has a port that is no number from 1 to 65535"))?;
        Self::new(host, port)
    }
}

impl TryFrom<SocketAddr> for Address {
    type Error = Invalid;

    fn try_from(socket: SocketAddr) -> Result<Self, Invalid> {
        let refuse = |why| Err(Invalid::new(format!("address {socket}"), why));
        if socket.port() == 0 {
            return refuse("has port 0, which nobody can connect to");
        }
        if socket.ip().is_unspecified() {
            return refuse("is the unspecified address, which nobody can connect to");
        }
        if socket.ip().is_multicast() || socket.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return refuse("is of multicast or broadcast, which nobody can connect to");
        }
        // A flow label says nothing about where the peer is; without it equal addresses compare equal.
        Ok(Self(Repr::Ip(match socket {
            SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
            v4 @ SocketAddr::V4(_) => v4,
        })))
    }
}

impl TryFrom<&str> for Address {
    type Error = Invalid;

    fn try_from(text: &str) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl TryFrom<&String> for Address {
    type Error = Invalid;

    fn try_from(text: &String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl TryFrom<String> for Address {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl TryFrom<&Address> for Address {
    type Error = Invalid;

    fn try_from(address: &Address) -> Result<Self, Invalid> {
        Ok(address.clone())
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_forms_round_trip() {
        for text in ["127.0.0.1:80", "[::1]:80", "[fe80::1%2]:8080", "db_1.example.com:5432"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_nobody_can_connect_to() {
        for (text, why) in [
            ("127.0.0.1", "has no port; write host:port"),
            ("127.0.0.1:0", "has port 0, which nobody can connect to"),
            ("host:0", "has port 0, which nobody can connect to"),
            ("0.0.0.0:80", "is the unspecified address, which nobody can connect to"),
            ("[::]:80", "is the unspecified address, which nobody can connect to"),
            ("224.0.0.1:80", "is of multicast or broadcast, which nobody can connect to"),
            ("[ff02::fb]:80", "is of multicast or broadcast, which nobody can connect to"),
            ("255.255.255.255:80", "is of multicast or broadcast, which nobody can connect to"),
            ("host:70000", "has a port that is no number from 1 to 65535"),
            ("::1:80x", "is an IPv6 address that is malformed or not in brackets; write [host]:port"),
            (":80", "is empty"),
            ("http://10.0.0.7:8080", "is a URL; write host:port alone, without scheme and path"),
            ("http://orders", "is a URL; write host:port alone, without scheme and path"),
            ("grpc://[::1]:80/x", "is a URL; write host:port alone, without scheme and path"),
            ("a b:80", "is neither an IP address nor a name of letters, digits, -, _ and ."),
        ] {
            assert_eq!(text.parse::<Address>().unwrap_err().why(), why, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
        }

        #[test]
        fn socket_addresses_round_trip(ip in any::<IpAddr>(), port in 1u16..) {
            let Ok(address) = Address::try_from(SocketAddr::new(ip, port)) else { return Ok(()) };
            prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
    }
}
