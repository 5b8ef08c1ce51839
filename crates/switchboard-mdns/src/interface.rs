//! Which interfaces a registry uses: what its user chose of those that mDNS can use.

use std::net::IpAddr;

use if_addrs::{IfAddr, Interface};
use mdns_sd::{IfKind, IfPredicate};
use switchboard_net::interface::{self, Choice};
use switchboard_net::{mdns, reachable};

use crate::config::{IpVersion, MdnsBuilder};

/// Which interfaces, and which of their addresses, a registry uses.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    choices: Vec<Choice>,
    ip: IpVersion,
}

/// How far a registry can be heard, and hear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// Nowhere: there is no interface.
    Nowhere,
    /// This machine, though more is wanted: loopback is all there is.
    Machine,
    /// All that is wanted.
    #[default]
    Links,
}

impl Selection {
    pub(crate) fn new(config: &MdnsBuilder) -> Self {
        Self { choices: config.interfaces.clone(), ip: config.ip }
    }

    fn wants(&self, interface: &Interface) -> bool {
        let version = match self.ip {
            IpVersion::V4 => interface.ip().is_ipv4(),
            IpVersion::V6 => interface.ip().is_ipv6(),
            IpVersion::Both => true,
        };
        version && (self.choices.is_empty() || self.choices.iter().any(|choice| choice.matches(interface)))
    }

    fn includes(&self, interface: &Interface) -> bool {
        self.wants(interface) && mdns::unusable(interface).is_none()
    }

    /// For mdns-sd, which asks it again whenever interfaces change.
    pub(crate) fn kind(&self) -> IfKind {
        let selection = self.clone();
        IfKind::Predicate(IfPredicate::new(move |interface| selection.includes(interface)))
    }

    /// The networks in use now.
    pub(crate) fn links(&self) -> Links {
        let up = interface::up();
        let others = up.iter().any(|interface| self.wants(interface) && mdns::is_link(interface, &up));
        let confined = Choice::are_loopback(&self.choices, &up);
        let links: Vec<Interface> = up.into_iter().filter(|interface| self.includes(interface)).collect();
        let reach = match (links.is_empty(), others || confined) {
            (true, _) => Reach::Nowhere,
            (false, false) => Reach::Machine,
            (false, true) => Reach::Links,
        };
        Links { used: links, reach, others }
    }

    /// Tells in the log which interfaces mDNS leaves out, and why.
    pub(crate) fn log_unusable(&self) {
        for interface in interface::up().iter().filter(|interface| self.wants(interface)) {
            if let Some(why) = mdns::unusable(interface) {
                tracing::debug!(interface = interface.name, address = %interface.ip(), %why, "left out");
            }
        }
    }
}

/// The interfaces in use at one moment.
pub(crate) struct Links {
    used: Vec<Interface>,
    pub(crate) reach: Reach,
    /// Whether there is another than loopback.
    pub(crate) others: bool,
}

impl Links {
    /// Whether `ip` belongs to the network of one of them, so that it can be announced there.
    pub(crate) fn contain(&self, ip: IpAddr) -> bool {
        self.used.iter().any(|interface| contains(interface, ip))
    }

    /// One address of each interface for each IP version, of IPv6 the link-local one where there is one.
    pub(crate) fn one_per_family(self) -> impl Iterator<Item = Interface> {
        let mut links = self.used;
        let family =
            |interface: &Interface| (interface.index, interface.name.clone(), interface.ip().is_ipv6());
        links.sort_by_key(|interface| (family(interface), !interface.is_link_local(), interface.ip()));
        links.dedup_by_key(|interface| family(interface));
        links.into_iter()
    }

    /// The address at which others on them reach this machine.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        reachable::address_among(&self.used)
    }
}

/// Whether `ip` belongs to the network of `interface`.
///
/// By the length of its prefix: the netmask is zero where Windows lists no prefix that the address belongs to.
pub(crate) fn contains(interface: &Interface, ip: IpAddr) -> bool {
    match (&interface.addr, ip) {
        (IfAddr::V4(own), IpAddr::V4(ip)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(own.prefixlen.min(32))).unwrap_or(0);
            u32::from(own.ip) & mask == u32::from(ip) & mask
        }
        (IfAddr::V6(own), IpAddr::V6(ip)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(own.prefixlen.min(128))).unwrap_or(0);
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
        assert_eq!(links.reach, Reach::Links, "it is all that is wanted");
        assert!(!links.others);
        assert_eq!(links.local_ip(), Some([127, 0, 0, 1].into()));
        assert!(links.contain([127, 9, 9, 9].into()));
        assert!(!links.contain([10, 0, 0, 1].into()));
        assert!(!links.contain(std::net::Ipv6Addr::LOCALHOST.into()));
    }

    #[test]
    fn a_network_goes_by_the_length_of_its_prefix() {
        use if_addrs::{IfOperStatus, Ifv4Addr, Ifv6Addr};
        use std::net::{Ipv4Addr, Ipv6Addr};
        // As on Windows where no prefix is listed for it.
        let (v4, v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        let interface = |addr| Interface {
            name: "eth0".into(),
            addr,
            index: None,
            oper_status: IfOperStatus::Up,
            is_p2p: false,
            #[cfg(windows)]
            adapter_name: "eth0".into(),
        };
        let on_v4 = |prefixlen| {
            let ip = Ipv4Addr::new(10, 0, 0, 1);
            interface(IfAddr::V4(Ifv4Addr { ip, netmask: v4, prefixlen, broadcast: None }))
        };
        let on_v6 = |prefixlen| {
            let ip = "fd00::1".parse().unwrap();
            interface(IfAddr::V6(Ifv6Addr { ip, netmask: v6, prefixlen, broadcast: None }))
        };
        for (link, ip, expected) in [
            (on_v4(24), "10.0.0.9", true),
            (on_v4(24), "10.0.1.9", false),
            (on_v4(32), "10.0.0.1", true),
            (on_v4(32), "10.0.0.0", false),
            (on_v4(0), "192.0.2.1", true),
            (on_v6(64), "fd00::9", true),
            (on_v6(64), "fd00:0:0:1::9", false),
            (on_v6(128), "fd00::2", false),
            (on_v6(0), "2001:db8::1", true),
            (on_v6(0), "10.0.0.1", false),
        ] {
            assert_eq!(contains(&link, ip.parse().unwrap()), expected, "{ip} of {link:?}");
        }
    }

    #[test]
    fn an_ip_version_limits_the_links() {
        let links = Selection::new(&MdnsBuilder::default().ip(IpVersion::V6)).links();
        assert!(!links.contain([127, 0, 0, 1].into()));
    }
}
