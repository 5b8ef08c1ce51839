//! Multicast DNS: interfaces, the port, and whether a datagram comes back.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use switchboard::mdns::MdnsRegistry;
use switchboard::{Registry, RegistryUrl};
use switchboard_net::buffer;
use switchboard_net::interface::{self, Choice};
use switchboard_net::mdns::{self, Unusable};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{Finding, advice, port};
use crate::session::ALONE;

/// RFC 6762, section 3.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
const MDNS_PORT: u16 = 5353;

/// What the registry asks for when its URL does not say.
const RECEIVE_BUFFER: usize = 4 << 20;

/// On one machine a datagram takes microseconds.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(1);

/// An interface that is up and used by the registry.
struct Interface {
    name: String,
    index: Option<u32>,
    addresses: Vec<IpAddr>,
    loopback: bool,
    multicast: bool,
    /// Why the registry does not use it.
    unusable: Option<Unusable>,
    /// Whether other machines are reached by it.
    link: bool,
}

impl Interface {
    fn is_tried(&self) -> bool {
        self.unusable.is_none() && (self.multicast || self.loopback)
    }

    /// One for each version of IP; loopback carries no multicast of IPv6.
    fn paths(&self) -> Vec<Path> {
        let v4 = self.addresses.iter().find_map(|ip| match ip {
            IpAddr::V4(own) => Some(Path::V4(*own)),
            IpAddr::V6(_) => None,
        });
        let v6 = self.addresses.iter().find_map(|ip| match ip {
            IpAddr::V6(own) if !self.loopback => Some(Path::V6(*own, self.index?)),
            _ => None,
        });
        v4.into_iter().chain(v6).collect()
    }
}

pub(crate) async fn examine(url: &RegistryUrl) -> Vec<Finding> {
    let mut params = url.params("mdns");
    let chosen = params.take_all("interface");
    // A mistake in the URL is told by the registry itself.
    let port = params.take::<u16>("port").ok().flatten().unwrap_or(MDNS_PORT);
    let interfaces = match interfaces(&chosen) {
        Ok(interfaces) => interfaces,
        Err(error) => {
            return vec![Finding::problem(
                "interfaces",
                format!("the system does not list them: {error}"),
                format!("look at `{}`, and at what confines this process", advice::LIST_INTERFACES),
            )];
        }
    };
    let mut findings = examine_interfaces(&interfaces, !chosen.is_empty());
    let held = examine_port(port);
    let listening = !held.is_problem();
    findings.push(held);
    if listening {
        for interface in interfaces.iter().filter(|interface| interface.is_tried()) {
            findings.extend(examine_paths(interface, port).await);
        }
        findings.extend(examine_buffer(url).await);
    }
    findings
}

/// What the system grants the registry; where it does not say, there is nothing to advise.
async fn examine_buffer(url: &RegistryUrl) -> Option<Finding> {
    let wanted = url.params("mdns").take("receive_buffer").ok().flatten().unwrap_or(RECEIVE_BUFFER);
    // A mistake in the URL is told by the registry itself.
    let registry = MdnsRegistry::from_url(url).await.ok()?;
    let granted = registry.receive_buffer();
    // Nothing is registered that its end could leave behind.
    let _ = registry.close().await;
    let granted = granted?;
    if granted >= wanted {
        return Some(Finding::ok("buffer", format!("{granted} bytes of answers wait while others are read")));
    }
    Some(Finding::warning(
        "buffer",
        format!("{granted} of {wanted} bytes granted: of thousands of instances some are heard late"),
        buffer::how_to_enlarge(wanted),
    ))
}

