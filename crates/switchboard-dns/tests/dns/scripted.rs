//! What servers say, and what is made of it: a server that does what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::{Record, RecordType};
use switchboard_core::{ErrorKind, Instance, RegisterOptions, Registry, Snapshot, SnapshotStream};
use switchboard_dns::{DnsBuilder, DnsRegistry, IpVersion, Records};
use tokio::time::timeout;

use crate::support::server::{Asked, Said, Server, counter};
use crate::support::zone::{Zone, cname, code, ip, message, name, nothing, ptr, srv, txt};
use crate::support::{LIMIT, next, quick, service, shown, until};

fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, u8::try_from(n / 250).unwrap(), u8::try_from(n % 250 + 1).unwrap())
}

/// So many SRV records of `orders.example`, with where their targets are.
fn orders(count: usize) -> (Vec<Record>, Vec<Record>) {
    let each = (0..count).map(|n| {
        let host = format!("h{n:03}.example.");
        (srv("orders.example.", 0, (1, 1, 80), &host), ip(&host, 0, address(n)))
    });
    each.unzip()
}

/// A server of so many of them.
async fn serving(count: usize) -> Server {
    let (answers, hosts) = orders(count);
    let zone = Zone::of(answers.into_iter().chain(hosts));
    Server::start(move |asked| zone.answer(asked)).await
}

fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.all().iter().map(|one| one.id().as_str()).collect()
}

async fn lookup(registry: &DnsRegistry) -> switchboard_core::Result<Snapshot> {
    timeout(LIMIT, registry.lookup(&service("orders"))).await.expect("in time")
}

fn open(builder: DnsBuilder) -> DnsRegistry {
    builder.open().unwrap()
}

/// Waits until a server was asked so often, since it was started.
async fn asked(server: &Server, is: impl Fn(&Asked) -> bool, count: usize) {
    let enough = async {
        while server.asked().iter().filter(|asked| is(asked)).count() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, enough).await.expect("it asks");
}

/// Reads on meanwhile, and nothing is told: a watch asks while it is read.
async fn at_rest(watch: &mut SnapshotStream, meanwhile: impl Future<Output = ()>) {
    tokio::select! {
        () = meanwhile => {}
        told = watch.next() => panic!("told {told:?}"),
    }
}

fn is_srv(asked: &Asked) -> bool {
    asked.kind == RecordType::SRV
}

#[tokio::test]
async fn srv_records_are_instances_with_port_weight_and_the_addresses_that_come_along() {
    let server = Server::start(|asked| {
        assert_eq!((asked.text().as_str(), asked.kind), ("orders.example", RecordType::SRV));
        message(
            vec![
                srv("orders.example.", 60, (10, 3, 8080), "B.example."),
                srv("orders.example.", 60, (10, 1, 8081), "a.example."),
                srv("orders.example.", 60, (20, 1, 8082), "spare.example."),
            ],
            vec![
                ip("b.example.", 60, [10, 0, 0, 2]),
                ip("b.example.", 60, [10, 0, 0, 1]),
                ip("a.example.", 60, [10, 0, 0, 3]),
            ],
        )
    })
    .await;
    let found = lookup(&open(quick(server.address))).await.unwrap();
    assert_eq!(
        shown(&found),
        ["a.example:8081 [10.0.0.3:8081] 1", "b.example:8080 [10.0.0.1:8080, 10.0.0.2:8080] 3"]
    );
    assert!(server.asked().iter().all(|asked| asked.edns));
}

#[tokio::test]
async fn addresses_that_do_not_come_along_are_asked_for_and_the_next_priority_counts_if_nobody_is_there() {
    let zone = Zone::of([
        srv("orders.example.", 60, (1, 1, 80), "gone.example."),
        srv("orders.example.", 60, (2, 1, 80), "alias.example."),
        cname("alias.example.", "far.example."),
        ip("far.example.", 60, [10, 0, 0, 9]),
    ]);
    let server = Server::start(move |asked| match zone.answer(asked) {
        Said::Message(mut message) => {
            message.additionals.clear();
            Said::Message(message)
        }
        other => other,
    })
    .await;
    let found = lookup(&open(quick(server.address))).await.unwrap();
    assert_eq!(shown(&found), ["alias.example:80 [10.0.0.9:80] 1"]);
}

