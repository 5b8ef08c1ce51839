//! A zone in memory, and records to fill it with.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::server::{Asked, Said};

pub(crate) fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

pub(crate) fn record(owner: &Name, ttl: u32, data: RData) -> Record {
    Record::from_rdata(owner.clone(), ttl, data)
}

pub(crate) fn ip(owner: &str, ttl: u32, ip: impl Into<IpAddr>) -> Record {
    let data = match ip.into() {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    record(&name(owner), ttl, data)
}

pub(crate) fn srv(owner: &str, ttl: u32, fields: (u16, u16, u16), target: &str) -> Record {
    let (priority, weight, port) = fields;
    record(&name(owner), ttl, RData::SRV(SRV::new(priority, weight, port, name(target))))
}

pub(crate) fn cname(owner: &str, target: &str) -> Record {
    record(&name(owner), 60, RData::CNAME(CNAME(name(target))))
}

pub(crate) fn ptr(owner: &Name, target: &Name) -> Record {
    record(owner, 1, RData::PTR(PTR(target.clone())))
}

pub(crate) fn txt(owner: &Name, strings: &[Vec<u8>]) -> Record {
    let strings: Vec<&[u8]> = strings.iter().map(Vec::as_slice).collect();
    record(owner, 1, RData::TXT(TXT::from_bytes(strings)))
}

/// An answer with these records.
pub(crate) fn message(answers: Vec<Record>, additionals: Vec<Record>) -> Said {
    let mut message = Message::response(0, OpCode::Query);
    message.answers = answers;
    message.additionals = additionals;
    Said::Message(Box::new(message))
}

/// An answer with this code, and nothing else.
pub(crate) fn code(code: ResponseCode) -> Said {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = code;
    Said::Message(Box::new(message))
}

/// No such name, or no such record; for so many seconds.
pub(crate) fn nothing(exists: bool, ttl: u32) -> Said {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
    let soa = SOA::new(name("ns.example."), name("hostmaster.example."), 1, 1, 1, 1, ttl);
    message.authorities = vec![record(&name("example."), ttl, RData::SOA(soa))];
    Said::Message(Box::new(message))
}

/// The records of each name and type.
type Records = BTreeMap<(Name, RecordType), Vec<Record>>;

/// Records that can be changed while they are served.
#[derive(Clone, Default)]
pub(crate) struct Zone(Arc<Mutex<Records>>);

impl Zone {
    pub(crate) fn of(records: impl IntoIterator<Item = Record>) -> Self {
        let zone = Self::default();
        zone.add(records);
        zone
    }

    pub(crate) fn add(&self, records: impl IntoIterator<Item = Record>) {
        let mut zone = self.0.lock().unwrap();
        for record in records {
            let key = (record.name.to_lowercase(), record.record_type());
            zone.entry(key).or_default().push(record);
        }
    }

    /// Replaces all records of a name and type.
    pub(crate) fn set(&self, owner: &Name, kind: RecordType, records: Vec<Record>) {
        let mut zone = self.0.lock().unwrap();
        let key = (owner.to_lowercase(), kind);
        if records.is_empty() { drop(zone.remove(&key)) } else { drop(zone.insert(key, records)) }
    }

    /// As an authoritative server answers: with addresses of SRV targets, and CNAMEs followed.
    pub(crate) fn answer(&self, asked: &Asked) -> Said {
        let zone = self.0.lock().unwrap();
        let of = |name: &Name, kind| zone.get(&(name.to_lowercase(), kind)).cloned().unwrap_or_default();
        let mut answers = of(&asked.name, asked.kind);
        let mut at = asked.name.clone();
        while answers.is_empty() || answers.last().is_some_and(|last| last.record_type() == RecordType::CNAME)
        {
            let alias = of(&at, RecordType::CNAME);
            let Some(RData::CNAME(target)) = alias.first().map(|record| record.data.clone()) else { break };
            answers.extend(alias);
            at = target.0.clone();
            answers.extend(of(&at, asked.kind));
        }
        if answers.is_empty() {
            let exists = zone.keys().any(|(name, _)| *name == asked.name.to_lowercase());
            return nothing(exists, 1);
        }
        let targets = answers.iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(&srv.target),
            _ => None,
        });
        let hosts = targets.flat_map(|target| [of(target, RecordType::A), of(target, RecordType::AAAA)]);
        let additionals = hosts.flatten().collect();
        message(answers, additionals)
    }
}
