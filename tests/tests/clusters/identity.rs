//! One id on several nodes of a real cluster: what is one instance, and what are several.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use switchboard_consul::ConsulRegistry;
use switchboard_core::{
    ErrorKind, Instance, InstanceId, InstanceKey, RegisterOptions, Registry, ServiceName, Snapshot,
};
use switchboard_selector::Selector;
use switchboard_tests::consul::{Agent, Cluster, LIMIT};
use switchboard_watcher::Directory;
use tokio::time::{Instant, sleep, timeout};

fn registry(agent: &Agent) -> ConsulRegistry {
    ConsulRegistry::builder().ignore_env().address(&agent.address()).build().unwrap()
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn key(service: &str, id: &str) -> InstanceKey {
    InstanceKey::new(name(service), InstanceId::new(id).unwrap())
}

fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.all().iter().map(|instance| instance.id().as_str()).collect()
}

/// Looks until there are these.
async fn until_found(registry: &ConsulRegistry, service: &str, expected: &[&str]) -> Snapshot {
    let end = Instant::now() + LIMIT;
    loop {
        let found = registry.lookup(&name(service)).await.unwrap();
        if ids(&found) == expected {
            return found;
        }
        assert!(Instant::now() < end, "{:?}, not {expected:?}", ids(&found));
        sleep(Duration::from_millis(20)).await;
    }
}

