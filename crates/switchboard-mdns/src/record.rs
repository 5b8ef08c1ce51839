//! An instance as DNS-SD records, and back.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use mdns_sd::{ResolvedService, ScopedIp, ServiceInfo, TxtProperties, TxtProperty};
use switchboard_core::{Address, Instance, Invalid};

use switchboard_dnssd::txt::{self, Heard, Property};
use switchboard_dnssd::{MAX_LABEL, own_label};

pub(crate) use switchboard_dnssd::ServiceType;

/// The type with its domain, as it is browsed.
pub(crate) fn domain(kind: &ServiceType) -> String {
    format!("{}.local.", kind.name())
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
        let mut info = ServiceInfo::new(&domain(&self.kind), &self.label, host, ips, self.port, txt)?;
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

/// [`switchboard_dnssd::tell_apart`] by full names.
pub(crate) fn tell_apart<'a>(
    kind: &ServiceType,
    heard: impl IntoIterator<Item = (&'a String, &'a Arc<Instance>)>,
) -> impl Iterator<Item = (&'a String, Arc<Instance>)> {
    let suffix = domain(kind);
    switchboard_dnssd::tell_apart(move |name| label_of(&suffix, name), heard)
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
    let label = label_of(&domain(kind), &found.fullname);
    let txt: Vec<Heard<'_>> = found.txt.iter().map(|property| (property.key(), property.val())).collect();
    switchboard_dnssd::decode(kind, &label, &found.addresses, &txt)
}

/// The first label of `fullname`, which mdns-sd gives unescaped, in front of the type.
fn label_of(suffix: &str, fullname: &str) -> String {
    let cut = fullname.len().saturating_sub(suffix.len() + 1);
    match (fullname.get(..cut), fullname.get(cut..)) {
        (Some(label), Some(rest)) if rest[1..].eq_ignore_ascii_case(suffix) => label.into(),
        _ => fullname.into(),
    }
}

#[cfg(test)]
mod tests {
    use switchboard_core::InstanceBuilder;

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
