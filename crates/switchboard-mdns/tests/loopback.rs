//! One registry and its neighbour on loopback, each with sockets and threads of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use futures::StreamExt;
use switchboard_core::{
    ErrorKind, Instance, InstanceBuilder, RegisterOptions, Registry, Result, ServiceName, Snapshot,
    SnapshotStream,
};
use switchboard_mdns::MdnsRegistry;
use tokio::time::timeout;

/// Longer than anything takes, on a machine that is busy with other tests too.
const LIMIT: Duration = Duration::from_secs(60);

/// A UDP port that nobody has, so that tests do not hear each other: below the range of which the system gives to whoever asks
/// for any. Each test has another: that one is taken is not seen everywhere, as its sockets share it.
fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..2_000)));
    let is_free = |port: &u16| std::net::UdpSocket::bind(("0.0.0.0", *port)).is_ok();
    let next = || 30_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
    std::iter::repeat_with(next).find(is_free).unwrap()
}

async fn open(port: u16) -> MdnsRegistry {
    let builder = MdnsRegistry::builder().interface("lo").port(port);
    // Under Wine on a busy machine an answer may take seconds, which is more than a lookup should wait for it.
    let builder = if cfg!(windows) { builder.settle(Duration::from_secs(5)) } else { builder };
    patiently(|| builder.clone().open()).await
}

async fn register(registry: &MdnsRegistry, instance: &Instance) {
    let options = RegisterOptions::new();
    patiently(|| registry.register(instance, &options)).await;
}

/// On a busy machine the thread that speaks mDNS may take longer than it is given; then one tries again.
async fn patiently<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> T {
    let done = async {
        loop {
            match attempt().await {
                Err(error) if error.is_transient() => tokio::task::yield_now().await,
                done => return done.unwrap(),
            }
        }
    };
    timeout(LIMIT, done).await.expect("the machine gets to it")
}

/// What the registry tells of a service once that holds.
async fn seen(registry: &MdnsRegistry, service: &ServiceName, holds: impl Fn(&Snapshot) -> bool) -> Snapshot {
    next(&mut registry.watch(service), holds).await
}

/// The next that a watch tells of which that holds: a first state may be a part, where the machine is too busy to answer.
async fn next(watch: &mut SnapshotStream, holds: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let mut last = None;
    let told = async {
        loop {
            let told = watch.next().await.unwrap().unwrap();
            if holds(&told) {
                return told;
            }
            last = Some(told);
        }
    };
    let told = timeout(LIMIT, told).await;
    told.unwrap_or_else(|_| panic!("the last that was told is {last:?}"))
}

fn has(instance: &Instance) -> impl Fn(&Snapshot) -> bool {
    move |told| told.all().iter().map(AsRef::as_ref).eq([instance])
}

fn greeter(id: &str) -> InstanceBuilder {
    Instance::builder("greeter").id(id).address("127.0.0.1:8080")
}

fn name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

#[tokio::test]
async fn a_neighbour_finds_what_is_registered_and_sees_it_change_and_go() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let instance = greeter("Greeter.1").version("1").metadata("zone", "a").build().unwrap();
    register(&here, &instance).await;
    let found = there.lookup(instance.service()).await.unwrap();
    assert_eq!(*found.all()[0].as_ref(), instance);

    let mut watch = there.watch(instance.service());
    assert_eq!(watch.next().await.unwrap().unwrap(), found);
    let changed = instance.to_builder().version("2").weight(5).build().unwrap();
    register(&here, &changed).await;
    next(&mut watch, has(&changed)).await;

    here.deregister(&instance.key()).await.unwrap();
    next(&mut watch, Snapshot::is_empty).await;
    here.close().await.unwrap();
    there.close().await.unwrap();
}

