//! What agents take to do what they do all the same while their cluster has no leader.

use std::time::Duration;

use switchboard_tests::consul::{Agent, Cluster, version};
use tokio::time::{Instant, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn writes_take_long_and_are_done() {
    let mut cluster = Cluster::start().await;
    let known = r#"{"ID":"known","Name":"known","Port":1,"Check":{"TTL":"600s","Status":"passing"}}"#;
    let agent = &cluster.agents[0];
    let other = &cluster.agents[1];
    for agent in [agent, other] {
        agent.put("/v1/agent/service/register", known).await;
        agent.put("/v1/agent/check/pass/service:known", "").await;
    }
    let (agent, other) = (0, 1);
    cluster.lose_the_leader().await;
    let left = cluster.servers.iter().find(|server| server.is_running()).unwrap();
    let (agent, other) = (&cluster.agents[agent], &cluster.agents[other]);
    let new = known.replace("known", "new");
    let took = async |agent: &Agent, what: &str, path: &str, body: &str| {
        let begun = Instant::now();
        let said = timeout(Duration::from_secs(300), agent.put(path, body)).await;
        println!("{} {what}: {:.1} s, {}", version(), begun.elapsed().as_secs_f64(), said.is_ok());
    };
    let read = async |agent: &Agent, what: &str| {
        for _ in 0..4 {
            let begun = Instant::now();
            let said = agent.get("/v1/health/service/known").await;
            println!("{} {what}: {:.1} s, {:?}", version(), begun.elapsed().as_secs_f64(), said.err());
        }
    };
    let one = async {
        took(agent, "pass, all in sync", "/v1/agent/check/pass/service:known", "").await;
        took(agent, "register", "/v1/agent/service/register", &new).await;
        took(agent, "pass the new one", "/v1/agent/check/pass/service:new", "").await;
        took(agent, "pass the known one", "/v1/agent/check/pass/service:known", "").await;
        took(agent, "deregister the known one", "/v1/agent/service/deregister/known", "").await;
        took(agent, "deregister the new one", "/v1/agent/service/deregister/new", "").await;
    };
    let two = async {
        took(left, "server: register", "/v1/agent/service/register", &new).await;
        took(left, "server: pass the new one", "/v1/agent/check/pass/service:new", "").await;
        took(left, "server: deregister the new one", "/v1/agent/service/deregister/new", "").await;
    };
    let three = async { tokio::join!(read(other, "read"), read(left, "server: read")) };
    tokio::join!(one, two, three);
}