#[tokio::test]
async fn an_order_that_rotates_is_no_change_and_ids_outlive_a_restart() {
    let turn = counter();
    let server = Server::start(move |_| {
        let (mut answers, mut hosts) = orders(5);
        let by = turn();
        answers.rotate_left(by % 5);
        hosts.rotate_left(by % 3);
        message(answers, hosts)
    })
    .await;
    let registry = open(quick(server.address));
    let mut watch = registry.watch(&service("orders"));
    let first = until(&mut watch, 5).await;
    at_rest(&mut watch, asked(&server, is_srv, 8)).await;
    drop(registry);
    assert_eq!(lookup(&open(quick(server.address))).await.unwrap(), first);
}

#[tokio::test]
async fn no_such_name_no_such_record_and_a_dot_are_nobody() {
    let empties: [fn(&Asked) -> Said; 3] = [
        |_| nothing(false, 5),
        |_| nothing(true, 5),
        |_| message(vec![srv("orders.example.", 60, (0, 0, 0), ".")], vec![]),
    ];
    for empty in empties {
        let server = serving(3).await;
        let registry = open(quick(server.address).record(Records::Srv));
        let mut watch = registry.watch(&service("orders"));
        until(&mut watch, 3).await;
        server.script(empty);
        assert_eq!(next(&mut watch).await.unwrap().len(), 0);
        assert_eq!(lookup(&registry).await.unwrap().len(), 0);
    }
}

