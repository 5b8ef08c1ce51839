//! The interfaces of this machine, and what a user calls them.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;

use if_addrs::Interface;

/// Every interface with an address, once per address, whether it is up or not.
///
/// # Errors
///
/// What the system fails with.
pub fn all() -> io::Result<Vec<Interface>> {
    if_addrs::get_if_addrs()
}

/// Those that are up. Empty, with a warning in the log, when the system does not tell.
pub fn up() -> Vec<Interface> {
    let listed = all().inspect_err(|error| tracing::warn!(%error, "cannot list the interfaces"));
    listed.unwrap_or_default().into_iter().filter(Interface::is_oper_up).collect()
}

/// Whether `interface` is the loopback device, also by an address of it that is none of loopback's own.
///
/// It goes by the addresses in `all`, since the name differs between systems (`lo`, `lo0`, and on Linux any other).
pub fn is_loopback(interface: &Interface, all: &[Interface]) -> bool {
    interface.is_loopback() || all.iter().any(|other| other.name == interface.name && other.is_loopback())
}

/// Whether there is an interface of this name, with an address or without. `None` on systems other than Linux, where those
/// without are not known.
pub fn exists(name: &str) -> Option<bool> {
    #[cfg(target_os = "linux")]
    {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
        match netdevice::name_to_index(&socket, name) {
            Ok(_) => Some(true),
            Err(rustix::io::Errno::NODEV) => Some(false),
            Err(_) => None,
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = name;
        None
    }
}

/// Interfaces as a user names them: `lo` for loopback on any system, an address, or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Loopback, whatever its name.
    Loopback,
    /// The interface with this address, and that address only.
    Address(IpAddr),
    /// The interface of this name.
    Name(String),
}

impl Choice {
    /// Whether `interface` is meant.
    pub fn matches(&self, interface: &Interface) -> bool {
        match self {
            Self::Loopback => interface.is_loopback(),
            Self::Address(ip) => interface.ip() == *ip,
            Self::Name(name) => interface.name == *name,
        }
    }

    /// Whether this is loopback, among the interfaces in `all`.
    pub fn is_loopback(&self, all: &[Interface]) -> bool {
        match self {
            Self::Loopback => true,
            Self::Address(ip) => ip.is_loopback(),
            Self::Name(name) => {
                all.iter().any(|interface| interface.name == *name && interface.is_loopback())
            }
        }
    }

    /// Whether `choices` confine their user to this machine: there are some, and all are loopback.
    pub fn are_loopback(choices: &[Self], all: &[Interface]) -> bool {
        !choices.is_empty() && choices.iter().all(|choice| choice.is_loopback(all))
    }
}

impl From<&str> for Choice {
    fn from(text: &str) -> Self {
        match text.parse() {
            Ok(ip) => Self::Address(ip),
            Err(_) if text == "lo" => Self::Loopback,
            Err(_) => Self::Name(text.into()),
        }
    }
}

impl FromStr for Choice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("lo"),
            Self::Address(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use if_addrs::{IfAddr, IfOperStatus, Ifv4Addr, Ifv6Addr};

    use super::*;

    /// An interface that is up.
    pub(crate) fn interface(name: &str, ip: &str) -> Interface {
        let addr = match ip.parse().unwrap() {
            IpAddr::V4(ip) => IfAddr::V4(Ifv4Addr {
                ip,
                netmask: Ipv4Addr::new(255, 255, 255, 0),
                prefixlen: 24,
                broadcast: None,
            }),
            IpAddr::V6(ip) => IfAddr::V6(Ifv6Addr { ip, netmask: ip, prefixlen: 64, broadcast: None }),
        };
        Interface {
            name: name.into(),
            addr,
            index: None,
            oper_status: IfOperStatus::Up,
            is_p2p: false,
            #[cfg(windows)]
            adapter_name: name.into(),
        }
    }

    #[test]
    fn loopback_goes_by_its_addresses_and_not_by_its_name() {
        let all = [interface("lo0", "127.0.0.1"), interface("lo0", "10.1.1.1"), interface("lo1", "10.0.0.1")];
        assert_eq!(all.each_ref().map(|one| is_loopback(one, &all)), [true, true, false]);
        for (text, loopback) in
            [("lo", true), ("lo0", true), ("127.0.0.1", true), ("lo1", false), ("10.0.0.1", false)]
        {
            assert_eq!(Choice::from(text).is_loopback(&all), loopback, "{text}");
            assert_eq!(Choice::from(text).to_string(), text);
        }
        assert!(!Choice::are_loopback(&[], &all), "no choice is every interface");
        assert!(!Choice::are_loopback(&["lo".into(), "lo1".into()], &all));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_says_whether_a_name_exists() {
        assert_eq!(exists("lo"), Some(true));
        assert_eq!(exists("nosuch0"), Some(false));
    }
}
