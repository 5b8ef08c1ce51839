//! Which address of this machine others can reach.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use if_addrs::Interface;
use socket2::{Domain, Socket, Type};

use crate::interface;

/// An address that stands for any far machine: of the networks kept for documentation (RFC 5737, RFC 3849), so that a route
/// to it is the default route.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Any port: nothing is sent to it.
const DISCARD: u16 = 9;

/// The versions of IP that a wildcard address takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say it")]
pub enum Versions {
    V4,
    V6,
    Both,
}

impl Versions {
    /// What a listener on this wildcard takes: `0.0.0.0` IPv4 and nothing else; `[::]` IPv6, and IPv4 too where that is the
    /// system's default (`net.ipv6.bindv6only` on Linux, `IPV6_V6ONLY` elsewhere; Windows and OpenBSD say no).
    pub fn of_wildcard(wildcard: IpAddr) -> Self {
        if wildcard.is_ipv4() {
            return Self::V4;
        }
        // A socket that has been told nothing has the system's default.
        let only_v6 = Socket::new(Domain::IPV6, Type::STREAM, None).and_then(|socket| socket.only_v6());
        if only_v6.unwrap_or(false) { Self::V6 } else { Self::Both }
    }

    /// Whether `ip` is of them.
    pub fn include(self, ip: IpAddr) -> bool {
        match self {
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
            Self::Both => true,
        }
    }
}

/// The address that this machine speaks from to `peer`; `None` without a route. Sends nothing: connecting a UDP socket only
/// asks the routing table.
pub fn towards(peer: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(peer).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

/// The address at which others reach a listener on every address of the versions of IP in `versions`. The first there is:
///
/// 1. `preferred`: what the registry knows of how it is reached;
/// 2. the address of the interface that the default route leaves by, IPv4 before IPv6;
/// 3. of interfaces that are up, a private address before a public one, IPv4 before IPv6, those of bridges inside this machine
///    (Docker's, libvirt's) after all others;
/// 4. loopback.
///
/// Link-local addresses are of no use to a client that does not know the link, so only a registry may prefer one. What is passed over
/// is in the log, at debug level.
///
/// `None` when there is none at all.
pub fn address(versions: Versions, preferred: Option<IpAddr>) -> Option<IpAddr> {
    choose(versions, preferred, routed(), &interface::up(), is_bridge)
}

/// The same among `links` alone, such as those a registry uses. A link-local address of IPv4 is one of last resort here:
/// who is on such a link reaches it.
pub fn address_among(links: &[Interface]) -> Option<IpAddr> {
    let has = |ip: &IpAddr| links.iter().any(|link| link.ip() == *ip);
    routed().find(has).or_else(|| best_of(links, is_bridge))
}

/// The addresses of the interfaces that default routes leave by, IPv4 first.
fn routed() -> impl Iterator<Item = IpAddr> {
    ANYWHERE.into_iter().filter_map(|far| towards(SocketAddr::new(far, DISCARD)))
}

fn best_of(links: &[Interface], is_bridge: impl Fn(&str) -> bool) -> Option<IpAddr> {
    let usable = links.iter().filter(|link| link.ip().is_ipv4() || !is_link_local(link.ip()));
    usable.min_by_key(|link| Rank::of(link, &is_bridge)).map(Interface::ip)
}

fn choose(
    versions: Versions,
    preferred: Option<IpAddr>,
    routed: impl Iterator<Item = IpAddr>,
    up: &[Interface],
    is_bridge: impl Fn(&str) -> bool,
) -> Option<IpAddr> {
    let takes = |ip: &IpAddr| versions.include(*ip);
    let usable = |ip: &IpAddr| takes(ip) && !is_link_local(*ip);
    let preferred = preferred.filter(takes).map(|ip| (ip, Why::Registry));
    let mut routed = routed.filter(|ip| usable(ip) && !ip.is_loopback()).map(|ip| (ip, Why::DefaultRoute));
    let by_route = preferred.or_else(|| routed.next());
    let mut ranked: Vec<(Rank, &Interface)> =
        up.iter().map(|interface| (Rank::of(interface, &is_bridge), interface)).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let by_kind =
        || ranked.iter().map(|(_, interface)| interface.ip()).find(usable).map(|ip| (ip, Why::Kind));
    let (chosen, why) = by_route.or_else(by_kind)?;
    for (rank, interface) in ranked.iter().filter(|(_, interface)| interface.ip() != chosen) {
        let reason = match rank.kind {
            _ if !versions.include(interface.ip()) => Why::OtherVersion,
            Kind::LinkLocal => Why::LinkLocal,
            Kind::Loopback => Why::Loopback,
            Kind::Routed | Kind::Bridge => why,
        };
        tracing::debug!(interface = interface.name, address = %interface.ip(), %chosen, %reason, "passed over");
    }
    Some(chosen)
}

/// Why an address was passed over.
#[derive(Clone, Copy)]
enum Why {
    OtherVersion,
    LinkLocal,
    Loopback,
    Registry,
    DefaultRoute,
    Kind,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherVersion => "the listener does not take this version of IP",
            Self::LinkLocal => "it is of use on its own link only",
            Self::Loopback => "it is of use on this machine only",
            Self::Registry => "the registry is reached from the other",
            Self::DefaultRoute => "the default route leaves by the other",
            Self::Kind => "there is no default route, and the other comes first by kind",
        })
    }
}