fn interfaces(chosen: &[String]) -> io::Result<Vec<Interface>> {
    let chosen: Vec<Choice> = chosen.iter().map(|name| name.as_str().into()).collect();
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let up: Vec<_> = interface::all()?.into_iter().filter(switchboard_net::Interface::is_oper_up).collect();
    for one in &up {
        if !chosen.is_empty() && !chosen.iter().any(|choice| choice.matches(one)) {
            continue;
        }
        let loopback = interface::is_loopback(one, &up);
        // Without an address of its own version of IP an interface carries nothing of it.
        let known = found.entry(one.name.clone()).or_insert_with(|| Interface {
            multicast: has_multicast(&one.name),
            name: one.name.clone(),
            index: one.index,
            addresses: Vec::new(),
            loopback,
            // One version of IP on loopback is none of the whole interface.
            unusable: mdns::unusable(one).filter(|_| !loopback),
            link: false,
        });
        known.link |= mdns::is_link(one, &up);
        if one.ip().is_ipv4() {
            known.addresses.insert(0, one.ip());
        } else {
            known.addresses.push(one.ip());
        }
    }
    Ok(found.into_values().collect())
}

/// The flag `MULTICAST` of `ip link`; where the system does not say, the self-test will.
fn has_multicast(name: &str) -> bool {
    const IFF_MULTICAST: u32 = 0x1000;
    let Ok(flags) = std::fs::read_to_string(format!("/sys/class/net/{name}/flags")) else { return true };
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16);
    flags.map_or(true, |flags| flags & IFF_MULTICAST != 0)
}

fn examine_interfaces(interfaces: &[Interface], chosen: bool) -> Vec<Finding> {
    if interfaces.is_empty() {
        let finding = if chosen {
            "none of the interfaces in the registry's URL is up with an address"
        } else {
            "no network interface is up with an address"
        };
        let advice = format!("see `{}`; bring one up", advice::LIST_INTERFACES);
        return vec![Finding::problem("interfaces", finding, advice)];
    }
    let mut findings = Vec::new();
    for Interface { name, addresses, loopback, multicast, unusable, .. } in interfaces {
        let at = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if let Some(why) = unusable {
            let told = format!("{name} ({at}): left out, since it {why}");
            findings.push(if chosen {
                Finding::problem("interface", told, "name another interface, or use consul: there")
            } else {
                Finding::ok("interface", told)
            });
        } else if *loopback {
            findings.push(Finding::ok("interface", format!("{name} ({at}): loopback, within this machine")));
        } else if *multicast {
            findings.push(Finding::ok("interface", format!("{name} ({at}): up, with multicast")));
        } else {
            findings.push(Finding::problem(
                "interface",
                format!("{name} ({at}): up, but multicast is off"),
                format!("turn it on: ip link set dev {name} multicast on; tunnels often have none, use consul: there"),
            ));
        }
    }
    if !chosen && !interfaces.iter().any(|interface| interface.link) {
        findings.push(Finding::problem(
            "interfaces",
            ALONE,
            "connect a network; a container needs the host's network for mDNS, or consul:; for this machine alone say mdns:?interface=lo",
        ));
    }
    findings
}

fn examine_port(port: u16) -> Finding {
    // First as nobody else could beside us, then as the registry does.
    if bind(Domain::IPV4, port, false).is_ok() {
        return Finding::ok("port", format!("UDP port {port} is free"));
    }
    match bind(Domain::IPV4, port, true) {
        Ok(_) => {
            let others = port::holders(port).map(|holders| format!(" with {holders}")).unwrap_or_default();
            Finding::ok("port", format!("UDP port {port} is shared{others}"))
        }
        Err(error) if switchboard_net::port::is_taken(&error) => {
            let holders = port::holders(port).unwrap_or_else(|| "another program".into());
            Finding::problem(
                "port",
                format!("UDP port {port} is taken exclusively by {holders}"),
                advice::SHARE_PORT,
            )
        }
        Err(error) => Finding::problem(
            "port",
            format!("cannot listen on UDP port {port}: {error}"),
            "see what confines this process: a container, a security module, a limit on open files",
        ),
    }
}

/// `shared` is how the registry listens.
fn bind(domain: Domain, port: u16, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if shared {
        switchboard_net::port::share(&socket)?;
    }
    let any: IpAddr = if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    Ok(socket)
}

/// Sends a datagram from one socket to another the way of all multicast DNS, over each version of IP there is.
async fn examine_paths(interface: &Interface, port: u16) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in interface.paths() {
        // Whoever hears the one does not need the other.
        let needed = !findings.iter().any(Finding::is_ok);
        findings.push(examine_path(&interface.name, path, port, needed).await);
    }
    findings
}

