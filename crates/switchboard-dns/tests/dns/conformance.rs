//! The contract, kept over a zone: by SRV records, by addresses, and by DNS-SD.

use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use switchboard_conformance::{Backend, Outage, Profile, async_trait};
use switchboard_core::{Host, Instance, Registry, ServiceName};
use switchboard_dns::{DnsBuilder, Records};
use switchboard_dnssd::{OWN_TYPE, txt};

use crate::support::server::{Asked, Said, Server};
use crate::support::zone::{Zone, name, ptr, record, srv};
use crate::support::{quick, zone};

/// How an instance is written, and what is read of it.
pub(crate) struct Form {
    pub(crate) records: Records,
    pub(crate) write: fn(&ServiceName, &[Instance]) -> Vec<Record>,
    pub(crate) profile: fn() -> Profile,
}

fn base() -> Profile {
    Profile::new().quiet(Duration::from_millis(400)).settle(Duration::from_secs(20))
}

fn owned(mut record: Record, owner: &Name) -> Record {
    record.name = owner.clone();
    record
}

/// The name of a service in the zone; its labels may be anything.
pub(crate) fn owner(service: &ServiceName) -> Name {
    let labels = service.as_str().split('.').chain(["example"]).map(str::as_bytes);
    Name::from_labels(labels).unwrap()
}

/// Of the addresses that cases have, IPv4 with a port, another address for each, since they all get one port.
fn spread(instance: &Instance) -> Ipv4Addr {
    let [high, low] = instance.address().port().to_be_bytes();
    Ipv4Addr::new(127, 7, high, low)
}

pub(crate) const ADDRESSES: Form = Form {
    records: Records::Addresses,
    write: |service, instances| {
        let each = instances.iter().map(|it| zone::ip("x.", 1, IpAddr::V4(spread(it))));
        each.map(|record| owned(record, &owner(service))).collect()
    },
    profile: || {
        base().lists(false).ignores_case(true).host_names(false).ipv6(false).many_addresses(false).reads(
            |it| {
                let address = std::net::SocketAddr::from((spread(it), 80));
                Instance::builder(it.service()).id(address.to_string()).address(address).build().unwrap()
            },
        )
    },
};

/// A host name that says the address.
fn host(ip: IpAddr) -> String {
    format!("h-{}.example.", ip.to_string().replace(['.', ':'], "-"))
}

pub(crate) const SRV: Form = Form {
    records: Records::Srv,
    write: |service, instances| {
        let each = instances.iter().flat_map(|it| {
            let Host::Ip(ip) = it.address().host() else { panic!("not an address") };
            let fields = (0, it.weight().get(), it.address().port());
            [srv("x.", 1, fields, &host(ip)), zone::ip(&host(ip), 1, ip)]
        });
        let each = each.map(|record| match record.record_type() {
            RecordType::SRV => owned(record, &owner(service)),
            _ => record,
        });
        each.collect()
    },
    profile: || {
        base().lists(false).ignores_case(true).host_names(false).ipv6(false).many_addresses(false).reads(
            |it| {
                let (Host::Ip(ip), port) = (it.address().host(), it.address().port()) else {
                    panic!("not an address")
                };
                let id = format!("{}:{port}", host(ip).trim_end_matches('.'));
                Instance::builder(it.service())
                    .id(id)
                    .address(it.address())
                    .weight(it.weight().get())
                    .build()
                    .unwrap()
            },
        )
    },
};

/// The type that all services of ours are under.
fn own_type() -> Name {
    name(&format!("{OWN_TYPE}.example."))
}

pub(crate) const DNSSD: Form = Form {
    records: Records::DnsSd,
    write: |_, instances| {
        let each = instances.iter().flat_map(|it| {
            // Whoever keeps a zone sees to it that names differ, also of one id in two services.
            let mut hash = std::hash::DefaultHasher::new();
            (it.service(), it.id()).hash(&mut hash);
            let label = it.id().as_str().replace(['.', '\\'], "-");
            let label: String = label.chars().take(10).collect();
            let label = format!("{label}-{:016x}", hash.finish());
            let full = own_type().prepend_label(label.as_bytes()).unwrap();
            let strings = txt::encode(it, true).unwrap();
            let strings: Vec<Vec<u8>> =
                strings.iter().map(|(key, value)| [key.as_bytes(), b"=", value].concat()).collect();
            let port = it.address().port();
            let target = zone::srv("x.", 1, (0, 0, port), "h-127-0-0-1.example.");
            vec![ptr(&own_type(), &full), owned(target, &full), zone::txt(&full, &strings)]
        });
        each.collect()
    },
    profile: || base().endpoint_details(false).shared_ids(true),
};

/// What serves a zone, and lets it be changed.
#[async_trait]
pub(crate) trait Serves: Send + Sync {
    /// Replaces the records of these names and types; none are left where there is none.
    async fn replace(&self, sets: BTreeMap<(Name, RecordType), Vec<Record>>);
    fn address(&self) -> std::net::SocketAddr;
}

