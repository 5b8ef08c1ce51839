//! An instance as DNS-SD records, and back.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use mdns_sd::{ResolvedService, ScopedIp, ServiceInfo, TxtProperties, TxtProperty};
use switchboard_core::{Address, Host, Instance, InstanceBuilder, InstanceId, Invalid, ServiceName};

use crate::txt::{self, Heard, Property};

/// The DNS-SD type every Switchboard service is announced under; the service's own name is in the TXT record.
const OWN_TYPE: &str = "_switchboard._tcp.local.";

/// A DNS label is at most 63 bytes (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// What a service name means on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ServiceType {
    /// One of ours, among all the others under [`OWN_TYPE`].
    Own,
    /// A plain DNS-SD type such as `_http._tcp`, which is the service name.
    Plain(ServiceName),
}

impl ServiceType {
    /// The type that `service` is announced under and browsed by.
    pub(crate) fn of(service: &ServiceName) -> Result<Self, Invalid> {
        if service.as_str().starts_with('_') {
            check_plain(service)?;
            Ok(Self::Plain(service.clone()))
        } else {
            Ok(Self::Own)
        }
    }

    /// The type with its domain, as it is browsed.
    pub(crate) fn domain(&self) -> String {
        match self {
            Self::Own => OWN_TYPE.into(),
            Self::Plain(service) => format!("{service}.local."),
        }
    }
}

/// RFC 6763 §7 and RFC 6335 §5.1: `_name._tcp` or `_name._udp`, where the name has 1 to 15 letters, digits and inner single
/// hyphens, at least one of them a letter.
fn check_plain(service: &ServiceName) -> Result<(), Invalid> {
    let refuse = |why| Err(Invalid::quoting("DNS-SD type", service.as_str(), why));
    let Some((name, "_tcp" | "_udp")) = service.as_str()[1..].split_once('.') else {
        return refuse("starts with '_', so it must have the form _name._tcp or _name._udp");
    };
    if name.is_empty() || name.len() > 15 {
        refuse("has a name that is not 1 to 15 characters long")
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        refuse("has a name with something other than letters, digits and hyphens")
    } else if name.starts_with('-') || name.ends_with('-') || name.contains("--") {
        refuse("has a name with a hyphen at an end or two in a row")
    } else if !name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        refuse("has a name without a letter")
    } else {
        Ok(())
    }
}

/// What is to be announced for an instance, without its place on the network.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Announcement {
    pub(crate) kind: ServiceType,
    /// The instance label.
    pub(crate) label: String,
    pub(crate) port: u16,
    /// The IP addresses for the address records; none means the machine's own.
    pub(crate) ips: Vec<IpAddr>,
    txt: Vec<Property>,
}

impl Announcement {
    /// Lays out `instance` for a host with an interface in the network of each address that `on_link` says yes to.
    pub(crate) fn new(instance: &Instance, on_link: impl Fn(IpAddr) -> bool) -> Result<Self, Invalid> {
        let kind = ServiceType::of(instance.service())?;
        let port = instance.address().port();
        let sockets: Vec<SocketAddr> = instance.addresses().iter().filter_map(Address::socket_addr).collect();
        let ips: Vec<IpAddr> = sockets
            .iter()
            .filter(|socket| socket.port() == port)
            .map(SocketAddr::ip)
            .filter(|ip| on_link(*ip))
            .collect();
        // SRV has one port, address records have no order, and neither can name another network's host.
        let spell = ips.len() != 1 || instance.addresses().len() != 1;
        let (txt, label) = match &kind {
            ServiceType::Own => (txt::encode(instance, spell)?, own_label(instance.id())),
            ServiceType::Plain(_) => {
                if ips.len() != instance.addresses().len() {
                    let why = "cannot be announced: a plain DNS-SD type has one port, and addresses of this link only";
                    return Err(Invalid::new(format!("addresses {:?}", instance.addresses()), why));
                }
                (txt::encode_plain(instance)?, instance.id().to_string())
            }
        };
        if label.len() > MAX_LABEL {
            let why = format!("is {} bytes long, the limit of a DNS label is {MAX_LABEL}", label.len());
            return Err(Invalid::quoting("instance id", &label, why));
        }
        Ok(Self { kind, label, port, ips, txt })
    }

