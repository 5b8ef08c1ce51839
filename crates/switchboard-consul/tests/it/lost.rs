//! What the catalog has lost, and what has lapsed while nobody could renew.

use std::time::Duration;

use futures::StreamExt;
use switchboard_core::Registry;
use tokio::time::{Instant, sleep};

use crate::support::{instance, name, registry, ttl, until, within};
use switchboard_tests::consul::Agent;

/// What the catalog lists of `service`, with its health.
async fn listed(agent: &Agent, service: &str) -> Vec<(String, bool)> {
    let Ok(found) = agent.get(&format!("/v1/health/service/{service}")).await else { return Vec::new() };
    let entries: Vec<serde_json::Value> = serde_json::from_str(&found).unwrap_or_default();
    let passes = |entry: &serde_json::Value| {
        entry["Checks"].as_array().unwrap().iter().all(|check| check["Status"] == "passing")
    };
    entries.iter().map(|entry| (entry["Service"]["ID"].as_str().unwrap().into(), passes(entry))).collect()
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_renewal_puts_back_what_the_catalog_has_lost() {
    let agent = Agent::dev().await;
    let (registry, greeter) = (registry(&agent.address()), instance("greeter", "1"));
    let renew = async || registry.register(&greeter, &ttl(12)).await.unwrap();
    // The catalog is looked at after 2 s, with a TTL of 12.
    let known = Instant::now() + Duration::from_secs(5);
    while Instant::now() < known {
        renew().await;
        sleep(Duration::from_millis(100)).await;
    }
    let node = format!("n{}", agent.http);
    let lose = serde_json::json!({ "Node": node, "ServiceID": "1" }).to_string();
    agent.put("/v1/catalog/deregister", &lose).await;
    assert!(listed(&agent, "greeter").await.is_empty());
    let begun = Instant::now();
    // The agent itself looks after a minute at the earliest.
    until("it is back", || async {
        renew().await;
        (listed(&agent, "greeter").await == [("1".to_owned(), true)]).then_some(())
    })
    .await;
    println!("lost by the catalog: back after {:?}", begun.elapsed());
    registry.close().await.unwrap();
    assert!(listed(&agent, "greeter").await.is_empty());
}

#[tokio::test]
#[ignore = "needs consul"]
async fn who_could_not_renew_in_an_outage_is_not_told_to_be_critical() {
    let mut agent = Agent::server_on_disk().await;
    let (registry, one) = (registry(&agent.address()), instance("greeter", "1"));
    registry.register(&one, &ttl(600)).await.unwrap();
    let mut watch = registry.watch(&name("greeter"));
    assert_eq!(within("first", watch.next()).await.unwrap().unwrap().healthy().count(), 1);

    agent.kill();
    assert!(within("the outage", watch.next()).await.unwrap().is_err());
    agent.start();
    agent.ready().await;
    // An agent that began anew has heard of no renewal.
    until("critical", || async {
        (listed(&agent, "greeter").await == [("1".to_owned(), false)]).then_some(())
    })
    .await;
    // Another one, so that something is told.
    registry.register(&instance("greeter", "2"), &ttl(600)).await.unwrap();
    let told = loop {
        match within("the other one", watch.next()).await.unwrap() {
            Ok(told) if told.len() == 2 => break told,
            Ok(told) => assert_eq!(told.healthy().count(), 1),
            Err(_) => {}
        }
    };
    assert_eq!(told.healthy().count(), 2);
    registry.register(&one, &ttl(600)).await.unwrap();
    until("renewed", || async {
        listed(&agent, "greeter").await.iter().all(|(_, passes)| *passes).then_some(())
    })
    .await;
}
