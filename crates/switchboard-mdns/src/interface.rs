//! The machine's network interfaces, and which of them are in use.

use std::fmt;
use std::net::IpAddr;

use if_addrs::{IfAddr, Interface};
use mdns_sd::{IfKind, IfPredicate};

use crate::config::{InterfaceChoice, IpVersion, MdnsBuilder};

/// Every interface that is up, once per address. Empty when the system does not tell.
pub(crate) fn all() -> Vec<Interface> {
    let listed =
        if_addrs::get_if_addrs().inspect_err(|error| tracing::warn!(%error, "cannot list the interfaces"));
    listed.unwrap_or_default().into_iter().filter(Interface::is_oper_up).collect()
}

impl InterfaceChoice {
    pub(crate) fn matches(&self, interface: &Interface) -> bool {
        match self {
            Self::Loopback => interface.is_loopback(),
            Self::Address(ip) => interface.ip() == *ip,
            Self::Name(name) => interface.name == *name,
        }
    }
}

impl fmt::Display for InterfaceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("lo"),
            Self::Address(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Which interfaces, and which of their addresses, a registry uses.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    choices: Vec<InterfaceChoice>,
    ip: IpVersion,
}

impl Selection {
    pub(crate) fn new(config: &MdnsBuilder) -> Self {
        Self { choices: config.interfaces.clone(), ip: config.ip }
    }

    fn includes(&self, interface: &Interface) -> bool {
        let version = match self.ip {
            IpVersion::V4 => interface.ip().is_ipv4(),
            IpVersion::V6 => interface.ip().is_ipv6(),
            IpVersion::Both => true,
        };
        // IPv6 has no multicast on loopback, at least not on Linux.
        // mdns-sd leaves point-to-point links out.
        let silent = interface.is_p2p() || interface.is_loopback() && interface.ip().is_ipv6();
        let chosen = self.choices.is_empty() || self.choices.iter().any(|choice| choice.matches(interface));
        version && !silent && chosen
    }

    /// For mdns-sd, which asks it again whenever interfaces change.
    pub(crate) fn kind(&self) -> IfKind {
        let selection = self.clone();
        IfKind::Predicate(IfPredicate::new(move |interface| selection.includes(interface)))
    }

    /// The networks in use now.
    pub(crate) fn links(&self) -> Links {
        Links(all().into_iter().filter(|interface| self.includes(interface)).collect())
    }
}

/// The interfaces in use at one moment.
pub(crate) struct Links(Vec<Interface>);

impl Links {
    /// Whether `ip` belongs to the network of one of them, so that it can be announced there.
    pub(crate) fn contain(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|interface| contains(interface, ip))
    }

    /// One address of each interface for each IP version, of IPv6 the link-local one where there is one.
    pub(crate) fn one_per_family(mut self) -> impl Iterator<Item = Interface> {
        let family =
            |interface: &Interface| (interface.index, interface.name.clone(), interface.ip().is_ipv6());
        self.0.sort_by_key(|interface| (family(interface), !interface.is_link_local(), interface.ip()));
        self.0.dedup_by_key(|interface| family(interface));
        self.0.into_iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether `ip` belongs to the network of `interface`.
pub(crate) fn contains(interface: &Interface, ip: IpAddr) -> bool {
    match (&interface.addr, ip) {
        (IfAddr::V4(own), IpAddr::V4(ip)) => {
            let mask = u32::from(own.netmask);
            u32::from(own.ip) & mask == u32::from(ip) & mask
        }
        (IfAddr::V6(own), IpAddr::V6(ip)) => {
            let mask = u128::from(own.netmask);
            u128::from(own.ip) & mask == u128::from(ip) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_link_of_its_own() {
        let links = Selection::new(&MdnsBuilder::default().interface("lo")).links();
        assert!(!links.is_empty());
        assert!(links.contain([127, 9, 9, 9].into()));
        assert!(!links.contain([10, 0, 0, 1].into()));
        assert!(!links.contain(std::net::Ipv6Addr::LOCALHOST.into()));
    }

    #[test]
    fn an_ip_version_limits_the_links() {
        let links = Selection::new(&MdnsBuilder::default().ip(IpVersion::V6)).links();
        assert!(!links.contain([127, 0, 0, 1].into()));
    }
}