    /// Moves to another label, for when this host already announces another instance under this one.
    pub(crate) fn relabel(&mut self, number: usize) {
        let suffix = format!("-{number}");
        let mut cut = self.label.len().min(MAX_LABEL - suffix.len());
        while !self.label.is_char_boundary(cut) {
            cut -= 1;
        }
        self.label.truncate(cut);
        self.label.push_str(&suffix);
    }

    /// Whether the label cannot collide: it ends in a random UUID.
    pub(crate) fn is_unique(&self) -> bool {
        self.label.as_bytes().last_chunk().is_some_and(is_random_uuid)
    }

    pub(crate) fn txt_len(&self) -> usize {
        txt::wire_len(&self.txt)
    }

    /// The records, for host name `host`.
    pub(crate) fn service_info(&self, host: &str, probe: bool) -> Result<ServiceInfo, mdns_sd::Error> {
        let ips = self.ips.as_slice();
        let txt: Vec<TxtProperty> = self.txt.iter().map(|(key, value)| (key, value).into()).collect();
        // No subtype: of what has one, mdns-sd now and then fails to tell that its records lapsed.
        let mut info = ServiceInfo::new(&self.kind.domain(), &self.label, host, ips, self.port, txt)?;
        if self.ips.is_empty() {
            info = info.enable_addr_auto();
        }
        info.set_requires_probe(probe);
        Ok(info)
    }
}

/// Whether this is a version 4 UUID as text (RFC 9562, section 4).
fn is_random_uuid(text: &[u8; 36]) -> bool {
    text.iter().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        14 => *byte == b'4',
        19 => b"89abAB".contains(byte),
        _ => byte.is_ascii_hexdigit(),
    })
}

/// The label of an instance of ours, unless another has it. A dot or capital in a label is legal, but costs the second
/// announcement and the renaming on conflict. The id itself is in the TXT record.
fn own_label(id: &InstanceId) -> String {
    id.as_str().to_lowercase().replace(['.', '\\'], "-")
}

/// The instances of one service, each heard under a full name, with ids that tell them apart.
///
/// Two programs that live at the same time may have registered one id. They are two instances all the same: the one that
/// has the label of the id keeps it, and the label that another was given is its id, for as long as both are there.
pub(crate) fn tell_apart<'a>(
    kind: &ServiceType,
    heard: impl IntoIterator<Item = (&'a String, &'a Arc<Instance>)>,
) -> impl Iterator<Item = (&'a String, Arc<Instance>)> {
    let mut keepers: HashMap<&'a InstanceId, (&'a String, &'a Arc<Instance>)> = HashMap::new();
    let mut others = Vec::new();
    for mut heard in heard {
        if let Some(kept) = keepers.get_mut(heard.1.id()) {
            // Only here, where it is rare: of equal ids the one with the label of the id, or the first by label.
            let rank = |(name, instance): &(&String, &Arc<Instance>)| {
                let label = label_of(kind, name);
                (label != own_label(instance.id()), label)
            };
            if rank(&heard) < rank(kept) {
                std::mem::swap(kept, &mut heard);
            }
            others.push(heard);
        } else {
            keepers.insert(heard.1.id(), heard);
        }
    }
    let others: Vec<_> = others
        .into_iter()
        .filter_map(|(name, instance)| {
            let renamed = instance.to_builder().id(label_of(kind, name)).build_lossy();
            Some((name, Arc::new(renamed.ok()?)))
        })
        .collect();
    let keepers = keepers.into_values().map(|(name, instance)| (name, instance.clone()));
    // Given last, they win where a label is yet another's id.
    others.into_iter().chain(keepers)
}

