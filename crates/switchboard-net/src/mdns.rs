//! Which interfaces mDNS can use.

use std::fmt;

use if_addrs::Interface;

use crate::interface::is_loopback;

/// Why mDNS cannot use an interface, or one address of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unusable {
    /// A point-to-point link: `WireGuard`, tun, utun, PPP.
    PointToPoint,
    /// Apple's own peer-to-peer links, `awdl` and `llw`.
    ApplePeerToPeer,
    /// Loopback's IPv6, which has no multicast.
    LoopbackV6,
}

/// Why mDNS cannot use `interface` at this address; `None` if it can.
pub fn unusable(interface: &Interface) -> Option<Unusable> {
    let apple = ["awdl", "llw"].iter().any(|prefix| interface.name.starts_with(prefix));
    if interface.is_p2p() {
        Some(Unusable::PointToPoint)
    } else if apple {
        Some(Unusable::ApplePeerToPeer)
    } else if interface.is_loopback() && interface.ip().is_ipv6() {
        Some(Unusable::LoopbackV6)
    } else {
        None
    }
}

/// Whether mDNS reaches other machines by `interface`: it can use it, and it is not loopback. `up` are all that are up.
pub fn is_link(interface: &Interface, up: &[Interface]) -> bool {
    unusable(interface).is_none() && !is_loopback(interface, up)
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PointToPoint => "is a point-to-point link, such as a VPN's, which mDNS does not work on",
            Self::ApplePeerToPeer => "is one of Apple's own peer-to-peer links",
            Self::LoopbackV6 => "is loopback, which has no IPv6 multicast",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::tests::interface;

    #[test]
    fn tunnels_and_apples_links_are_no_use() {
        let tunnel = Interface { is_p2p: true, ..interface("wg0", "10.9.0.1") };
        for (interface, why) in [
            (tunnel, Some(Unusable::PointToPoint)),
            (interface("awdl0", "fe80::1"), Some(Unusable::ApplePeerToPeer)),
            (interface("llw0", "fe80::1"), Some(Unusable::ApplePeerToPeer)),
            (interface("lo0", "::1"), Some(Unusable::LoopbackV6)),
            (interface("lo0", "127.0.0.1"), None),
            (interface("en0", "fe80::1"), None),
        ] {
            assert_eq!(unusable(&interface), why, "{interface:?}");
        }
    }

    #[test]
    fn others_are_reached_by_what_is_neither_loopback_nor_useless() {
        let tunnel = Interface { is_p2p: true, ..interface("wg0", "10.9.0.1") };
        let up = [
            interface("lo", "127.0.0.1"),
            interface("lo", "192.0.2.1"),
            tunnel,
            interface("eth0", "10.0.0.1"),
        ];
        assert_eq!(up.each_ref().map(|one| is_link(one, &up)), [false, false, false, true]);
    }
}
