//! Registrations as the agent sees them.

use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use switchboard_consul::Wire;
use switchboard_core::{ErrorKind, Health, Instance, RegisterOptions, Registry};
use tokio::net::TcpListener;

use crate::support::{builder, ids, instance, name, registry, ttl, until, within};
use switchboard_tests::consul::Agent;

async fn json(agent: &Agent, path: &str) -> Value {
    serde_json::from_str(&agent.get(path).await.unwrap()).unwrap()
}

/// The index of the service's health.
async fn index(agent: &Agent, service: &str) -> String {
    let url = format!("{}/v1/health/service/{service}", agent.address());
    let answer = agent.client.get(url).send().await.unwrap();
    answer.headers()["x-consul-index"].to_str().unwrap().to_owned()
}

#[tokio::test]
#[ignore = "needs consul"]
async fn renewing_and_registering_the_same_again_do_not_move_the_index() {
    let agent = Agent::dev().await;
    let (one, two) = (registry(&agent.address()), registry(&agent.address()));
    let instance =
        Instance::builder("a").id("1").address("h:1").tag("x").metadata("a.b", "c").build().unwrap();
    one.register(&instance, &ttl(30)).await.unwrap();
    let before = index(&agent, "a").await;
    // A renewal, and a full registration by another handle.
    one.register(&instance, &ttl(30)).await.unwrap();
    two.register(&instance, &ttl(30)).await.unwrap();
    assert_eq!(index(&agent, "a").await, before);
    let changed = instance.to_builder().tag("y").build().unwrap();
    one.register(&changed, &ttl(30)).await.unwrap();
    assert_ne!(index(&agent, "a").await, before);
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_changed_registration_never_shows_as_critical_nor_does_a_new_one() {
    let agent = Agent::dev().await;
    let registry = registry(&agent.address());
    let mut watch = registry.watch(&name("a"));
    assert!(within("first", watch.next()).await.unwrap().unwrap().is_empty());
    let changes = async {
        for round in 0..20 {
            let builder = instance("a", "1").to_builder().metadata("round", round.to_string());
            // Every other round the TTL changes too, so that its check is another.
            let options = ttl(30 + round % 2);
            registry.register(&builder.build().unwrap(), &options).await.unwrap();
        }
    };
    let watching = async {
        loop {
            let snapshot = watch.next().await.unwrap().unwrap();
            assert_eq!(snapshot.len(), 1, "no gap");
            assert_eq!(snapshot.all()[0].health(), Health::Passing);
            if snapshot.all()[0].metadata()["round"] == "19" {
                return;
            }
        }
    };
    within("all rounds", async { tokio::join!(changes, watching) }).await;
}

#[tokio::test]
#[ignore = "needs consul"]
async fn consul_shows_what_an_operator_expects() {
    let agent = Agent::dev().await;
    let registry = registry(&agent.address());
    let instance = Instance::builder("hello")
        .id("hello-1")
        .address("10.0.0.7:8080")
        .version("1.2")
        .tag("canary")
        .metadata("zone", "eu-1")
        .build()
        .unwrap();
    registry.register(&instance, &ttl(90)).await.unwrap();
    let entry = &json(&agent, "/v1/health/service/hello?passing=true").await[0];
    assert_eq!(entry["Service"]["Tags"], serde_json::json!(["canary"]));
    assert_eq!(entry["Service"]["Meta"], serde_json::json!({"version": "1.2", "zone": "eu-1"}));
    assert_eq!(
        (entry["Service"]["Address"].as_str(), entry["Service"]["Port"].as_u64()),
        (Some("10.0.0.7"), Some(8080))
    );
    assert_eq!(entry["Checks"][1]["CheckID"], "service:hello-1");
    let filtered = json(&agent, "/v1/health/service/hello?filter=Service.Meta.zone%3D%3D%22eu-1%22").await;
    assert_eq!(filtered.as_array().unwrap().len(), 1, "operators can filter by metadata");
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_check_of_its_own_stands_beside_the_ttl() {
    let agent = Agent::dev().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let instance =
        Instance::builder("a").id("1").address(format!("127.0.0.1:{port}").as_str()).build().unwrap();
    for check in ["tcp://{host}:{port}", "http://{host}:{port}/health", "grpc://{host}:{port}"] {
        let registry =
            builder(&agent.address()).check(check).check_interval(Duration::from_secs(1)).build().unwrap();
        registry.register(&instance, &ttl(30)).await.unwrap();
        let checks = json(&agent, "/v1/agent/checks").await;
        let ids: Vec<_> = checks.as_object().unwrap().keys().cloned().collect();
        let kind = check.split(':').next().unwrap();
        assert_eq!(ids, ["service:1".to_owned(), format!("service:1:{kind}")]);
        if kind == "tcp" {
            let mut watch = registry.watch(&name("a"));
            let mut becomes = async |health| loop {
                let snapshot = within("its health", watch.next()).await.unwrap().unwrap();
                if snapshot.all().first().is_some_and(|instance| instance.health() == health) {
                    return;
                }
            };
            becomes(Health::Passing).await;
        }
        registry.close().await.unwrap();
        assert_eq!(json(&agent, "/v1/agent/checks").await, serde_json::json!({}));
    }
    // Nobody listens: critical, although the TTL is passed.
    drop(listener);
    let registry =
        builder(&agent.address()).check("tcp").check_interval(Duration::from_secs(1)).build().unwrap();
    registry.register(&instance, &ttl(30)).await.unwrap();
    until("critical", || async {
        registry.register(&instance, &ttl(30)).await.unwrap();
        let found = registry.lookup(&name("a")).await.unwrap();
        (found.all()[0].health() == Health::Critical).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs consul"]
async fn maintenance_shows_and_survives_registering_again() {
    let agent = Agent::dev().await;
    let registry = registry(&agent.address());
    registry.register(&instance("a", "1"), &ttl(30)).await.unwrap();
    let mut watch = registry.watch(&name("a"));
    let mut becomes = async |health| loop {
        let snapshot = within("its health", watch.next()).await.unwrap().unwrap();
        if snapshot.all()[0].health() == health {
            return;
        }
    };
    becomes(Health::Passing).await;
    agent.put("/v1/agent/service/maintenance/1?enable=true", "").await;
    becomes(Health::Maintenance).await;
    let changed = instance("a", "1").to_builder().tag("x").build().unwrap();
    registry.register(&changed, &ttl(30)).await.unwrap();
    assert_eq!(registry.lookup(&name("a")).await.unwrap().all()[0].health(), Health::Maintenance);
    agent.put("/v1/agent/service/maintenance/1?enable=false", "").await;
    becomes(Health::Passing).await;
    agent.put("/v1/agent/maintenance?enable=true", "").await;
    becomes(Health::Maintenance).await;
}

#[tokio::test]
#[ignore = "needs consul"]
async fn checks_of_an_earlier_program_do_not_stay() {
    let agent = Agent::dev().await;
    let old = builder(&agent.address()).check("tcp").build().unwrap();
    old.register(&instance("a", "1"), &ttl(30)).await.unwrap();
    let new = registry(&agent.address());
    new.register(&instance("a", "1"), &RegisterOptions::new()).await.unwrap();
    assert_eq!(json(&agent, "/v1/agent/checks").await, serde_json::json!({}));
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_warning_is_usable_and_left_out_of_passing() {
    let agent = Agent::dev().await;
    let registry = registry(&agent.address());
    let instance = instance("a", "1").to_builder().weight(10).warning_weight(2).build().unwrap();
    registry.register(&instance, &ttl(30)).await.unwrap();
    agent.put("/v1/agent/check/warn/service:1", "").await;
    let found = registry.lookup(&name("a")).await.unwrap();
    assert_eq!((found.all()[0].health(), found.all()[0].effective_weight()), (Health::Warning, 2));
    let passing = builder(&agent.address()).passing(true).build().unwrap();
    assert!(passing.lookup(&name("a")).await.unwrap().is_empty());
}

#[tokio::test]
#[ignore = "needs consul"]
async fn read_options_do_what_they_say() {
    let agent = Agent::dev().await;
    let writer = registry(&agent.address());
    for (id, tag) in [("1", "v1"), ("2", "v2")] {
        let instance = instance("a", id).to_builder().tag(tag).metadata("zone", tag).build().unwrap();
        writer.register(&instance, &RegisterOptions::new()).await.unwrap();
    }
    let found = async |options: &str| {
        let url = format!("consul://127.0.0.1:{}?{options}", agent.http);
        let registry = switchboard_consul::ConsulRegistry::builder().ignore_env().url(&url.parse().unwrap());
        registry.build().unwrap().lookup(&name("a")).await.map(|found| ids(&found).join(","))
    };
    assert_eq!(found("tag=v2").await.unwrap(), "2");
    assert_eq!(found("tag=v1&tag=v2").await.unwrap(), "");
    assert_eq!(found("filter=Service.Meta.zone==v1").await.unwrap(), "1");
    for mode in ["default", "stale", "consistent", "cached"] {
        assert_eq!(found(&format!("consistency={mode}")).await.unwrap(), "1,2", "{mode}");
    }
    assert_eq!(found("near=_agent&dc=dc1").await.unwrap(), "1,2");
    let error = found("filter=Service.Meta.zone=").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = found("dc=nowhere").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("No path to datacenter"), "{error}");
    let error = found("ns=team").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let error = found("partition=team").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test]
#[ignore = "needs consul"]
async fn ten_instances_of_one_name_in_one_process_do_not_disturb_each_other() {
    let agent = Agent::dev().await;
    let registry = registry(&agent.address());
    let all: Vec<_> = (0..10).map(|n| instance("a", &format!("a{n}"))).collect();
    let before = {
        for _ in 0..3 {
            let all = all.iter().map(|instance| async { registry.register(instance, &ttl(30)).await });
            futures::future::try_join_all(all).await.unwrap();
        }
        index(&agent, "a").await
    };
    for instance in &all {
        registry.register(instance, &ttl(30)).await.unwrap();
    }
    assert_eq!(index(&agent, "a").await, before);
    assert_eq!(registry.lookup(&name("a")).await.unwrap().len(), 10);
    registry.close().await.unwrap();
    assert_eq!(json(&agent, "/v1/agent/services").await, serde_json::json!({}));
}

#[tokio::test]
#[ignore = "needs consul"]
async fn dropping_the_handle_deregisters_without_waiting() {
    let agent = Agent::dev().await;
    let registry = builder(&agent.address()).wire(Wire::GoMicro).build().unwrap();
    registry.register(&instance("a", "1"), &RegisterOptions::new()).await.unwrap();
    drop(registry);
    until("gone", || async {
        (json(&agent, "/v1/agent/services").await == serde_json::json!({})).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_close_that_was_given_up_is_done_by_the_next() {
    const COUNT: usize = 100;
    let agent = Agent::dev().await;
    let registry = registry(&agent.address());
    for number in 0..COUNT {
        registry.register(&instance("greeter", &number.to_string()), &RegisterOptions::new()).await.unwrap();
    }
    let mut close = Box::pin(registry.close());
    assert!(futures::poll!(&mut close).is_pending());
    drop(close);
    registry.close().await.unwrap();
    let left = agent.get("/v1/agent/services").await.unwrap();
    assert!(!left.contains("greeter"), "{left}");
}

#[tokio::test]
#[ignore = "needs consul"]
async fn an_id_that_another_service_has_is_neither_taken_nor_removed() {
    let agent = Agent::dev().await;
    let (alice, bob) = (registry(&agent.address()), registry(&agent.address()));
    let (hers, his) = (instance("alice--web", "1"), instance("bob--web", "1"));
    alice.register(&hers, &ttl(30)).await.unwrap();
    let error = bob.register(&his, &ttl(30)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let why = "instance id \"1\": is that of an instance of \"alice--web\" there; to a Consul agent ids are one over all services";
    assert_eq!(error.message(), why);
    assert_eq!(ids(&alice.lookup(hers.service()).await.unwrap()), ["1"]);

    // Another tool puts it into her place.
    let body = r#"{"ID":"1","Name":"bob--web","Address":"h","Port":2}"#;
    agent.put("/v1/agent/service/register", body).await;
    alice.close().await.unwrap();
    let found = json(&agent, "/v1/agent/services").await;
    assert_eq!(found["1"]["Service"], "bob--web");
}