/// What was heard of one instance.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its full name, unescaped.
    pub(crate) fullname: String,
    /// Addresses of IPv6 that are link-local have their link as scope, others none.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) txt: TxtProperties,
}

impl From<ResolvedService> for Found {
    fn from(resolved: ResolvedService) -> Self {
        let addresses = resolved.addresses.iter().filter_map(|ip| match ip {
            ScopedIp::V4(v4) => Some(SocketAddr::new((*v4.addr()).into(), resolved.port)),
            ScopedIp::V6(v6) => {
                let scope = if v6.addr().is_unicast_link_local() { v6.scope_id().index } else { 0 };
                Some(SocketAddrV6::new(*v6.addr(), resolved.port, 0, scope).into())
            }
            _ => None,
        });
        let addresses = addresses.collect();
        Self { addresses, fullname: resolved.fullname, txt: resolved.txt_properties }
    }
}

/// The instance that was found, or why it is none of ours.
pub(crate) fn decode(kind: &ServiceType, found: &Found) -> Result<Instance, Invalid> {
    let label = label_of(kind, &found.fullname);
    let heard = heard_addresses(found);
    let txt: Vec<Heard<'_>> = found.txt.iter().map(|property| (property.key(), property.val())).collect();
    let (builder, mut addresses) = match kind {
        ServiceType::Own => txt::decode(&txt, &label).ok_or_else(|| {
            Invalid::quoting("announcement", &label, "names no service of ours in its TXT record")
        })?,
        ServiceType::Plain(service) => {
            (txt::decode_plain(&txt, Instance::builder(service).id(label)), Vec::new())
        }
    };
    if addresses.is_empty() {
        addresses = heard;
    } else {
        // What the link itself vouches for comes first; the order is otherwise the announcer's.
        let ips: Vec<_> = heard.iter().map(Address::host).collect();
        addresses.sort_by_key(|address| match address.host() {
            ip @ Host::Ip(_) => !ips.contains(&ip),
            Host::Name(_) => true,
        });
    }
    addresses.into_iter().fold(builder, InstanceBuilder::address).build_lossy()
}

/// The first label of `fullname`, which mdns-sd gives unescaped.
fn label_of(kind: &ServiceType, fullname: &str) -> String {
    let suffix = kind.domain();
    let cut = fullname.len().saturating_sub(suffix.len() + 1);
    match (fullname.get(..cut), fullname.get(cut..)) {
        (Some(label), Some(rest)) if rest[1..].eq_ignore_ascii_case(&suffix) => label.into(),
        _ => fullname.into(),
    }
}