/// Of what a server can do wrong, each is an error that says so, and is no empty snapshot.
#[tokio::test]
async fn what_goes_wrong_is_an_error_and_the_last_answer_is_told_again_after_it() {
    type Fault = (&'static str, ErrorKind, fn(&Asked) -> Said);
    let faults: [Fault; 8] = [
        ("answered SERVFAIL", ErrorKind::Unavailable, |_| code(ResponseCode::ServFail)),
        ("answered REFUSED", ErrorKind::Unavailable, |_| code(ResponseCode::Refused)),
        ("answered NOTIMP", ErrorKind::Protocol, |_| code(ResponseCode::NotImp)),
        ("answered FORMERR", ErrorKind::Protocol, |_| code(ResponseCode::FormErr)),
        ("did not answer within 300ms", ErrorKind::Unavailable, |_| Said::Nothing),
        ("answered nonsense", ErrorKind::Protocol, |_| Said::Bytes(vec![0xff; 3])),
        ("", ErrorKind::Protocol, |_| {
            message(
                vec![cname("orders.example.", "x.example."), cname("x.example.", "orders.example.")],
                vec![],
            )
        }),
        ("refers to other servers", ErrorKind::Unavailable, |_| {
            let mut message = Message::response(0, OpCode::Query);
            let ns = hickory_resolver::proto::rr::RData::NS(hickory_resolver::proto::rr::rdata::NS(name(
                "ns.example.",
            )));
            message.authorities = vec![Record::from_rdata(name("example."), 60, ns)];
            Said::Message(Box::new(message))
        }),
    ];
    for (words, kind, fault) in faults {
        let server = serving(2).await;
        let registry = open(quick(server.address).record(Records::Srv).timeout(Duration::from_millis(300)));
        let mut watch = registry.watch(&service("orders"));
        let before = until(&mut watch, 2).await;
        server.script(fault);
        let error = next(&mut watch).await.expect_err("an error");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("orders.example"), "{error}");
        let error = lookup(&registry).await.expect_err("an error");
        assert!(error.to_string().contains(words), "{error}");
        let (answers, hosts) = orders(2);
        server.script(move |_| message(answers.clone(), hosts.clone()));
        loop {
            if let Ok(after) = next(&mut watch).await {
                assert_eq!(after, before);
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error() {
    let gone = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let registry = open(quick(gone).timeout(Duration::from_millis(300)));
    let error = lookup(&registry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&format!("no answer for SRV orders.example.: {gone} ")), "{error}");
}

#[tokio::test]
async fn of_several_servers_the_one_that_answers_is_kept_to() {
    let (silent, good) = (Server::start(|_| Said::Nothing).await, serving(2).await);
    let builder = quick(silent.address).server(good.address).timeout(Duration::from_millis(200));
    let registry = open(builder.record(Records::Srv));
    let mut watch = registry.watch(&service("orders"));
    until(&mut watch, 2).await;
    let before = silent.asked().len();
    let so_far = good.asked().len();
    at_rest(&mut watch, asked(&good, is_srv, so_far + 5)).await;
    assert_eq!(silent.asked().len(), before, "the silent one is asked no more");
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without_it() {
    let (answers, hosts) = orders(2);
    let server = Server::start(move |asked| {
        if asked.edns { code(ResponseCode::FormErr) } else { message(answers.clone(), hosts.clone()) }
    })
    .await;
    assert_eq!(lookup(&open(quick(server.address))).await.unwrap().len(), 2);
}

/// An answer with so many SRV records of `orders.example`, and where each target is, written out: a library's own writer takes
/// seconds for it in a debug build.
fn written(count: u16, tcp: bool) -> Vec<u8> {
    let host = |n: u16| [b"\x05h".as_slice(), format!("{n:04}").as_bytes(), b"\x07example\0"].concat();
    let (shown, flags) = if tcp { (count, 0x8400_u16) } else { (0, 0x8600) };
    let mut bytes = Vec::new();
    for field in [0, flags, 1, shown, 0, shown] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(b"\x06orders\x07example\0\0\x21\0\x01");
    for n in 0..shown {
        let target = host(n);
        let len = u16::try_from(target.len()).unwrap() + 6;
        bytes.extend(b"\xc0\x0c\0\x21\0\x01\0\0\0\0");
        for field in [len, 1, 1, 80] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend(target);
    }
    for n in 0..shown {
        bytes.extend(host(n));
        bytes.extend(b"\0\x01\0\x01\0\0\0\0\0\x04\x0a\0");
        bytes.extend(n.to_be_bytes().map(|byte| byte.saturating_add(1)));
    }
    bytes
}

#[tokio::test]
async fn a_thousand_records_do_not_fit_over_udp_and_come_over_tcp() {
    let server = Server::start(|asked| Said::Bytes(written(1000, asked.tcp))).await;
    let registry = open(quick(server.address).timeout(Duration::from_secs(20)));
    let mut watch = registry.watch(&service("orders"));
    let found = next(&mut watch).await.unwrap();
    assert_eq!(found.len(), 1000);
    assert_eq!(found.all()[999].id().as_str(), "h0999.example:80");
    assert_eq!(server.asked().iter().filter(|asked| !is_srv(asked)).count(), 0, "all came along");
    at_rest(&mut watch, asked(&server, |asked| asked.tcp, 4)).await;
}

/// As Consul does it: three at random over UDP, not marked as a part, and all over TCP.
fn three_of(count: usize) -> impl Fn(&Asked) -> Said + Send + Sync {
    let turn = counter();
    move |asked| {
        let (mut answers, mut hosts) = orders(count);
        if !asked.tcp {
            let by = turn() * 7;
            answers.rotate_left(by % count);
            hosts.rotate_left(by % count);
            answers.truncate(3);
            hosts.truncate(3);
        }
        message(answers, hosts)
    }
}

#[tokio::test]
async fn a_part_over_udp_is_not_taken_for_the_whole() {
    let server = Server::start(three_of(20)).await;
    let registry = open(quick(server.address));
    assert_eq!(lookup(&registry).await.unwrap().len(), 20);
    let mut watch = registry.watch(&service("orders"));
    assert_eq!(next(&mut watch).await.unwrap().len(), 20);
    let (so_far, over_udp) = (server.count(true), server.count(false));
    at_rest(&mut watch, asked(&server, |asked| asked.tcp, so_far + 5)).await;
    assert_eq!(server.count(false), over_udp, "UDP is known to have a part only");
}

/// As dnsmasq does it: it forks for each connection, and the fork answers as of then.
#[tokio::test]
async fn a_connection_that_answers_as_of_when_it_was_made_hides_no_change() {
    let now = Arc::new(Mutex::new(vec![1, 2]));
    let (is, seen) = (now.clone(), Mutex::new(BTreeMap::new()));
    let server = Server::start(move |asked| {
        let is = is.lock().unwrap().clone();
        let known = match asked.connection {
            0 => is,
            connection => seen.lock().unwrap().entry(connection).or_insert(is).clone(),
        };
        message(known.into_iter().map(|n| ip("orders.example.", 600, [10, 0, 0, n])).collect(), vec![])
    })
    .await;
    let registry = open(quick(server.address).record(Records::Addresses).port(80));
    let mut watch = registry.watch(&service("orders"));
    for hosts in [vec![1, 3], vec![3], vec![4, 5, 6], vec![6]] {
        let count = now.lock().unwrap().len();
        until(&mut watch, count).await;
        now.lock().unwrap().clone_from(&hosts);
        let expected: Vec<String> = hosts.iter().map(|n| format!("10.0.0.{n}:80")).collect();
        assert_eq!(ids(&next(&mut watch).await.unwrap()), expected);
        drop(watch);
        watch = registry.watch(&service("orders"));
    }
}

#[tokio::test]
async fn after_an_outage_a_part_is_still_not_taken_for_the_whole() {
    let server = Server::start(three_of(20)).await;
    let registry = open(quick(server.address).timeout(Duration::from_millis(200)));
    let mut watch = registry.watch(&service("orders"));
    assert_eq!(next(&mut watch).await.unwrap().len(), 20);
    server.script(|_| Said::Nothing);
    assert!(next(&mut watch).await.is_err());
    assert!(registry.lookup(&service("other")).await.is_err());
    let answer = three_of(20);
    server.script(move |asked| {
        let mut said = answer(asked);
        if let Said::Message(message) = &mut said {
            for record in message.answers.iter_mut().filter(|record| record.record_type() == RecordType::SRV)
            {
                record.name = asked.name.clone();
            }
        }
        said
    });
    // Also for a service that nobody asked for before.
    let found = timeout(LIMIT, registry.lookup(&service("another"))).await.unwrap().unwrap();
    assert_eq!(found.len(), 20);
    loop {
        if let Ok(again) = next(&mut watch).await {
            assert_eq!(again.len(), 20);
            break;
        }
    }
}

#[tokio::test]
async fn without_tcp_parts_are_put_together() {
    let mut server = Server::start(three_of(20)).await;
    server.without_tcp().await;
    let registry = open(quick(server.address).timeout(Duration::from_millis(500)));
    let mut watch = registry.watch(&service("orders"));
    let mut known = 0;
    while known < 20 {
        let now = next(&mut watch).await.unwrap().len();
        assert!(now > known, "{now} after {known}");
        known = now;
    }
}

#[tokio::test]
async fn within_a_window_parts_at_random_are_put_together() {
    let turn = Arc::new(counter());
    let parts = move |_: &Asked| {
        let (mut answers, mut hosts) = orders(20);
        let by = turn() * 7;
        answers.rotate_left(by % 20);
        hosts.rotate_left(by % 20);
        answers.truncate(8);
        hosts.truncate(8);
        message(answers, hosts)
    };
    let server = Server::start(parts.clone()).await;
    let registry = open(quick(server.address).window(Duration::from_secs(600)));
    let mut watch = registry.watch(&service("orders"));
    let mut known = 0;
    while known < 20 {
        let now = next(&mut watch).await.unwrap().len();
        assert!(now > known, "{now} after {known}");
        known = now;
    }
    // An outage makes nobody forget them.
    server.script(|_| code(ResponseCode::ServFail));
    assert!(next(&mut watch).await.is_err());
    server.script(parts);
    assert_eq!(next(&mut watch).await.unwrap().len(), 20);
    server.script(|_| nothing(false, 1));
    assert_eq!(next(&mut watch).await.unwrap().len(), 0, "nobody at all counts at once");
}

/// Nobody waits for the next question to be told.
#[tokio::test]
async fn who_is_left_out_goes_when_the_window_is_over() {
    let server = serving(2).await;
    let (hour, window) = (Duration::from_secs(3600), Duration::from_millis(500));
    let registry = open(quick(server.address).max_refresh(hour).min_refresh(hour).window(window));
    let mut watch = registry.watch(&service("orders"));
    let before = until(&mut watch, 2).await;
    let (answers, hosts) = orders(1);
    server.script(move |_| message(answers.clone(), hosts.clone()));
    registry.suspect(&before.all()[1].key()).await;
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);
}

#[tokio::test]
async fn fewer_over_udp_than_before_are_asked_for_over_tcp() {
    let server = serving(20).await;
    let registry = open(quick(server.address));
    let mut watch = registry.watch(&service("orders"));
    until(&mut watch, 20).await;
    let over_udp = server.count(false);
    at_rest(&mut watch, asked(&server, |asked| !asked.tcp, over_udp + 2)).await;
    server.script(three_of(20));
    let over_tcp = server.count(true);
    at_rest(&mut watch, asked(&server, |asked| asked.tcp, over_tcp + 3)).await;
}

#[tokio::test]
async fn tcp_is_all_that_is_used_if_so_wanted() {
    let server = serving(3).await;
    assert_eq!(lookup(&open(quick(server.address).tcp(true))).await.unwrap().len(), 3);
    assert_eq!(server.count(false), 0);
}

#[tokio::test]
async fn cnames_are_followed_to_an_end_and_no_further() {
    let hop = |n: usize| format!("c{n}.example.");
    for (length, found) in [(1, true), (8, true), (9, false)] {
        let server = Server::start(move |asked| {
            let at: usize = match asked.text().as_str() {
                "orders.example" => 0,
                text => text[1..text.find('.').unwrap()].parse().unwrap(),
            };
            if at == length {
                return message(vec![ip(&asked.name.to_ascii(), 60, [10, 0, 0, 1])], vec![]);
            }
            message(vec![cname(&asked.name.to_ascii(), &hop(at + 1))], vec![])
        })
        .await;
        let registry = open(quick(server.address).record(Records::Addresses).port(80).ip(IpVersion::V4));
        match lookup(&registry).await {
            Ok(snapshot) => assert!(found && snapshot.len() == 1, "{length}"),
            Err(error) => {
                assert!(!found, "{error}");
                assert_eq!(error.kind(), ErrorKind::Protocol);
                assert!(error.message().ends_with("orders.example. has more than 8 CNAMEs"), "{error}");
            }
        }
    }
    // One that has no end is found out after a round.
    let server = Server::start(move |asked| {
        let other = if asked.text() == "orders.example" { "x.example." } else { "orders.example." };
        message(vec![cname(&asked.name.to_ascii(), other)], vec![])
    })
    .await;
    let error = lookup(&open(quick(server.address).record(Records::Srv))).await.unwrap_err();
    assert!(error.message().contains("lead in a circle"), "{error}");
    assert!(server.asked().len() <= 4, "{}", server.asked().len());
}

#[tokio::test]
async fn where_there_is_no_srv_record_addresses_count_at_the_port_that_is_given() {
    let zone = Zone::of([
        ip("orders.example.", 600, [10, 0, 0, 1]),
        ip("orders.example.", 600, [10, 0, 0, 2]),
        ip("orders.example.", 600, "fd00::1".parse::<IpAddr>().unwrap()),
    ]);
    let served = zone.clone();
    let server = Server::start(move |asked| served.answer(asked)).await;
    let error = lookup(&open(quick(server.address))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        error.message(),
        "orders.example. has addresses and no SRV record, and addresses have no port; add port=80 or the like"
    );
    let found = |ip| async move { lookup(&open(quick(server.address).port(80).ip(ip))).await.unwrap() };
    let v4 = ["10.0.0.1:80", "10.0.0.2:80"];
    assert_eq!(ids(&found(IpVersion::Any).await), v4);
    assert_eq!(ids(&found(IpVersion::V4).await), v4);
    assert_eq!(ids(&found(IpVersion::V6).await), ["[fd00::1]:80"]);
    assert_eq!(found(IpVersion::Both).await.len(), 3);
}

#[tokio::test]
async fn a_server_that_refuses_srv_may_have_addresses() {
    let server = Server::start(|asked| match asked.kind {
        RecordType::A => message(vec![ip("orders.example.", 600, [10, 0, 0, 1])], vec![]),
        _ => code(ResponseCode::Refused),
    })
    .await;
    let registry = open(quick(server.address).port(80));
    let mut watch = registry.watch(&service("orders"));
    until(&mut watch, 1).await;
    let before = server.asked().iter().filter(|asked| is_srv(asked)).count();
    let so_far = server.asked().iter().filter(|asked| asked.kind == RecordType::A).count();
    at_rest(&mut watch, asked(&server, |asked| asked.kind == RecordType::A, so_far + 4)).await;
    assert_eq!(server.asked().iter().filter(|asked| is_srv(asked)).count(), before, "it stays at addresses");
}

#[tokio::test]
async fn a_host_that_cannot_be_found_out_leaves_a_part_and_all_of_them_an_error() {
    let (answers, hosts) = orders(3);
    let served = answers.clone();
    let server = Server::start(move |asked| match asked.kind {
        RecordType::SRV => message(served.clone(), hosts[..2].to_vec()),
        _ => code(ResponseCode::ServFail),
    })
    .await;
    let registry = open(quick(server.address));
    let part = lookup(&registry).await.unwrap();
    assert_eq!((part.len(), part.is_complete()), (2, false));
    server.script(move |asked| match asked.kind {
        RecordType::SRV => message(answers.clone(), vec![]),
        _ => code(ResponseCode::ServFail),
    });
    let error = lookup(&open(quick(server.address))).await.unwrap_err();
    assert_eq!(error.message(), "where the targets of orders.example. are could not be found out");
}

#[tokio::test]
async fn suspecting_somebody_asks_at_once_and_nobody_else_does() {
    let server = serving(2).await;
    let hour = Duration::from_secs(3600);
    let registry = open(quick(server.address).max_refresh(hour).min_refresh(hour));
    let mut watch = registry.watch(&service("orders"));
    let before = until(&mut watch, 2).await;
    let stranger = Instance::builder("orders").id("x").address("h:1").build().unwrap();
    registry.suspect(&stranger.key()).await;
    let told = timeout(Duration::from_millis(200), watch.next()).await;
    assert!(told.is_err(), "{told:?}");
    let (answers, hosts) = orders(1);
    server.script(move |_| message(answers.clone(), hosts.clone()));
    registry.suspect(&before.all()[1].key()).await;
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);
    let so_far = server.asked().len();
    for _ in 0..100 {
        registry.suspect(&before.all()[0].key()).await;
    }
    assert!(timeout(Duration::from_millis(300), watch.next()).await.is_err());
    assert_eq!(server.asked().len(), so_far, "no more than every 3 s");
}

#[tokio::test]
async fn watches_share_one_question_and_dropped_ones_ask_no_more() {
    let server = serving(2).await;
    let registry = open(quick(server.address).record(Records::Srv).min_refresh(Duration::from_millis(100)));
    let begun = Instant::now();
    let watches = (0..50).map(|_| registry.watch(&service("orders")));
    let mut all = futures::stream::select_all(watches);
    for _ in 0..50 {
        assert_eq!(timeout(LIMIT, all.next()).await.unwrap().unwrap().unwrap().len(), 2);
    }
    // One over UDP and one over TCP, since it was the first; and those after it on a slow machine.
    let asked = server.asked().len();
    let refreshes = begun.elapsed().as_millis() / 100;
    assert!(asked as u128 <= 4 + refreshes, "{asked} questions, {refreshes} of them refreshes");
    drop(all);
    let so_far = server.asked().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.asked().len(), so_far);
}

#[tokio::test]
async fn dns_sd_is_read_as_on_a_link() {
    let kind = name("_http._tcp.example.");
    let full = |label: &str| kind.prepend_label(label.as_bytes()).unwrap();
    let zone = Zone::of([
        ptr(&name("_services._dns-sd._udp.example."), &kind),
        ptr(&name("_services._dns-sd._udp.example."), &name("_ipp._tcp.example.")),
        ptr(&kind, &full("Größe 2. Stock")),
        ptr(&kind, &full("gone")),
        txt(&full("Größe 2. Stock"), &[b"path=/x".to_vec(), b"flag".to_vec(), b"=nothing".to_vec()]),
        ip("h.example.", 60, [10, 0, 0, 1]),
    ]);
    let mut target = srv("x.", 60, (0, 0, 8080), "h.example.");
    target.name = full("Größe 2. Stock");
    zone.add([target]);
    let server = Server::start(move |asked| zone.answer(asked)).await;
    let registry = open(quick(server.address).record(Records::DnsSd));
    let found = timeout(LIMIT, registry.lookup(&service("_http._tcp"))).await.unwrap().unwrap();
    assert_eq!(shown(&found), ["Größe 2. Stock [10.0.0.1:8080] 1"]);
    assert_eq!(found.all()[0].metadata()["path"], "/x");
    let names: BTreeSet<String> =
        registry.services().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["_http._tcp".to_owned()].into());
}

