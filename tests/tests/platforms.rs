//! DNS as platforms serve it: Consul's own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use switchboard::prelude::*;
use switchboard_tests::consul::{Agent, LIMIT};
use tokio::time::timeout;

/// A dev agent with so many instances of `orders`, each at an address of its own.
async fn agent(instances: usize) -> Agent {
    let agent = Agent::dev_with_dns().await;
    for n in 1..=instances {
        let body = format!(
            r#"{{"ID":"orders-{n}","Name":"orders","Address":"127.0.1.{n}","Port":{},"Weights":{{"Passing":{n},"Warning":1}}}}"#,
            8000 + n
        );
        agent.put("/v1/agent/service/register", &body).await;
    }
    agent
}

fn url(agent: &Agent) -> String {
    format!("dns://{}?domain=service.consul&min_refresh=50ms&max_refresh=200ms&timeout=500ms", agent.dns())
}

/// Over UDP Consul answers three, and does not say that there are more.
#[tokio::test]
#[ignore = "needs consul"]
async fn all_twenty_of_consul_are_seen_and_none_comes_and_goes() {
    let agent = agent(20).await;
    let registry = switchboard::connect(&url(&agent)).await.unwrap();
    let orders = ServiceName::new("orders").unwrap();
    let mut watch = registry.watch(&orders);
    let whole = async {
        loop {
            match watch.next().await.unwrap() {
                Ok(snapshot) if snapshot.len() == 20 => return snapshot,
                // The catalog may not have them all yet.
                _ => {}
            }
        }
    };
    let found = timeout(LIMIT, whole).await.expect("all twenty");
    let heaviest = found.all().iter().max_by_key(|one| one.weight()).unwrap();
    assert_eq!((heaviest.address().to_string().as_str(), heaviest.weight().get()), ("127.0.1.20:8020", 20));
    let told = timeout(Duration::from_secs(2), watch.next()).await;
    assert!(told.is_err(), "nothing changed, and it tells {told:?}");

    agent.put("/v1/agent/service/deregister/orders-20", "").await;
    let news = timeout(LIMIT, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(news.diff(&found).len(), 1);
    agent
        .put(
            "/v1/agent/service/register",
            r#"{"ID":"canary","Name":"orders","Tags":["v2"],"Address":"127.0.1.99","Port":80}"#,
        )
        .await;
    let tagged = ServiceName::new("v2.orders").unwrap();
    let mut watch = registry.watch(&tagged);
    let one = async { while watch.next().await.unwrap().map_or(0, |snapshot| snapshot.len()) != 1 {} };
    timeout(LIMIT, one).await.expect("by its tag");
}

#[tokio::test]
#[ignore = "needs consul"]
async fn consul_killed_as_a_name_server_fails_no_pick() {
    let mut agent = agent(5).await;
    let selector = Selector::new(Directory::new(switchboard::connect(&url(&agent)).await.unwrap()));
    let balancer = selector.service("orders").unwrap();
    let mut view = selector.directory().service("orders").unwrap();
    let all = async {
        while view.snapshot().is_none_or(|snapshot| snapshot.len() < 5) {
            view.changed().await;
        }
    };
    timeout(LIMIT, all).await.expect("five");
    agent.kill();
    let mut picks = 0;
    // Longer than several questions take to fail.
    let stale = async {
        while view.status().is_fresh() {
            balancer.pick().expect("an instance").success();
            picks += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..3000 {
            balancer.pick().expect("an instance").success();
            picks += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT * 2, stale).await.expect("in time");
    assert!(!view.status().is_fresh());
    assert!(picks > 3000);
    assert_eq!(view.snapshot().unwrap().len(), 5);
}
