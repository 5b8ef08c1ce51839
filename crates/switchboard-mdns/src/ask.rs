//! Questions of our own, which are answered by unicast.
//!
//! A responder that has just multicast a record may not do so again within a second (RFC 6762 §6), so to one who has only
//! now begun to listen it may say nothing. A question from a port that is not mDNS's is answered by unicast, to which
//! that limit does not apply, and at once (§6.7). Every responder must do so, and each says all it has, except that some,
//! such as Avahi, keep to the 512 bytes of plain DNS. Such a host is asked once more by itself, from mDNS's own port and with
//! the QU bit (§5.4, §5.5), where the limit is not that of plain DNS.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use if_addrs::Interface;
use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, TYPE};
use socket2::{Domain, Protocol, Socket, Type};

use crate::answers::Answers;
use crate::buffer;
use crate::config::MdnsBuilder;
use crate::interface::Links;
use crate::record::Found;

/// RFC 6762 §3.
const GROUPS: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(224, 0, 0, 251), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb));

/// RFC 6762 §17: no message is longer.
const MAX_MESSAGE: usize = 9000;

/// When nothing has come for this long, what an answer has left out is not on its way.
const PAUSE: Duration = Duration::from_millis(20);

/// How long to look for answers. A daemon asks by multicast twice in that time.
const ASK_FOR: Duration = Duration::from_secs(2);

/// How often everybody is asked at most, and how long lies between.
const TIMES: (u32, Duration) = (3, Duration::from_millis(200));

/// The most hosts that are asked by themselves.
const MAX_HOSTS: usize = 256;

/// The most datagrams taken in at one go, so that nothing else waits for long.
const MAX_AT_ONCE: usize = 500;

/// A type that is being asked for.
pub(crate) struct Ask {
    domain: String,
    port: u16,
    receive_buffer: usize,
    /// Answers to anything else are none of ours.
    id: u16,
    lines: Vec<Line>,
    answers: Answers,
    begun: Instant,
    /// When everybody was asked last, and how often so far.
    asked: (Instant, u32),
    /// When the last answer came.
    last: Instant,
    /// The hosts that were asked by themselves.
    alone: HashSet<IpAddr>,
}

/// One network, and the sockets on it.
struct Line {
    link: Interface,
    socket: UdpSocket,
    /// On mDNS's port, and only there for a host that has more to say. While it is, what others on this machine ask for by
    /// unicast comes here.
    alone: Option<UdpSocket>,
}

impl Ask {
    /// Asks on each of `links` who is of the type `domain`.
    pub(crate) fn begin(links: Links, config: &MdnsBuilder, domain: String, now: Instant) -> Self {
        let open = |link: Interface| {
            let socket = socket(&link, 0, config.receive_buffer);
            let socket = socket.inspect_err(|error| tracing::debug!(%error, link = link.name, "cannot ask"));
            Some(Line { socket: socket.ok()?, link, alone: None })
        };
        let mut ask = Self {
            answers: Answers::new(&domain),
            domain,
            port: config.port,
            receive_buffer: config.receive_buffer,
            id: fastrand::u16(1..),
            lines: links.one_per_family().filter_map(open).collect(),
            begun: now,
            asked: (now, 0),
            last: now,
            alone: HashSet::new(),
        };
        ask.everybody(now);
        ask
    }