/// The addresses in the address records: IPv4 first, link-local last, then by number so that the order is stable.
fn heard_addresses(found: &Found) -> Vec<Address> {
    let mut sockets = found.addresses.clone();
    let link_local =
        |socket: &SocketAddr| matches!(socket, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local());
    sockets.sort_by_key(|socket| (socket.is_ipv6(), link_local(socket), *socket));
    sockets.into_iter().filter_map(|socket| Address::try_from(socket).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(instance: &InstanceBuilder) -> Result<Announcement, Invalid> {
        Announcement::new(&instance.clone().build().unwrap(), |ip| ip.is_loopback())
    }

    fn base(service: &str) -> InstanceBuilder {
        Instance::builder(service).id("Node.1").address("127.0.0.1:80")
    }

    fn found(instance: &InstanceBuilder) -> Found {
        let announcement = announce(instance).unwrap();
        let ips =
            if announcement.ips.is_empty() { vec![[127, 0, 0, 1].into()] } else { announcement.ips.clone() };
        let announcement = Announcement { ips, ..announcement };
        announcement.service_info("host.local.", false).unwrap().as_resolved_service().into()
    }

    #[test]
    fn types_are_ours_or_plain() {
        let kind = |name: &str| ServiceType::of(&ServiceName::new(name).unwrap());
        assert_eq!(kind("greeter").unwrap().domain(), "_switchboard._tcp.local.");
        assert_eq!(kind("_http._tcp").unwrap().domain(), "_http._tcp.local.");
        for bad in [
            "_http",
            "_http._sctp",
            "_._tcp",
            "_a_b._tcp",
            "_-a._tcp",
            "_a--b._tcp",
            "_1._tcp",
            "_abcdefghijklmnop._tcp",
        ] {
            assert!(kind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_instance_survives_its_records() {
        for instance in [
            base("greeter").version("1").metadata("k", "v"),
            base("greeter").address("127.0.0.1:81"),
            base("greeter").clear_addresses().address("10.9.9.9:80").address("db.example:1"),
            base("_http._tcp").id("Node 1").metadata("path", "/x"),
        ] {
            let kind = announce(&instance).unwrap().kind;
            assert_eq!(decode(&kind, &found(&instance)).unwrap(), instance.build().unwrap());
        }
    }

    #[test]
    fn addresses_on_the_link_come_first() {
        let instance = base("greeter").clear_addresses().address("10.9.9.9:80").address("127.0.0.1:80");
        let found = decode(&ServiceType::Own, &found(&instance)).unwrap();
        assert_eq!(found.addresses()[0].to_string(), "127.0.0.1:80");
        assert_eq!(found.addresses()[1].to_string(), "10.9.9.9:80");
    }

    #[test]
    fn one_id_heard_under_two_labels_is_two_instances() {
        let named = |label: &str| format!("{label}._switchboard._tcp.local.");
        let instance = |port: u16| {
            let built =
                Instance::builder("greeter").id("Node.1").address(format!("127.0.0.1:{port}").as_str());
            Arc::new(built.build().unwrap())
        };
        let told = |heard: &[(String, Arc<Instance>)]| {
            let told = tell_apart(&ServiceType::Own, heard.iter().map(|(name, instance)| (name, instance)));
            let mut told: Vec<_> = told
                .map(|(name, instance)| (instance.id().to_string(), instance.address().port(), name.clone()))
                .collect();
            told.sort();
            told
        };
        let (first, second) = ((named("node-1"), instance(80)), (named("node-1 (2)"), instance(81)));
        let both =
            [("Node.1".to_owned(), 80, first.0.clone()), ("node-1 (2)".to_owned(), 81, second.0.clone())];
        assert_eq!(told(&[first.clone(), second.clone()]), both);
        assert_eq!(told(&[second.clone(), first]), both);
        assert_eq!(
            told(std::slice::from_ref(&second)),
            [("Node.1".to_owned(), 81, second.0)],
            "alone it is who it says"
        );
    }

    #[test]
    fn labels_are_safe_unique_and_short_enough() {
        let announcement = announce(&base("greeter")).unwrap();
        assert_eq!(announcement.label, "node-1");
        assert!(!announcement.is_unique());
        let random = Instance::builder("greeter").address("127.0.0.1:1").build().unwrap();
        assert!(Announcement::new(&random, |_| true).unwrap().is_unique());
        assert!(is_random_uuid(b"99d6c4f1-52fc-4d7a-a661-2a52e6e64eda"));
        for other in ["99d6c4f1-52fc-1d7a-a661-2a52e6e64eda", "99d6c4f1-52fc-4d7a-c661-2a52e6e64eda"] {
            assert!(!is_random_uuid(other.as_bytes().try_into().unwrap()), "{other}");
        }

        let mut long = announce(&base("greeter").id("ä".repeat(31))).unwrap();
        long.relabel(2);
        assert!(long.label.len() <= MAX_LABEL && long.label.ends_with("-2"));

        let refused = announce(&base("greeter").id("x".repeat(64))).unwrap_err();
        assert_eq!(refused.why(), "is 64 bytes long, the limit of a DNS label is 63");
    }
}
