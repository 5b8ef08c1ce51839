//! What unicast answers have said of one type, put together: the records of an instance may come in several datagrams.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;

use mdns_sd::TxtProperties;
use simple_dns::rdata::{RData, TXT};
use simple_dns::{Name, Packet, PacketFlag, ResourceRecord};

use crate::record::Found;

/// The most records that are kept; far more than the answers of any link, and a limit for a hostile one.
const MAX_RECORDS: usize = 400_000;

/// How long an answer can be that keeps to plain DNS (RFC 1035 §4.2.1), and how long one can be from which a pointer was
/// left out for it: shorter by less than the longest pointer, with its name and the type's each said before.
const CUT_SHORT: RangeInclusive<usize> = 512 - (12 + 64 + 2)..=512;

pub(crate) struct Answers {
    domain: String,
    /// By full name. All names are keys in lower case, for DNS compares them so.
    pointers: HashMap<String, Pointer>,
    services: HashMap<String, (String, u16)>,
    texts: HashMap<String, TxtProperties>,
    /// By host, with the interface of those that are link-local.
    addresses: HashMap<String, BTreeSet<(IpAddr, u32)>>,
    /// The hosts that may have had more to say.
    cut_short: HashSet<IpAddr>,
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
            cut_short: HashSet::new(),
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
        // Avahi does not say that it has cut an answer short.
        if packet.has_flags(PacketFlag::TRUNCATION) || CUT_SHORT.contains(&datagram.len()) {
            self.cut_short.insert(from);
        }
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

    /// The full names of which nothing more is known.
    pub(crate) fn undescribed(&self) -> impl Iterator<Item = &str> {
        self.pointers.values().filter(|pointer| pointer.told == 0).map(|pointer| &*pointer.fullname)
    }

    /// The hosts whose answers may not have been all: there was no more room, or an instance was named and not described.
    pub(crate) fn cut_short(&self) -> HashSet<IpAddr> {
        let undescribed = self.pointers.values().filter(|pointer| pointer.told == 0);
        undescribed.map(|pointer| pointer.from).chain(self.cut_short.iter().copied()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::CLASS;
    use simple_dns::rdata::{A, AAAA, PTR, SRV};

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn record(name: &'static str, data: RData<'static>) -> ResourceRecord<'static> {
        ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, 10, data)
    }

    fn pointer(to: &'static str) -> ResourceRecord<'static> {
        record("_http._tcp.local", RData::PTR(PTR(Name::new_unchecked(to))))
    }

    fn service() -> ResourceRecord<'static> {
        let target = Name::new_unchecked("host.local");
        record("Web._http._tcp.LOCAL", RData::SRV(SRV { priority: 0, weight: 0, port: 80, target }))
    }

    fn answer(id: u16, records: &[ResourceRecord<'static>]) -> Vec<u8> {
        let mut packet = Packet::new_reply(id);
        packet.answers = records.to_vec();
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn an_instance_is_put_together_from_several_datagrams_and_told_again_with_more_addresses() {
        let mut answers = Answers::new("_http._tcp.local.");
        let v4 = record("host.local", RData::A(A { address: 0x0a00_0001 }));
        let v6 = record("host.local", RData::AAAA(AAAA { address: 0xfe80 << 112 | 1 }));
        let txt = record("web._http._tcp.local", RData::TXT(TXT::new().with_string("path=/x").unwrap()));
        for (records, told) in [
            (vec![pointer("Web._http._tcp.local")], None),
            (vec![service(), v4], None),
            (vec![txt], Some("10.0.0.1:80")),
            (vec![service()], None),
            (vec![v6], Some("10.0.0.1:80 [fe80::1%7]:80")),
        ] {
            assert!(answers.read(&answer(5, &records), 5, FROM, 7));
            let found = answers.found();
            let addresses = |found: &Found| {
                found.addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(found.first().map(addresses).as_deref(), told);
            for found in found {
                assert_eq!(found.fullname, "Web._http._tcp.local.");
                assert_eq!(found.txt.get_property_val_str("path"), Some("/x"));
            }
        }
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_left_alone() {
        let mut answers = Answers::new("_http._tcp.local.");
        assert!(
            !answers.read(&answer(6, &[pointer("a._http._tcp.local")]), 5, FROM, 1),
            "another question's"
        );
        assert!(!answers.read(b"\x00\x05garbage", 5, FROM, 1));
        assert!(!answers.read(&Packet::new_query(5).build_bytes_vec().unwrap(), 5, FROM, 1));
        assert!(answers.cut_short().is_empty());
        let other = record("_ipp._tcp.local", RData::PTR(PTR(Name::new_unchecked("a._ipp._tcp.local"))));
        assert!(answers.read(&answer(5, &[other]), 5, FROM, 1));
        assert!(answers.cut_short().is_empty(), "of another type");
    }

    #[test]
    fn an_answer_that_may_not_be_all_is_noticed() {
        let mut undescribed = Answers::new("_http._tcp.local.");
        assert!(undescribed.read(&answer(5, &[pointer("a._http._tcp.local")]), 5, FROM, 1));
        undescribed.found();
        assert_eq!(undescribed.cut_short(), HashSet::from([FROM]));

        // As long as plain DNS allows, without a word about what was left out.
        let txt = |len| {
            let strings = [200, len].map(|len| "x".repeat(len));
            let txt = strings.iter().fold(TXT::new(), |txt, string| txt.with_string(string).unwrap());
            record("web._http._tcp.local", RData::TXT(txt.into_owned()))
        };
        for (len, cut) in [(100, false), (200, true)] {
            let mut answers = Answers::new("_http._tcp.local.");
            let datagram = answer(5, &[txt(len)]);
            assert!(datagram.len() <= 512 && answers.read(&datagram, 5, FROM, 1), "{}", datagram.len());
            assert_eq!(!answers.cut_short().is_empty(), cut, "{}", datagram.len());
        }
    }
}