#[tokio::test]
async fn a_late_joiner_finds_it_within_a_lookup() {
    let port = free_port();
    let here = open(port).await;
    let instance = greeter("1").build().unwrap();
    register(&here, &instance).await;
    for _ in 0..3 {
        // Within a second of the announcement, when nobody may answer yet, and of one another.
        let late = open(port).await;
        assert_eq!(late.lookup(instance.service()).await.unwrap().len(), 1);
        assert!(late.services().await.unwrap().contains(instance.service()));
        late.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_first_state_holds_everybody() {
    const HOSTS: usize = 10;
    let port = free_port();
    let mut hosts = Vec::new();
    for _ in 0..HOSTS {
        hosts.push(open(port).await);
    }
    for host in &hosts {
        // Without an id it gets a random one, which takes no probing.
        let instance = Instance::builder("greeter").address("127.0.0.1:8080").build().unwrap();
        register(host, &instance).await;
    }
    // A settle window that holds on a busy machine too.
    let late = || MdnsRegistry::builder().interface("lo").port(port).settle(Duration::from_secs(1)).open();
    let service = name("greeter");
    let watching = late().await.unwrap();
    assert_eq!(watching.watch(&service).next().await.unwrap().unwrap().len(), HOSTS);
    assert_eq!(late().await.unwrap().lookup(&service).await.unwrap().len(), HOSTS);
}

#[tokio::test]
async fn a_taken_label_is_renamed_reported_and_no_obstacle() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let mine = greeter("same").build().unwrap();
    let other = Instance::builder("other").id("same").address("127.0.0.1:9090").build().unwrap();
    register(&here, &mine).await;
    register(&there, &other).await;
    assert_eq!(here.label(&mine.key()).as_deref(), Some("same"));
    assert_eq!(there.label(&other.key()).as_deref(), Some("same (2)"));
    for registry in [&here, &there] {
        seen(registry, mine.service(), has(&mine)).await;
        seen(registry, other.service(), has(&other)).await;
    }
    let mut watch = here.watch(other.service());
    next(&mut watch, has(&other)).await;
    there.deregister(&other.key()).await.unwrap();
    next(&mut watch, Snapshot::is_empty).await;
}

#[tokio::test]
async fn one_id_of_two_programs_is_two_instances_until_one_goes() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let first = greeter("Same").build().unwrap();
    let second = Instance::builder("greeter").id("Same").address("127.0.0.1:9090").build().unwrap();
    register(&here, &first).await;
    register(&there, &second).await;
    assert_eq!(there.label(&second.key()).as_deref(), Some("same (2)"));
    let renamed = second.to_builder().id("same (2)").build().unwrap();
    let both = Snapshot::new(name("greeter"), [first.clone(), renamed.clone()]);
    for registry in [&here, &there] {
        // By ids that tell them apart.
        seen(registry, first.service(), |told| *told == both).await;
    }
    // The program that leaves takes nothing of the other's along, and the other has the id for itself.
    let mut watch = there.watch(first.service());
    here.deregister(&first.key()).await.unwrap();
    next(&mut watch, has(&second)).await;
    there.deregister(&second.key()).await.unwrap();
    next(&mut watch, Snapshot::is_empty).await;
}

#[tokio::test]
async fn a_close_that_was_given_up_is_done_by_the_next() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let instance = greeter("1").build().unwrap();
    register(&here, &instance).await;
    let mut watch = there.watch(instance.service());
    next(&mut watch, has(&instance)).await;
    let mut close = Box::pin(here.close());
    assert!(futures::poll!(&mut close).is_pending());
    drop(close);
    here.close().await.unwrap();
    next(&mut watch, Snapshot::is_empty).await;
    assert!(here.close().await.is_ok());
}

#[tokio::test]
async fn what_comes_back_is_heard_by_a_newcomer_whose_first_news_was_the_goodbye() {
    let port = free_port();
    let here = open(port).await;
    let instance = Instance::builder("greeter").address("127.0.0.1:8080").build().unwrap();
    register(&here, &instance).await;
    // Within a second of the announcement, when nobody may answer the newcomer's question.
    let newcomer = open(port).await;
    here.deregister(&instance.key()).await.unwrap();
    register(&here, &instance).await;
    // It is in the newcomer's cache, so it has to be told.
    seen(&newcomer, instance.service(), |told| told.len() == 1).await;
}

