//! Why an instance is not passing, and what others registered that has no place of its own.

use std::time::Duration;

use futures::StreamExt;
use switchboard_core::{ErrorKind, Health, Instance, InstanceId, InstanceKey, RegisterOptions, Registry};
use tokio::time::{Instant, timeout};

use crate::support::{name, registry, until, within};
use switchboard_tests::consul::Agent;

const REGISTER: &str = "/v1/agent/service/register";

async fn update(agent: &Agent, status: &str, output: &str) {
    let body = format!(r#"{{"Status":"{status}","Output":"{output}"}}"#);
    agent.put("/v1/agent/check/update/ttl", &body).await;
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_failing_check_says_why_and_another_output_wakes_nobody() {
    // Else it passes another output on after five minutes.
    let agent = Agent::dev_with(r#"check_update_interval = "0s""#).await;
    let check =
        r#"{"CheckID":"ttl","Name":"disk space","Notes":"ask storage","TTL":"1h","Status":"passing"}"#;
    let body = format!(r#"{{"ID":"1","Name":"a","Address":"10.0.0.1","Port":80,"Check":{check}}}"#);
    agent.put(REGISTER, &body).await;
    let registry = registry(&agent.address());
    let mut watch = registry.watch(&name("a"));
    let first = within("first", watch.next()).await.unwrap().unwrap();
    assert!(first.all()[0].health_reasons().is_empty(), "of what passes there is nothing to say");

    let before = Instant::now();
    update(&agent, "critical", "97 % full").await;
    let critical = within("critical", watch.next()).await.unwrap().unwrap();
    let [reason] = critical.all()[0].health_reasons() else { panic!("{critical:?}") };
    assert_eq!((reason.check.as_str(), reason.health), ("disk space", Health::Critical));
    assert_eq!((reason.output.as_str(), reason.notes.as_str()), ("97 % full", "ask storage"));
    assert!(reason.seen_since.is_some_and(|since| since >= before));

    update(&agent, "critical", "98 % full").await;
    until("a lookup has the latest", || async {
        let found = registry.lookup(&name("a")).await.ok()?;
        let reason = &found.all()[0].health_reasons()[0];
        assert_eq!(reason.seen_since, None, "a single look has seen no more than the moment");
        (reason.output == "98 % full").then_some(())
    })
    .await;
    assert!(timeout(Duration::from_millis(500), watch.next()).await.is_err(), "woken for an output");

    // What is told next keeps the time.
    agent.put("/v1/agent/service/maintenance/1?enable=true&reason=a+new+disk", "").await;
    let now = within("maintenance", watch.next()).await.unwrap().unwrap();
    let [maintenance, disk] = now.all()[0].health_reasons() else { panic!("{now:?}") };
    assert_eq!((maintenance.health, maintenance.notes.as_str()), (Health::Maintenance, "a new disk"));
    assert_eq!((disk.output.as_str(), disk.seen_since), ("98 % full", reason.seen_since));
}

#[tokio::test]
#[ignore = "needs consul"]
async fn what_kratos_registers_beside_the_first_endpoint_is_kept() {
    let agent = Agent::dev().await;
    let tagged = r#"{"http":{"Address":"http://10.0.0.1:8000","Port":8000},"grpc":{"Address":"grpc://10.0.0.1:9000","Port":9000}}"#;
    let long = "t".repeat(300);
    let body = format!(
        r#"{{"ID":"1","Name":"a","Address":"10.0.0.1","Port":8000,"Tags":["version=v1","{long}","b\nc","ok"],"TaggedAddresses":{tagged}}}"#
    );
    agent.put(REGISTER, &body).await;
    let found = registry(&agent.address()).lookup(&name("a")).await.unwrap();
    let instance = &found.all()[0];
    assert_eq!(instance.version(), Some("v1"));
    assert_eq!(instance.addresses().len(), 1, "what is spoken at the other is not known");
    assert_eq!(instance.metadata()["address.grpc"], "grpc://10.0.0.1:9000");
    assert_eq!(instance.metadata()["address.http"], "http://10.0.0.1:8000");
    assert!(instance.tags().contains("ok") && instance.tags().len() == 2, "{:?}", instance.tags());
}

/// Measured on 1.8.7 and 1.22.5: Consul finds it, and tells the name as it was registered.
#[tokio::test]
#[ignore = "needs consul"]
async fn a_name_of_other_case_is_another_service_although_consul_finds_it() {
    let agent = Agent::dev().await;
    agent.put(REGISTER, r#"{"ID":"1","Name":"Web","Address":"10.0.0.1","Port":80}"#).await;
    assert!(agent.get("/v1/health/service/web").await.unwrap().contains("\"Web\""));
    let registry = registry(&agent.address());
    assert!(registry.lookup(&name("web")).await.unwrap().is_empty());
    assert_eq!(registry.lookup(&name("Web")).await.unwrap().len(), 1);
}

#[tokio::test]
#[ignore = "needs consul"]
async fn maintenance_comes_and_goes_and_no_renewal_ends_it() {
    let agent = Agent::dev().await;
    let [registry, other] = [(); 2].map(|()| registry(&agent.address()));
    let instance = Instance::builder("a").id("a/1 é").address("10.0.0.1:80").build().unwrap();
    let options = RegisterOptions::new().ttl(Duration::from_secs(60));
    registry.register(&instance, &options).await.unwrap();
    other.set_maintenance(&instance.key(), Some("a new disk & more")).await.unwrap();
    registry.register(&instance, &options).await.unwrap();
    let seen = || async { Some(other.lookup(&name("a")).await.ok()?.all().first()?.clone()) };
    until("maintenance", || async {
        let one = seen().await.filter(|one| one.health() == Health::Maintenance)?;
        (one.health_reasons()[0].notes == "a new disk & more").then_some(())
    })
    .await;
    other.set_maintenance(&instance.key(), None).await.unwrap();
    until("back", || async { seen().await.filter(|one| one.health() == Health::Passing).map(drop) }).await;
    let nobody = InstanceKey::new(name("b"), instance.id().clone());
    let error = other.set_maintenance(&nobody, Some("")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");

    // What another node's agent has, or who wrote into the catalog, is theirs.
    let elsewhere = r#"{"Node":"far","Address":"10.0.0.9","Service":{"ID":"2","Service":"a","Port":80}}"#;
    agent.put("/v1/catalog/register", elsewhere).await;
    let far = InstanceKey::new(name("a"), InstanceId::new("2").unwrap());
    let error = other.set_maintenance(&far, Some("")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("with node \"far\""), "{error}");
}