#[tokio::test]
async fn only_dns_sd_has_names_and_nobody_registers() {
    let server = serving(1).await;
    let registry = open(quick(server.address));
    let error = registry.services().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(registry.watch_services().next().await.unwrap().is_err());
    let instance = Instance::builder("orders").address("h:1").build().unwrap();
    let error = registry.register(&instance, &RegisterOptions::new()).await.unwrap_err();
    assert_eq!(error.registered_by(), Some("whoever keeps the zone"));
    assert_eq!(registry.to_string(), format!("dns://{}?domain=example", server.address));
}

/// Questions run in tasks of a runtime; with another one it goes on.
#[test]
fn a_watch_outlives_the_runtime_it_was_read_on() {
    let (tell, told) = std::sync::mpsc::channel::<SocketAddr>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = serving(2).await;
            tell.send(server.address).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let registry = open(quick(told.recv().unwrap()).tcp(true));
    let mut watch = registry.watch(&service("orders"));
    for round in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            if round == 0 {
                assert_eq!(next(&mut watch).await.unwrap().len(), 2);
            }
            let told = timeout(Duration::from_millis(200), watch.next()).await;
            if let Ok(Some(Err(error))) = told {
                // The connection went with its runtime; another is made.
                assert!(error.is_transient(), "{error}");
                until(&mut watch, 2).await;
            }
            assert_eq!(lookup(&registry).await.unwrap().len(), 2);
        });
    }
}