#[tokio::test]
async fn one_host_may_use_one_id_in_two_services() {
    let registry = open(free_port()).await;
    let first = greeter("a.b").build().unwrap();
    let second = Instance::builder("other").id("A-b").address("127.0.0.1:9090").build().unwrap();
    register(&registry, &first).await;
    register(&registry, &second).await;
    assert_eq!(registry.label(&first.key()).as_deref(), Some("a-b"));
    assert_eq!(registry.label(&second.key()).as_deref(), Some("a-b-2"));
    seen(&registry, first.service(), has(&first)).await;
    seen(&registry, second.service(), has(&second)).await;
}

#[tokio::test]
async fn a_plain_type_is_announced_and_found_as_itself() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let web = Instance::builder("_http._tcp")
        .id("My Web")
        .address("127.0.0.1:80")
        .metadata("path", "/x")
        .build()
        .unwrap();
    register(&here, &web).await;
    let found = seen(&there, web.service(), has(&web)).await;
    assert!(there.services().await.unwrap().is_empty());

    let mut watch = there.watch(web.service());
    assert_eq!(watch.next().await.unwrap().unwrap(), found);
    here.deregister(&web.key()).await.unwrap();
    next(&mut watch, Snapshot::is_empty).await;
    let refused = there.lookup(&name("_http")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn an_address_of_another_network_is_carried_all_the_same() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let far =
        Instance::builder("db").id("1").address("10.99.0.1:5432").address("db.example:5433").build().unwrap();
    register(&here, &far).await;
    seen(&there, far.service(), has(&far)).await;
}

#[tokio::test]
async fn suspecting_the_living_changes_nothing() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let instance = greeter("1").build().unwrap();
    register(&here, &instance).await;
    let mut watch = there.watch(instance.service());
    next(&mut watch, has(&instance)).await;
    there.suspect(&instance.key()).await;
    there.suspect(&greeter("unknown").build().unwrap().key()).await;
    assert!(timeout(Duration::from_secs(4), watch.next()).await.is_err(), "nothing changes");
}

#[tokio::test]
async fn dropping_a_registry_says_goodbye() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let instance = greeter("1").build().unwrap();
    register(&here, &instance).await;
    let mut watch = there.watch(instance.service());
    next(&mut watch, has(&instance)).await;
    drop(here);
    next(&mut watch, Snapshot::is_empty).await;
}

#[tokio::test]
async fn a_goodbye_takes_no_other_instance_along() {
    let port = free_port();
    let here = open(port).await;
    for id in ["1", "2"] {
        register(&here, &greeter(id).build().unwrap()).await;
    }
    // mdns-sd's goodbye takes back the address of the host as well, so a host name must not be shared.
    let reader = mdns_sd::ServiceDaemon::new_with_port(port).unwrap();
    reader.disable_interface(mdns_sd::IfKind::All).unwrap();
    reader.enable_interface(mdns_sd::IfKind::LoopbackV4).unwrap();
    let events = reader.browse("_switchboard._tcp.local.").unwrap();
    let mut hosts = std::collections::BTreeMap::new();
    let both = async {
        while hosts.len() < 2 {
            if let mdns_sd::ServiceEvent::ServiceResolved(found) = events.recv_async().await.unwrap() {
                hosts.insert(found.fullname.clone(), found.host.clone());
            }
        }
    };
    timeout(LIMIT, both).await.unwrap();
    let hosts: Vec<String> = hosts.into_values().collect();
    assert_ne!(hosts[0], hosts[1]);
    reader.shutdown().unwrap();
}

#[tokio::test]
async fn a_ttl_of_any_length_is_kept() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let instance = greeter("1").build().unwrap();
    for ttl in [Duration::from_secs(1 << 60), Duration::MAX] {
        let options = RegisterOptions::new().ttl(ttl);
        patiently(|| here.register(&instance, &options)).await;
    }
    let mut watch = there.watch(instance.service());
    next(&mut watch, has(&instance)).await;
    // Its task lives on, for a later TTL is kept.
    let options = RegisterOptions::new().ttl(Duration::from_millis(10));
    patiently(|| here.register(&instance, &options)).await;
    next(&mut watch, Snapshot::is_empty).await;
}

#[tokio::test]
async fn a_settle_window_nobody_waits_for_is_refused() {
    let refused = MdnsRegistry::builder().interface("lo").settle(Duration::MAX).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("limit of 60 s"), "{refused}");
}