    /// Whether there is nothing more to wait for.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun) >= ASK_FOR
    }

    /// Asks everybody again, if that was not just now, nor too often.
    pub(crate) fn again(&mut self, now: Instant) {
        let (asked, times) = self.asked;
        if times < TIMES.0 && now.saturating_duration_since(asked.max(self.last)) >= TIMES.1 {
            self.everybody(now);
        }
    }

    /// When somebody was asked last, and whether any host was by itself.
    pub(crate) fn asked(&self) -> (Instant, bool) {
        (self.asked.0, !self.alone.is_empty())
    }

    /// What the answers that have come since the last time announce, and whether there were any. Keeps in `awaited` the hosts
    /// that are asked by themselves and have not answered; what they multicast does not come here.
    pub(crate) fn take(&mut self, now: Instant, awaited: &mut HashMap<IpAddr, bool>) -> (Vec<Found>, bool) {
        let mut buffer = [0; MAX_MESSAGE];
        let mut came = false;
        for line in &self.lines {
            let alone = line.alone.as_ref().map(|socket| (socket, 0));
            for (socket, id) in [(&line.socket, self.id)].into_iter().chain(alone) {
                for _ in 0..MAX_AT_ONCE {
                    // Nothing more for now; or an error of an earlier sending, which is no loss.
                    let Ok((len, from)) = socket.recv_from(&mut buffer) else { break };
                    if from.port() == self.port && line.has(from.ip()) {
                        let answers = self.answers.read(&buffer[..len], id, from.ip(), line.scope());
                        if answers && id == 0 {
                            awaited.remove(&from.ip());
                        }
                        came |= answers;
                    }
                }
            }
        }
        if came {
            self.last = now;
        } else if now.saturating_duration_since(self.last) >= PAUSE {
            self.ask_those_with_more(now, awaited);
        }
        (self.answers.found(), came)
    }

    /// The full names that answers announce and do not describe.
    pub(crate) fn undescribed(&self) -> impl Iterator<Item = &str> {
        self.answers.undescribed()
    }

    fn everybody(&mut self, now: Instant) {
        self.asked = (now, self.asked.1 + 1);
        for line in &self.lines {
            let to = match line.link.ip() {
                IpAddr::V4(_) => SocketAddr::new(GROUPS.0.into(), self.port),
                IpAddr::V6(_) => SocketAddrV6::new(GROUPS.1, self.port, 0, line.scope()).into(),
            };
            send(&line.socket, &question(&self.domain, self.id, false), to);
        }
    }

    /// An answer that names an instance and does not describe it was cut short.
    fn ask_those_with_more(&mut self, now: Instant, awaited: &mut HashMap<IpAddr, bool>) {
        for host in self.answers.cut_short() {
            if self.alone.len() >= MAX_HOSTS || !self.alone.insert(host) {
                continue;
            }
            self.asked.0 = now;
            awaited.insert(host, false);
            let Some(line) = self.lines.iter_mut().find(|line| line.has(host)) else { continue };
            if line.alone.is_none() {
                match socket(&line.link, self.port, self.receive_buffer) {
                    Ok(socket) => line.alone = Some(socket),
                    Err(error) => tracing::debug!(%error, %host, "cannot ask it for all it has"),
                }
            }
            let to = match host {
                IpAddr::V4(ip) => SocketAddr::new(ip.into(), self.port),
                IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, line.scope()).into(),
            };
            if let Some(socket) = &line.alone {
                send(socket, &question(&self.domain, 0, true), to);
            }
        }
    }
}

impl Line {
    /// RFC 6762 §11: what comes from another network is not of this link.
    fn has(&self, ip: IpAddr) -> bool {
        crate::interface::contains(&self.link, ip)
    }

    fn scope(&self) -> u32 {
        self.link.index.unwrap_or_default()
    }
}

/// A socket of this link's own, on `port` or, for 0, on a free one.
fn socket(link: &Interface, port: u16, receive_buffer: usize) -> io::Result<UdpSocket> {
    let scope = link.index.unwrap_or_default();
    let (domain, address) = match link.ip() {
        IpAddr::V4(ip) => (Domain::IPV4, SocketAddr::new(ip.into(), port)),
        IpAddr::V6(ip) => (Domain::IPV6, SocketAddrV6::new(ip, port, 0, scope).into()),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if port != 0 {
        switchboard_net::port::share(&socket)?;
    }
    socket.set_nonblocking(true)?;
    match link.ip() {
        IpAddr::V4(ip) => {
            socket.set_multicast_if_v4(&ip)?;
            // RFC 6762 §11.
            socket.set_multicast_ttl_v4(255)?;
        }
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_multicast_if_v6(scope)?;
            socket.set_multicast_hops_v6(255)?;
        }
    }
    socket.bind(&address.into())?;
    if let Err(error) = buffer::set(&socket, receive_buffer) {
        tracing::debug!(%error, "a receive buffer keeps the system's size");
    }
    Ok(socket.into())
}

fn question(domain: &str, id: u16, unicast: bool) -> Vec<u8> {
    let mut packet = Packet::new_query(id);
    let name = Name::new_unchecked(domain.trim_end_matches('.'));
    packet.questions.push(Question::new(name, QTYPE::TYPE(TYPE::PTR), QCLASS::CLASS(CLASS::IN), unicast));
    // A type that mDNS can carry is a question that DNS can.
    packet.build_bytes_vec().unwrap_or_default()
}

fn send(socket: &UdpSocket, question: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(question, to) {
        tracing::debug!(%error, %to, "a question was not sent");
    }
}