/// The order among interfaces when no route decides: the least is best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    kind: Kind,
    public: bool,
    v6: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Routed,
    Bridge,
    LinkLocal,
    Loopback,
}

impl Rank {
    fn of(interface: &Interface, is_bridge: impl Fn(&str) -> bool) -> Self {
        let ip = interface.ip();
        let kind = if ip.is_loopback() {
            Kind::Loopback
        } else if is_link_local(ip) {
            Kind::LinkLocal
        } else if is_bridge(&interface.name) {
            Kind::Bridge
        } else {
            Kind::Routed
        };
        let private = match ip {
            IpAddr::V4(v4) => v4.is_private(),
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        Self { kind, public: !private, v6: ip.is_ipv6() }
    }
}

/// Whether an interface is a bridge inside this machine, as Linux says.
fn is_bridge(name: &str) -> bool {
    cfg!(target_os = "linux") && std::path::Path::new("/sys/class/net").join(name).join("bridge").exists()
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::tests::interface;

    const CLOUD: [(&str, &str); 4] =
        [("lo", "127.0.0.1"), ("docker0", "172.17.0.1"), ("eth0", "203.0.113.7"), ("eth0", "2001:db8:1::7")];

    fn chosen(
        versions: Versions,
        preferred: Option<&str>,
        routed: &[&str],
        up: &[(&str, &str)],
    ) -> Option<String> {
        let up: Vec<_> = up.iter().map(|(name, ip)| interface(name, ip)).collect();
        let routed = routed.iter().map(|ip| ip.parse().unwrap());
        let preferred = preferred.map(|ip| ip.parse().unwrap());
        choose(versions, preferred, routed, &up, |name| name == "docker0").map(|ip| ip.to_string())
    }

    #[test]
    fn the_registry_then_the_default_route_then_the_kind() {
        let both = |preferred, routed: &[&str]| chosen(Versions::Both, preferred, routed, &CLOUD).unwrap();
        assert_eq!(both(Some("10.8.0.2"), &["203.0.113.7"]), "10.8.0.2");
        assert_eq!(both(None, &["203.0.113.7", "2001:db8:1::7"]), "203.0.113.7");
        assert_eq!(both(None, &[]), "203.0.113.7", "a bridge comes last, though private");
        assert_eq!(both(None, &["127.0.0.1"]), "203.0.113.7", "a route to nowhere is none");
        assert_eq!(
            both(Some("127.0.0.1"), &["203.0.113.7"]),
            "127.0.0.1",
            "a registry of this machine alone"
        );
    }

    #[test]
    fn what_the_listener_does_not_take_is_passed_over() {
        let of = |versions, routed: &[&str]| chosen(versions, Some("10.8.0.2"), routed, &CLOUD);
        assert_eq!(of(Versions::V6, &["203.0.113.7"]).as_deref(), Some("2001:db8:1::7"));
        assert_eq!(of(Versions::V4, &["203.0.113.7"]).as_deref(), Some("10.8.0.2"));
        assert_eq!(of(Versions::V6, &["fe80::1"]).as_deref(), Some("2001:db8:1::7"));
        assert_eq!(chosen(Versions::V6, None, &[], &[("lo", "127.0.0.1")]), None);
        assert_eq!(Versions::of_wildcard(Ipv4Addr::UNSPECIFIED.into()), Versions::V4);
    }

    #[test]
    fn without_a_route_private_then_public_then_loopback() {
        let of = |up: &[&str]| {
            let up: Vec<_> = up.iter().map(|ip| ("eth0", *ip)).collect();
            chosen(Versions::Both, None, &[], &up)
        };
        assert_eq!(of(&["127.0.0.1", "8.8.8.8", "fd00::1", "10.0.0.7"]).as_deref(), Some("10.0.0.7"));
        assert_eq!(of(&["127.0.0.1", "8.8.8.8", "2600::1"]).as_deref(), Some("8.8.8.8"));
        assert_eq!(of(&["::1", "127.0.0.1", "169.254.3.3", "fe80::1"]).as_deref(), Some("127.0.0.1"));
        assert_eq!(of(&["fe80::1"]), None);
        assert_eq!(
            chosen(Versions::Both, None, &[], &[("docker0", "172.17.0.1"), ("lo", "127.0.0.1")]).as_deref(),
            Some("172.17.0.1")
        );
    }

    #[test]
    fn among_links_that_of_a_link_without_dhcp_is_better_than_loopback() {
        let best = |links: &[(&str, &str)]| {
            let links: Vec<_> = links.iter().map(|(name, ip)| interface(name, ip)).collect();
            best_of(&links, |name| name == "docker0").map(|ip| ip.to_string())
        };
        assert_eq!(best(&CLOUD).as_deref(), Some("203.0.113.7"));
        let direct = [("lo", "127.0.0.1"), ("eth0", "fe80::1"), ("eth0", "169.254.3.3")];
        assert_eq!(best(&direct).as_deref(), Some("169.254.3.3"));
        assert_eq!(best(&direct[..2]).as_deref(), Some("127.0.0.1"));
        assert_eq!(best(&direct[1..2]), None);
    }

    #[test]
    fn a_route_within_the_machine_is_loopbacks() {
        assert_eq!(towards("127.0.0.1:9".parse().unwrap()), Some(Ipv4Addr::LOCALHOST.into()));
    }
}
