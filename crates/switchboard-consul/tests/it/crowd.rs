//! Many services followed by one process: what it takes of the agent, and that nothing is missed.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{SelectAll, select_all};
use switchboard_consul::{Consistency, ConsulRegistry};
use switchboard_core::{Health, Registry, Result, ServiceName, Snapshot, SnapshotStream, look_up_all};
use tokio::time::timeout;

use crate::support::scripted::{Reply, Server};
use crate::support::{builder, ids, name, registry, until, within};
use switchboard_tests::consul::Agent;
use switchboard_tests::proxy::Proxy;

/// More than a handle follows one by one.
const MANY: usize = 40;

fn service(number: usize) -> ServiceName {
    name(&format!("s{number:03}"))
}

/// Registers an instance as an operator would, with more in the body.
async fn put(agent: &Agent, service: &ServiceName, id: &str, more: &str) {
    let body = format!(r#"{{"ID":"{id}","Name":"{service}","Address":"10.0.0.1","Port":80{more}}}"#);
    agent.put("/v1/agent/service/register", &body).await;
}

/// A check that passes until it is told otherwise.
fn check(id: &str) -> String {
    format!(r#","Check":{{"CheckID":"c-{id}","Name":"by hand","TTL":"1h","Status":"passing"}}"#)
}

async fn update(agent: &Agent, id: &str, status: &str, output: &str) {
    let body = format!(r#"{{"Status":"{status}","Output":"{output}"}}"#);
    agent.put(&format!("/v1/agent/check/update/c-{id}"), &body).await;
}

/// One instance of each service, every other one without a check.
async fn fill(agent: &Agent, services: usize) {
    for number in 0..services {
        let id = format!("{number}");
        let check = if number % 2 == 0 { check(&id) } else { String::new() };
        put(agent, &service(number), &id, &check).await;
    }
}

/// Follows all services of a handle and what was told of each last.
struct Crowd {
    watches: SelectAll<SnapshotStream>,
    known: BTreeMap<ServiceName, Snapshot>,
    told: usize,
}

impl Crowd {
    async fn of(registry: &ConsulRegistry, services: usize) -> Self {
        let watches = select_all((0..services).map(|number| registry.watch(&service(number))));
        let mut crowd = Self { watches, known: BTreeMap::new(), told: 0 };
        within("the first of each", async {
            while crowd.known.len() < services {
                crowd.hear().await.unwrap();
            }
        })
        .await;
        crowd
    }

    async fn hear(&mut self) -> Result<()> {
        let snapshot = self.watches.next().await.unwrap()?;
        self.told += 1;
        self.known.insert(snapshot.service().clone(), snapshot);
        Ok(())
    }

    async fn until(&mut self, number: usize, what: &str, wanted: impl Fn(&Snapshot) -> bool) {
        within(what, async {
            while !wanted(&self.known[&service(number)]) {
                self.hear().await.unwrap();
            }
        })
        .await;
    }

    /// Whether anything is told for as long as that.
    async fn is_quiet(&mut self, time: Duration) -> bool {
        timeout(time, self.hear()).await.is_err()
    }
}

/// The connections that this process has to the agent.
fn connections(agent: &Agent) -> usize {
    let mine: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    let peer = format!("0100007F:{:04X}", agent.http);
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[2] == peer && row[3] == "01")
        .filter(|row| mine.iter().any(|inode| inode == row[9]))
        .count()
}

#[tokio::test]
#[ignore = "needs consul"]
async fn following_everything_takes_a_handful_of_connections_and_shuts_nobody_out() {
    const SERVICES: usize = 150;
    let agent = Agent::dev().await;
    fill(&agent, SERVICES).await;
    let handles = [registry(&agent.address()), registry(&agent.address()), registry(&agent.address())];
    let mut crowds = Vec::new();
    let mut names = Vec::new();
    for handle in &handles {
        let mut list = handle.watch_services();
        assert!(within("names", list.next()).await.unwrap().unwrap().len() >= SERVICES);
        names.push(list);
        crowds.push(Crowd::of(handle, SERVICES).await);
    }
    // Somebody else on this host, each time on a connection of its own.
    for _ in 0..5 {
        let other = reqwest(&agent).await;
        assert_eq!(other, 200, "shut out");
    }
    let held = connections(&agent);
    println!("three handles that follow {SERVICES} services each: {held} connections");
    // Three queries of each, and what lies idle.
    assert!(held <= 3 * 3 + 3 * 4 + 1, "{held}");
    // All of them hear of a change.
    update(&agent, "0", "critical", "").await;
    for crowd in &mut crowds {
        crowd.until(0, "critical", |now| now.healthy().count() == 0).await;
    }
}

/// The status that a new client's request gets.
async fn reqwest(agent: &Agent) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", agent.http)).await.unwrap();
    let request = "GET /v1/catalog/services HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    if stream.write_all(request.as_bytes()).await.is_err()
        || stream.read_to_string(&mut answer).await.is_err()
    {
        return 0;
    }
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

#[tokio::test]
#[ignore = "needs consul"]
async fn every_kind_of_change_is_told_to_a_crowd_and_nothing_else() {
    for consistency in [Consistency::Default, Consistency::Cached] {
        // Else it passes another output on after five minutes.
        let agent = Agent::dev_with(r#"check_update_interval = "0s""#).await;
        fill(&agent, MANY).await;
        let registry = builder(&agent.address()).consistency(consistency).build().unwrap();
        let mut crowd = Crowd::of(&registry, MANY).await;
        let first = crowd.told;

        update(&agent, "0", "warning", "slow").await;
        crowd.until(0, "a warning", |now| now.all()[0].health() == Health::Warning).await;
        update(&agent, "0", "warning", "slower").await;
        put(&agent, &service(1), "new", &check("new")).await;
        crowd.until(1, "an instance with a check", |now| now.len() == 2).await;
        put(&agent, &service(1), "bare", "").await;
        crowd.until(1, "an instance without a check", |now| now.len() == 3).await;
        put(&agent, &service(3), "3", r#","Meta":{"zone":"b"}"#).await;
        crowd.until(3, "metadata", |now| now.all()[0].metadata().contains_key("zone")).await;
        put(&agent, &service(5), "5", r#","Tags":["x"]"#).await;
        crowd.until(5, "a tag", |now| now.all()[0].tags().contains("x")).await;
        agent.put("/v1/agent/service/deregister/bare", "").await;
        crowd.until(1, "one of them gone", |now| now.len() == 2).await;
        agent.put("/v1/agent/service/deregister/7", "").await;
        crowd.until(7, "the last one gone", Snapshot::is_empty).await;
        put(&agent, &service(7), "7", "").await;
        crowd.until(7, "back", |now| now.len() == 1).await;
        assert_eq!(
            crowd.told - first,
            8,
            "one for each change, and none for another output: {consistency:?}"
        );

        agent.put("/v1/agent/maintenance?enable=true&reason=a+new+disk", "").await;
        for number in [2, 7] {
            crowd
                .until(number, "the node's maintenance", |now| now.all()[0].health() == Health::Maintenance)
                .await;
        }
        assert_eq!(crowd.known[&service(7)].all()[0].health_reasons()[0].notes, "a new disk");
    }
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_crowd_is_told_of_an_outage_and_all_of_it_again_after_it() {
    let agent = Agent::dev().await;
    fill(&agent, MANY).await;
    let proxy = Proxy::to(format!("127.0.0.1:{}", agent.http)).await;
    let registry = builder(&proxy.address).build().unwrap();
    let Crowd { watches, known, .. } = Crowd::of(&registry, MANY).await;
    drop(watches);
    let mut watches: Vec<_> = (0..MANY).map(|number| registry.watch(&service(number))).collect();
    for watch in &mut watches {
        within("first", watch.next()).await.unwrap().unwrap();
    }
    proxy.cut();
    for (number, watch) in watches.iter_mut().enumerate() {
        assert!(within("the outage", watch.next()).await.unwrap().is_err(), "{number}");
    }
    proxy.mend();
    for (number, watch) in watches.iter_mut().enumerate() {
        let again = within("again", async {
            loop {
                if let Ok(snapshot) = watch.next().await.unwrap() {
                    return snapshot;
                }
            }
        });
        assert_eq!(again.await, known[&service(number)]);
    }
    // And what changes is told.
    // With a word: without one it could be of a check that has not run since the agent began anew.
    update(&agent, "4", "critical", "refused").await;
    let critical = within("critical", watches[4].next()).await.unwrap().unwrap();
    assert_eq!(critical.healthy().count(), 0);
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_handle_joins_the_feed_and_leaves_it_and_misses_nothing() {
    let agent = Agent::dev().await;
    fill(&agent, MANY).await;
    let registry = registry(&agent.address());
    let mut few = Crowd::of(&registry, 3).await;
    let many = Crowd::of(&registry, MANY).await;
    update(&agent, "0", "critical", "").await;
    few.until(0, "critical", |now| now.healthy().count() == 0).await;
    update(&agent, "2", "critical", "").await;
    drop(many);
    few.until(2, "critical", |now| now.healthy().count() == 0).await;
    update(&agent, "0", "passing", "").await;
    few.until(0, "passing", |now| now.healthy().count() == 1).await;
    assert!(few.is_quiet(Duration::from_millis(300)).await);
}

#[tokio::test]
#[ignore = "needs consul"]
async fn renewals_have_their_way_beside_a_crowd() {
    let agent = Agent::dev().await;
    fill(&agent, MANY).await;
    let registry = registry(&agent.address());
    let mut crowd = Crowd::of(&registry, MANY).await;
    let mine = crate::support::instance("mine", "m");
    for _ in 0..20 {
        within("renewed", registry.register(&mine, &crate::support::ttl(30))).await.unwrap();
    }
    assert!(crowd.is_quiet(Duration::from_millis(500)).await);
}

#[tokio::test]
#[ignore = "needs consul"]
async fn all_snapshots_by_one_request_are_those_of_each_service() {
    let agent = Agent::dev().await;
    fill(&agent, 12).await;
    update(&agent, "2", "critical", "refused").await;
    put(&agent, &name("S004"), "upper", "").await;
    put(&agent, &service(4), "second", r#","Weights":{"Passing":7,"Warning":2},"Tags":["a"]"#).await;
    agent.put("/v1/agent/service/maintenance/6?enable=true&reason=why", "").await;
    let registry = registry(&agent.address());
    let all = registry.snapshots().await.unwrap();
    assert_eq!(all, look_up_all(&registry).await.unwrap());
    assert_eq!(all.len(), 12 + 2, "Consul itself, and the upper case one");
    let found = all.iter().find(|snapshot| *snapshot.service() == service(2)).unwrap();
    assert_eq!(found.all()[0].health_reasons()[0].output, "refused");
}

#[tokio::test]
async fn all_snapshots_are_one_request_and_where_it_is_refused_many() {
    for blocked in [false, true] {
        let server = Server::start(move |_, asked| match &*asked.target {
            "/v1/internal/ui/nodes" if blocked => Reply::status(403, "Endpoint is blocked by agent configuration"),
            "/v1/internal/ui/nodes" => Reply::ok(
                7,
                r#"[{"Node":"n","Address":"10.0.0.1","Services":[{"ID":"1","Service":"a","Port":1}],"Checks":null}]"#,
            ),
            "/v1/catalog/services" => Reply::ok(7, r#"{"a":[]}"#),
            _ => Reply::ok(
                7,
                r#"[{"Node":{"Node":"n","Address":"10.0.0.1"},"Service":{"ID":"1","Service":"a","Port":1},"Checks":[]}]"#,
            ),
        })
        .await;
        let registry = registry(&server.address);
        let all = registry.snapshots().await.unwrap();
        assert_eq!(all.iter().map(ids).collect::<Vec<_>>(), [["1"]]);
        assert_eq!(server.asked().len(), if blocked { 3 } else { 1 });
    }
}

/// Has `MANY` services, of which nothing changes.
fn quiet(target: &str) -> Reply {
    if target.contains("index=") {
        return Reply::Hang;
    }
    if target.starts_with("/v1/catalog/services") {
        let names: Vec<_> = (0..MANY).map(|number| format!(r#""{}":[]"#, service(number))).collect();
        return Reply::ok(7, &format!("{{{}}}", names.join(",")));
    }
    if target.starts_with("/v1/health/state/any") {
        return Reply::ok(7, "[]");
    }
    let service = target.rsplit('/').next().unwrap();
    Reply::ok(
        7,
        &format!(r#"[{{"Service":{{"ID":"1","Service":"{service}","Address":"h","Port":1}},"Checks":[]}}]"#),
    )
}

#[tokio::test]
async fn an_agent_that_hangs_is_told_to_a_whole_crowd() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let hung = Arc::new(AtomicBool::new(false));
    let state = hung.clone();
    let server = Server::start(
        move |_, asked| if state.load(Ordering::SeqCst) { Reply::Hang } else { quiet(&asked.target) },
    )
    .await;
    let registry = builder(&server.address)
        .timeout(Duration::from_millis(500))
        .wait(Duration::from_secs(1))
        .build()
        .unwrap();
    let mut watches: Vec<_> = (0..MANY).map(|number| registry.watch(&service(number))).collect();
    for watch in &mut watches {
        within("first", watch.next()).await.unwrap().unwrap();
    }
    hung.store(true, Ordering::SeqCst);
    for watch in &mut watches {
        assert!(within("an error", watch.next()).await.unwrap().is_err());
    }
    hung.store(false, Ordering::SeqCst);
    for watch in &mut watches {
        within("again", async { while watch.next().await.unwrap().is_err() {} }).await;
    }
}

#[tokio::test]
async fn a_crowd_at_rest_asks_nothing_and_ends_with_its_last_watch() {
    let server = Server::start(|_, asked| quiet(&asked.target)).await;
    let registry = registry(&server.address);
    let mut crowd = Crowd::of(&registry, MANY).await;
    assert!(crowd.is_quiet(Duration::from_millis(300)).await);
    let asked = server.asked();
    let blocking: Vec<_> = asked.iter().filter(|asked| asked.target.contains("index=")).collect();
    assert_eq!(blocking.len(), 2, "{blocking:?}");
    assert_eq!(asked.len(), 2 + 2 + MANY, "the feed's four, and each service once");
    drop(crowd);
    drop(registry);
    until("all connections closed", || async { (server.open() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn handles_share_what_a_process_holds_of_an_agent() {
    let server = Server::start(|_, asked| quiet(&asked.target)).await;
    let handles: Vec<_> = (0..5).map(|_| registry(&server.address)).collect();
    let watches = handles.iter().flat_map(|handle| (0..20).map(|number| handle.watch(&service(number))));
    let mut all = select_all(watches);
    for _ in 0..100 {
        within("first", all.next()).await.unwrap().unwrap();
    }
    let again = until_asked_again(&server, &mut all);
    within("those without a share ask again", again).await;
    let blocking = server.asked().iter().filter(|asked| asked.target.contains("index=")).count();
    assert_eq!(blocking, 32, "of 100 watches of five handles");
    assert!(server.open() <= 32 + 5 * 4 + 8, "{}", server.open());
}

async fn until_asked_again(server: &Server, all: &mut SelectAll<SnapshotStream>) {
    while server.asked().len() < 100 + 32 + 68 {
        let _ = timeout(Duration::from_millis(50), all.next()).await;
    }
}

#[tokio::test]
async fn watches_that_nobody_polls_hold_up_no_others() {
    let server = Server::start(|_, asked| {
        let found = Reply::ok(7, "[]");
        match asked.target.as_str() {
            target if target.contains("index=") => Reply::Hang,
            target if target.contains("/s0") => Reply::Late(Duration::from_millis(500), Box::new(found)),
            _ => found,
        }
    })
    .await;
    let [idle, busy] =
        [1, 2].map(|_| builder(&server.address).timeout(Duration::from_secs(2)).build().unwrap());
    // More than may read at a time, each left in the middle of it.
    let mut left: Vec<_> = (0..10).map(|number| idle.watch(&service(number))).collect();
    for watch in &mut left {
        assert!(timeout(Duration::from_millis(20), watch.next()).await.is_err());
    }
    let first = within("another's first", busy.watch(&name("other")).next()).await;
    first.unwrap().expect("the agent answers everybody");
    for watch in &mut left {
        within("on again", watch.next()).await.unwrap().expect("nothing was wrong");
    }
}

#[test]
#[ignore = "needs consul"]
fn a_runtime_that_ends_is_no_outage_to_watches_on_another() {
    let runtimes = [1, 2].map(|_| tokio::runtime::Runtime::new().unwrap());
    let [first, second] = &runtimes;
    let (agent, registry) = second.block_on(async {
        let agent = Agent::dev().await;
        fill(&agent, 2 * MANY).await;
        let registry = registry(&agent.address());
        (agent, registry)
    });
    let services = |from: usize| (from..from + MANY).map(service);
    let follow = async |from: usize| {
        let mut watches: Vec<_> = services(from).map(|service| registry.watch(&service)).collect();
        for watch in &mut watches {
            within("first", watch.next()).await.unwrap().unwrap();
        }
        watches
    };
    // The feed is begun by the first.
    let of_first = first.block_on(follow(0));
    let mut of_second = second.block_on(follow(MANY));
    drop(of_first);
    // In the middle of waiting for a change.
    second.block_on(async {
        assert!(timeout(Duration::from_millis(100), of_second[0].next()).await.is_err());
    });
    let [first, second] = runtimes;
    drop(first);
    second.block_on(async {
        agent.put(&format!("/v1/agent/service/deregister/{MANY}"), "").await;
        let told = within("the last one leaving", of_second[0].next()).await.unwrap();
        assert!(told.expect("nothing was wrong with Consul").is_empty());
        drop(of_second);
        registry.close().await.unwrap();
    });
}
