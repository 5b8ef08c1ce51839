//! What unicast answers have said of one type, put together: the records of an instance may come in several datagrams.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use mdns_sd::TxtProperties;
use simple_dns::rdata::{RData, TXT};
use simple_dns::{Name, Packet, PacketFlag, ResourceRecord};

use crate::record::Found;

/// The most records that are kept; far more than the answers of any link, and a limit for a hostile one.
const MAX_RECORDS: usize = 400_000;

pub(crate) struct Answers {
    domain: String,
    /// By full name. All names are keys in lower case, for DNS compares them so.
    pointers: HashMap<String, Pointer>,
    services: HashMap<String, (String, u16)>,
    texts: HashMap<String, TxtProperties>,
    /// By host, with the interface of those that are link-local.
    addresses: HashMap<String, BTreeSet<(IpAddr, u32)>>,
    records: usize,
}

struct Pointer {
    fullname: String,
    /// Who has said so.
    from: IpAddr,
    /// With how many addresses it was told.
    told: usize,
}

impl Answers {
    pub(crate) fn new(domain: &str) -> Self {
        Self {
            domain: domain.to_ascii_lowercase(),
            pointers: HashMap::new(),
            services: HashMap::new(),
            texts: HashMap::new(),
            addresses: HashMap::new(),
            records: 0,
        }
    }

    /// Takes a datagram in; whether it is an answer to the question with this `id`.
    pub(crate) fn read(&mut self, datagram: &[u8], id: u16, from: IpAddr, interface: u32) -> bool {
        let packet = match Packet::parse(datagram) {
            Ok(packet) if packet.id() == id && packet.has_flags(PacketFlag::RESPONSE) => packet,
            Ok(_) => return false,
            Err(error) => {
                tracing::debug!(%error, %from, "heard something that is no answer");
                return false;
            }
        };
        for record in packet.answers.iter().chain(&packet.additional_records) {
            if self.records < MAX_RECORDS && self.take(record, from, interface).is_some() {
                self.records += 1;
            }
        }
        true
    }

    /// Takes a record in, if it may be of use.
    fn take(&mut self, record: &ResourceRecord<'_>, from: IpAddr, interface: u32) -> Option<()> {
        // A goodbye, or a name that is no text.
        let name = (record.ttl > 0).then(|| text(&record.name))??.to_ascii_lowercase();
        match &record.rdata {
            RData::PTR(pointer) if name == self.domain => {
                let fullname = text(&pointer.0)?;
                let pointer = Pointer { fullname: fullname.clone(), from, told: 0 };
                self.pointers.entry(fullname.to_ascii_lowercase()).or_insert(pointer);
            }
            RData::SRV(service) => {
                let host = text(&service.target)?.to_ascii_lowercase();
                self.services.insert(name, (host, service.port));
            }
            RData::TXT(strings) => {
                self.texts.insert(name, properties(strings));
            }
            RData::A(address) => {
                self.addresses
                    .entry(name)
                    .or_default()
                    .insert((IpAddr::from(address.address.to_be_bytes()), 0));
            }
            RData::AAAA(address) => {
                let ip = std::net::Ipv6Addr::from(address.address);
                let scope = if ip.is_unicast_link_local() { interface } else { 0 };
                self.addresses.entry(name).or_default().insert((ip.into(), scope));
            }
            _ => return None,
        }
        Some(())
    }

    /// The instances that are known whole, and were not yet or with fewer addresses.
    pub(crate) fn found(&mut self) -> Vec<Found> {
        let mut found = Vec::new();
        for (key, pointer) in &mut self.pointers {
            let (Some((host, port)), Some(txt)) = (self.services.get(key), self.texts.get(key)) else {
                continue;
            };
            let Some(addresses) = self.addresses.get(host).filter(|ips| ips.len() > pointer.told) else {
                continue;
            };
            pointer.told = addresses.len();
            let addresses = addresses.iter().map(|(ip, scope)| match ip {
                IpAddr::V4(_) => SocketAddr::new(*ip, *port),
                IpAddr::V6(ip) => SocketAddrV6::new(*ip, *port, 0, *scope).into(),
            });
            found.push(Found {
                fullname: pointer.fullname.clone(),
                addresses: addresses.collect(),
                txt: txt.clone(),
            });
        }
        found
    }

    /// The hosts that have named an instance and not said where it is.
    pub(crate) fn cut_short(&self) -> HashSet<IpAddr> {
        self.pointers.values().filter(|pointer| pointer.told == 0).map(|pointer| pointer.from).collect()
    }
}

/// A name as mdns-sd gives it: unescaped, with a dot behind each label.
fn text(name: &Name<'_>) -> Option<String> {
    let mut text = String::new();
    for label in name.as_bytes() {
        text.push_str(std::str::from_utf8(label).ok()?);
        text.push('.');
    }
    Some(text)
}

fn properties(strings: &TXT<'_>) -> TxtProperties {
    let mut wire = Vec::new();
    for (key, value) in strings.iter_raw() {
        let string = match value {
            Some(value) => [key, b"=", value].concat(),
            None => key.to_vec(),
        };
        // It came out of such a string.
        let Ok(len) = u8::try_from(string.len()) else { continue };
        wire.push(len);
        wire.extend(string);
    }
    TxtProperties::from(wire.as_slice())
}