/// What `service { name = "web", port = … }` in an agent's configuration is: the id is the name.
async fn serve_web(agent: &Agent, port: u16) {
    agent.put("/v1/agent/service/register", &format!(r#"{{"Name":"web","Port":{port}}}"#)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn an_id_on_two_nodes_is_two_instances_and_each_agent_deregisters_its_own() {
    let cluster = Cluster::start().await;
    let [one, two] = cluster.agents.each_ref().map(registry);
    let mut watch = one.watch(&name("web"));
    let mut told = async |expected: &[&str]| {
        let wait = async {
            loop {
                let snapshot = watch.next().await.unwrap().unwrap();
                if ids(&snapshot) == expected {
                    return;
                }
            }
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("not told {expected:?}"));
    };
    serve_web(&cluster.agents[0], 8001).await;
    until_found(&two, "web", &["web"]).await;
    told(&["web"]).await;
    serve_web(&cluster.agents[1], 8002).await;
    let both = ["web@127.0.0.1:8001", "web@127.0.0.1:8002"];
    until_found(&two, "web", &both).await;
    told(&both).await;
    let all = one.snapshots().await.unwrap();
    let web = all.iter().find(|snapshot| *snapshot.service() == name("web")).unwrap();
    assert_eq!(ids(web), both, "in one answer too");

    let directory = Directory::new(registry(&cluster.agents[0]));
    let selector = Selector::new(directory);
    let mut picked = BTreeSet::new();
    for _ in 0..100 {
        picked.insert(selector.select("web").await.unwrap().address().port());
    }
    assert_eq!(picked, [8001, 8002].into());

    let of_two = key("web", both[1]);
    let error = one.deregister(&of_two).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let node = format!("is registered with node \"n{}\"", cluster.agents[1].http);
    assert!(error.message().contains(&node), "{error}");
    until_found(&two, "web", &both).await;
    two.deregister(&of_two).await.unwrap();
    until_found(&one, "web", &["web"]).await;
    told(&both[..1]).await;
    assert_eq!(one.lookup(&name("web")).await.unwrap().all()[0].address().port(), 8001);
    two.deregister(&of_two).await.unwrap();
    // The id that the watch keeps is as good as the plain one.
    one.deregister(&key("web", both[0])).await.unwrap();
    told(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn what_a_handle_registered_leaves_by_either_id_and_nothing_else_of_that_id_does() {
    let cluster = Cluster::start().await;
    let [one, two] = cluster.agents.each_ref().map(registry);
    let own = |port: u16| {
        let address = format!("127.0.0.1:{port}");
        Instance::builder("web").id("web").address(address.as_str()).build().unwrap()
    };
    let options = RegisterOptions::new();
    one.register(&own(8001), &options).await.unwrap();
    two.register(&own(8002), &options).await.unwrap();
    let both = ["web@127.0.0.1:8001", "web@127.0.0.1:8002"];
    until_found(&one, "web", &both).await;
    let reader = registry(&cluster.agents[0]);
    assert!(reader.deregister(&key("web", both[1])).await.is_err());
    one.deregister(&key("web", both[0])).await.unwrap();
    until_found(&one, "web", &["web"]).await;
    // Nor is there anything left to withdraw, when another program takes the id.
    serve_web(&cluster.agents[0], 8003).await;
    one.close().await.unwrap();
    until_found(&two, "web", &["web@127.0.0.1:8002", "web@127.0.0.1:8003"]).await;
    reader.deregister(&key("web", "web@127.0.0.1:8003")).await.unwrap();
    two.deregister(&key("web", "web")).await.unwrap();
    until_found(&reader, "web", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn each_server_is_an_instance_of_consul() {
    let servers = Cluster::servers().await;
    let registry = registry(&servers[0]);
    let mut expected: Vec<_> =
        servers.iter().map(|server| format!("consul@{}", server.raft_address())).collect();
    expected.sort();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    until_found(&registry, "consul", &expected).await;
    let all = registry.snapshots().await.unwrap();
    assert_eq!(all.iter().map(ids).collect::<Vec<_>>(), [expected]);
}

#[tokio::test]
#[ignore = "needs consul"]
async fn what_is_in_the_catalog_only_is_told_apart_too_and_stays() {
    let agent = Agent::dev().await;
    let registry = registry(&agent);
    // Without an address of its own a service is at its node's. The third has moved, and its metadata changed.
    for (node, address, service) in [
        ("ext 1/ä", "10.0.0.1", r#""Port":80"#),
        ("ext2", "10.0.0.2", r#""Port":80"#),
        ("ext3", "10.0.0.3", r#""Port":80,"Address":"10.0.0.2","Meta":{"moved":"yes"}"#),
    ] {
        let body = format!(
            r#"{{"Node":"{node}","Address":"{address}","Service":{{"ID":"web","Service":"web",{service}}}}}"#
        );
        agent.put("/v1/catalog/register", &body).await;
    }
    let both = ["web@10.0.0.1:80", "web@10.0.0.2:80"];
    let found = until_found(&registry, "web", &both).await;
    assert_eq!(found.all()[1].metadata()["moved"], "yes", "the newer");
    for (id, nodes) in [("web@10.0.0.1:80", r#""ext 1/ä""#), ("web@10.0.0.2:80", r#""ext2" and "ext3""#)] {
        let error = registry.deregister(&key("web", id)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains(nodes), "{error}");
    }
    assert!(registry.deregister(&key("web", "web")).await.is_err());
    registry.deregister(&key("web", "web@10.0.0.9:80")).await.unwrap();
    registry.deregister(&key("other", "web")).await.unwrap();
    assert_eq!(ids(&registry.lookup(&name("web")).await.unwrap()), both);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn a_registration_that_moved_and_changed_is_one_before_and_after() {
    let mut cluster = Cluster::start().await;
    let [home, other] = cluster.agents.each_ref().map(Agent::address);
    let handle = ConsulRegistry::builder()
        .ignore_env()
        .address(&home)
        .address(&other)
        .move_after(Duration::ZERO)
        .build()
        .unwrap();
    let reader = registry(&cluster.servers[0]);
    // So long that what it leaves behind does not lapse meanwhile.
    let options = RegisterOptions::new().ttl(Duration::from_secs(3600));
    let greeter = Instance::builder("greeter").id("1").address("127.0.0.1:7001").build().unwrap();
    handle.register(&greeter, &options).await.unwrap();
    let mut watch = reader.watch(&name("greeter"));
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(ids(&first), ["1"]);
    cluster.agents[0].kill();
    let changed = greeter.to_builder().metadata("moved", "yes").build().unwrap();
    handle.register(&changed, &options).await.unwrap();
    let moved = async {
        loop {
            let snapshot = watch.next().await.unwrap().unwrap();
            assert_eq!(ids(&snapshot), ["1"]);
            if snapshot.all()[0].metadata().contains_key("moved") {
                return;
            }
        }
    };
    timeout(LIMIT, moved).await.unwrap();
    let listed = cluster.servers[0].get("/v1/catalog/service/greeter").await.unwrap();
    assert_eq!(listed.matches("\"ServiceID\"").count(), 2, "it is on two nodes: {listed}");
    assert_eq!(ids(&reader.lookup(&name("greeter")).await.unwrap()), ["1"]);

    cluster.agents[0].start();
    cluster.agents[0].ready().await;
    let end = Instant::now() + LIMIT;
    loop {
        handle.register(&changed, &options).await.unwrap();
        let listed = cluster.servers[0].get("/v1/catalog/service/greeter").await.unwrap();
        assert_eq!(ids(&reader.lookup(&name("greeter")).await.unwrap()), ["1"]);
        if listed.matches("\"ServiceID\"").count() == 1 {
            break;
        }
        assert!(Instant::now() < end, "still on two nodes: {listed}");
        sleep(Duration::from_millis(20)).await;
    }
    handle.close().await.unwrap();
}
