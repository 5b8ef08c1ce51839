//! A cluster without a leader: what its agents take to do what they do all the same, and who lapses meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use switchboard_consul::ConsulRegistry;
use switchboard_core::{Instance, RegisterOptions, Registry, ServiceName};
use switchboard_registrar::{Registrar, Status};
use switchboard_tests::consul::{Agent, Cluster, LIMIT, version};
use tokio::time::{Instant, sleep};

use crate::readers::Readers;

fn registry(agent: &Agent) -> ConsulRegistry {
    ConsulRegistry::builder().ignore_env().address(&agent.address()).build().unwrap()
}

fn instance(id: &str) -> Instance {
    Instance::builder("greeter").id(id).address("127.0.0.1:7001").build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn what_an_agent_takes_long_for_is_waited_for() {
    let mut cluster = Cluster::start().await;
    cluster.lose_the_leader().await;
    let left = cluster.servers.iter().find(|server| server.is_running()).unwrap();
    let (agent, options) = (&cluster.agents[0], RegisterOptions::new().ttl(Duration::from_secs(600)));
    let all = [("a client agent", agent), ("a server", left)].map(async |(what, agent)| {
        let (registry, one) = (registry(agent), instance("1"));
        let mut took = Vec::new();
        let mut begun = Instant::now();
        let mut step = || took.push(std::mem::replace(&mut begun, Instant::now()).elapsed().as_secs_f64());
        registry.register(&one, &options).await.unwrap();
        step();
        registry.register(&one, &options).await.unwrap();
        step();
        registry.deregister(&one.key()).await.unwrap();
        step();
        let [registering, renewing, leaving] = took[..] else { unreachable!("three steps") };
        println!(
            "no leader, {}, {what}: registered in {registering:.1} s, renewed in {renewing:.1} s, gone in {leaving:.1} s",
            version()
        );
    });
    futures::future::join_all(all).await;
}

/// Fifty registrars on one agent, whose cluster has no leader for as long as `outage`.
async fn fifty(interval: Duration, ttl: Duration, outage: Duration, newcomer: bool) {
    const COUNT: usize = 50;
    let mut cluster = Cluster::start().await;
    let consul: Arc<dyn Registry> = Arc::new(registry(&cluster.agents[0]));
    let registrar = |id: String| Registrar::new(consul.clone(), instance(&id)).interval(interval).ttl(ttl);
    let started = (0..COUNT).map(|number| registrar(number.to_string()).start());
    let running = try_join_all(started).await.unwrap();
    let service = ServiceName::new("greeter").unwrap();
    let readers = Readers::new(registry(&cluster.agents[0]), registry(&cluster.agents[1]), &service);
    readers.until_both_have(COUNT, LIMIT).await;
    readers.begin(COUNT);

    cluster.lose_the_leader().await;
    // One whom the servers do not know makes each write that follows take long.
    let new = newcomer.then(|| registrar("new".into()).start_in_background().unwrap());
    sleep(outage).await;
    let failing =
        running.iter().filter(|running| !matches!(running.status(), Status::Registered { .. })).count();
    for server in cluster.servers.iter_mut().filter(|server| !server.is_running()) {
        server.start();
    }
    let back = Instant::now();
    readers.until_both_have(COUNT + usize::from(newcomer), 8 * LIMIT).await;
    let whole = back.elapsed().as_secs_f64();
    let least = readers.told().map(|told| told.fewest_healthy);
    println!(
        "no leader for {outage:?}, {}, {COUNT} registrars of {interval:?}, {}: {failing} not renewed at its end, readers \
         told {least:?} at the least, whole after {whole:.1} s",
        version(),
        if newcomer { "a new one beside" } else { "nothing new" },
    );
    for told in readers.told() {
        assert_eq!((told.fewest, told.fewest_healthy), (COUNT, COUNT), "{told:?}");
    }
    drop(new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn of_fifty_none_lapses_while_there_is_nothing_new() {
    let interval = Duration::from_secs(5);
    fifty(interval, interval * 3, interval * 6, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn of_fifty_none_lapses_for_a_new_one_within_what_the_ttl_has_over() {
    let interval = Duration::from_secs(10);
    fifty(interval, interval * 9, interval * 3, true).await;
}