/// One zone, and what is written in it.
pub(crate) struct World<S> {
    server: S,
    form: Form,
    written: Mutex<BTreeMap<ServiceName, Vec<Instance>>>,
}

impl<S: Serves> World<S> {
    pub(crate) fn new(server: S, form: Form) -> Self {
        Self { server, form, written: Mutex::default() }
    }

    fn builder(&self, server: std::net::SocketAddr) -> DnsBuilder {
        quick(server).record(self.form.records).port(80).timeout(Duration::from_secs(2))
    }

    /// The sets of records that all services have together.
    fn sets(
        &self,
        written: &BTreeMap<ServiceName, Vec<Instance>>,
    ) -> BTreeMap<(Name, RecordType), Vec<Record>> {
        let mut sets: BTreeMap<(Name, RecordType), Vec<Record>> = BTreeMap::new();
        let all = written.iter().flat_map(|(service, instances)| (self.form.write)(service, instances));
        let host = zone::ip("h-127-0-0-1.example.", 1, Ipv4Addr::LOCALHOST);
        for one in all.chain([host]) {
            let set = sets.entry((one.name.clone(), one.record_type())).or_default();
            if set.iter().all(|known| known.data != one.data) {
                set.push(one);
            }
        }
        sets
    }
}

/// A way to the server that can be cut: what comes by it is not answered, or passed on.
struct Cut {
    cut: Arc<Mutex<bool>>,
    _server: Server,
}

#[async_trait]
impl Outage for Cut {
    async fn begin(&self) {
        *self.cut.lock().unwrap() = true;
    }

    async fn end(&self) {
        *self.cut.lock().unwrap() = false;
    }
}

#[async_trait]
impl<S: Serves> Backend for World<S> {
    fn profile(&self) -> Profile {
        (self.form.profile)()
    }

    async fn open(&self) -> Arc<dyn Registry> {
        Arc::new(self.builder(self.server.address()).open().unwrap())
    }

    async fn write(&self, service: &ServiceName, instances: &[Instance]) -> bool {
        let changed = {
            let mut written = self.written.lock().unwrap();
            let before = self.sets(&written);
            written.insert(service.clone(), instances.to_vec());
            let mut after = self.sets(&written);
            let gone = before.keys().filter(|key| !after.contains_key(*key)).cloned().collect::<Vec<_>>();
            after.retain(|key, set| before.get(key) != Some(set));
            after.extend(gone.into_iter().map(|key| (key, Vec::new())));
            after
        };
        self.server.replace(changed).await;
        true
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let (cut, behind) = (Arc::new(Mutex::new(false)), self.server.address());
        let is_cut = cut.clone();
        let server =
            Server::start(
                move |asked| {
                    if *is_cut.lock().unwrap() { Said::Nothing } else { pass_on(behind, asked) }
                },
            )
            .await;
        let builder = self.builder(server.address).timeout(Duration::from_millis(300));
        Some((Arc::new(builder.open().unwrap()), Box::new(Cut { cut, _server: server })))
    }
}

/// What a server behind says, asked in the plainest way.
fn pass_on(behind: std::net::SocketAddr, asked: &Asked) -> Said {
    use std::io::{Read, Write};

    let mut question = hickory_resolver::proto::op::Message::query();
    question.add_query(hickory_resolver::proto::op::Query::query(asked.name.clone(), asked.kind));
    let question = question.to_vec().unwrap();
    let mut stream = std::net::TcpStream::connect(behind).unwrap();
    stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&question).unwrap();
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut answer).unwrap();
    Said::Message(Box::new(hickory_resolver::proto::op::Message::from_vec(&answer).unwrap()))
}

/// A server in this process, on a thread of its own: the runtime is that of a case.
pub(crate) struct InProcess {
    zone: Zone,
    address: std::net::SocketAddr,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl InProcess {
    pub(crate) fn new() -> Self {
        let zone = Zone::of([record(
            &name("h-127-0-0-1.example."),
            1,
            RData::A(hickory_resolver::proto::rr::rdata::A::new(127, 0, 0, 1)),
        )]);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let served = zone.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::start(move |asked| served.answer(asked)).await;
                tell.send(server.address).unwrap();
                let _ = stopped.await;
            });
        });
        Self { zone, address: told.recv().unwrap(), _stop: stop }
    }
}

#[async_trait]
impl Serves for InProcess {
    async fn replace(&self, sets: BTreeMap<(Name, RecordType), Vec<Record>>) {
        for ((owner, kind), records) in sets {
            self.zone.set(&owner, kind, records);
        }
    }

    fn address(&self) -> std::net::SocketAddr {
        self.address
    }
}

mod by_srv {
    use super::*;
    switchboard_conformance::suite!(World::new(InProcess::new(), SRV));
}

mod by_address {
    use super::*;
    switchboard_conformance::suite!(World::new(InProcess::new(), ADDRESSES));
}

mod by_dnssd {
    use super::*;
    switchboard_conformance::suite!(World::new(InProcess::new(), DNSSD));
}