async fn examine_path(name: &str, path: Path, port: u16, needed: bool) -> Finding {
    // Without the scope that the interface's name tells too.
    let to = SocketAddr::new(path.group(port).ip(), port);
    let way = format!("from {} to {to} on {name}", path.own());
    let (finding, advice) = match round_trip(path, port).await {
        Ok(true) => return Finding::ok("self-test", format!("a datagram {way} arrives")),
        Ok(false) => (
            format!("a datagram {way} is sent and does not arrive"),
            format!("a firewall drops it; {}", advice::let_in(port)),
        ),
        Err(error) => {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => format!("a firewall forbids it; let UDP port {port} out"),
                io::ErrorKind::AddrNotAvailable => "an address that has just come is tested for others that have it; try again in a few seconds".into(),
                _ => advice::add_route(to.ip(), name),
            };
            (format!("a datagram {way} cannot be sent: {error}"), advice)
        }
    };
    if needed {
        Finding::problem("self-test", finding, advice)
    } else {
        Finding::warning("self-test", finding, advice)
    }
}

/// Where a datagram goes from, and over which version of IP.
#[derive(Clone, Copy)]
enum Path {
    V4(Ipv4Addr),
    /// With the index of the interface.
    V6(Ipv6Addr, u32),
}

impl Path {
    fn own(self) -> IpAddr {
        match self {
            Self::V4(own) => own.into(),
            Self::V6(own, _) => own.into(),
        }
    }

    fn group(self, port: u16) -> SocketAddr {
        match self {
            Self::V4(_) => (GROUP_V4, port).into(),
            Self::V6(_, index) => SocketAddrV6::new(GROUP_V6, port, 0, index).into(),
        }
    }

    fn receiver(self, port: u16) -> io::Result<Socket> {
        match self {
            Self::V4(own) => {
                let socket = bind(Domain::IPV4, port, true)?;
                socket.join_multicast_v4(&GROUP_V4, &own)?;
                Ok(socket)
            }
            Self::V6(_, index) => {
                let socket = bind(Domain::IPV6, port, true)?;
                socket.join_multicast_v6(&GROUP_V6, index)?;
                Ok(socket)
            }
        }
    }

    fn sender(self) -> io::Result<Socket> {
        match self {
            Self::V4(own) => {
                let socket = bind(Domain::IPV4, 0, false)?;
                socket.set_multicast_if_v4(&own)?;
                socket.set_multicast_loop_v4(true)?;
                socket.set_multicast_ttl_v4(255)?;
                Ok(socket)
            }
            Self::V6(_, index) => {
                let socket = bind(Domain::IPV6, 0, false)?;
                socket.set_multicast_if_v6(index)?;
                socket.set_multicast_loop_v6(true)?;
                socket.set_multicast_hops_v6(255)?;
                Ok(socket)
            }
        }
    }
}

async fn round_trip(path: Path, port: u16) -> io::Result<bool> {
    let receiver = UdpSocket::from_std(path.receiver(port)?.into())?;
    let sender = UdpSocket::from_std(path.sender()?.into())?;
    let question = question();
    sender.send_to(&question, path.group(port)).await?;
    let mut buffer = [0; 9000];
    let arrives = async {
        loop {
            let (length, _) = receiver.recv_from(&mut buffer).await?;
            if buffer[..length] == question[..] {
                return Ok(());
            }
        }
    };
    timeout(COMES_BACK_WITHIN, arrives)
        .await
        .map_or(Ok(false), |arrived: io::Result<()>| arrived.map(|()| true))
}

/// A question for a name that nobody has, so that nobody answers (RFC 1035 §4.1).
fn question() -> Vec<u8> {
    let label = format!("switchboard-doctor-{:016x}", fastrand::u64(..));
    let mut packet = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [label.as_str(), "local"] {
        // Labels are at most 63 bytes; these are constants and 35.
        packet.push(u8::try_from(label.len()).unwrap_or(63));
        packet.extend_from_slice(label.as_bytes());
    }
    // The root, type PTR, class IN.
    packet.extend_from_slice(&[0, 0, 12, 0, 1]);
    packet
}
