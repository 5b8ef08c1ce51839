//! A hundred registrars on a real Consul agent that forgets everything.

#![allow(clippy::print_stdout, reason = "the figures are what --nocapture is for")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use switchboard_consul::ConsulRegistry;
use switchboard_core::{Instance, Registry, ServiceName};
use switchboard_registrar::{Registrar, Running};
use switchboard_tests::consul::{Agent, LIMIT};
use tokio::time::{Instant, timeout};

const REGISTRARS: usize = 100;
const INTERVAL: Duration = Duration::from_secs(3);
/// What an attempt may take until it is given up, on a machine that does other things too.
const SLACK: Duration = Duration::from_secs(5);

#[tokio::test]
#[ignore = "needs consul"]
async fn all_are_back_within_an_interval() {
    let mut agent = Agent::dev().await;
    let consul = ConsulRegistry::builder().ignore_env().address(&agent.address()).build().unwrap();
    let consul: Arc<dyn Registry> = Arc::new(consul);
    let service = ServiceName::new("wiped").unwrap();
    let started = (0..REGISTRARS).map(|number| {
        let instance = Instance::builder("wiped").id(format!("{number:03}")).address("127.0.0.1:7001");
        Registrar::new(consul.clone(), instance.build().unwrap()).interval(INTERVAL).start()
    });
    let running = try_join_all(started).await.unwrap();
    assert_eq!(consul.lookup(&service).await.unwrap().len(), REGISTRARS);

    agent.kill();
    agent.start();
    agent.ready().await;
    let wiped = Instant::now();
    let mut came = Vec::new();
    let mut snapshots = consul.watch(&service);
    let all_back = async {
        while came.len() < REGISTRARS {
            if let Ok(snapshot) = snapshots.next().await.unwrap() {
                came.resize(snapshot.len(), wiped.elapsed());
            }
        }
    };
    timeout(LIMIT, all_back).await.unwrap();
    let last = *came.last().unwrap();
    println!("an interval of {INTERVAL:?}: the first {:?} after the agent, the last {last:?}", came[0]);
    assert!(last < INTERVAL + SLACK, "{last:?}");

    let tenth = |at: &Duration| at.as_millis() / (INTERVAL.as_millis() / 10);
    let at_once = came.chunk_by(|a, b| tenth(a) == tenth(b)).map(<[_]>::len);
    let at_once: Vec<usize> = at_once.collect();
    println!("in each tenth of an interval: {at_once:?}");
    assert!(at_once.iter().all(|count| *count < REGISTRARS / 2), "not in a burst: {at_once:?}");

    let known = agent.get("/v1/agent/services").await.unwrap();
    assert_eq!(known.matches("\"wiped\"").count(), REGISTRARS, "none is there twice");
    for stopped in join_all(running.into_iter().map(Running::shutdown)).await {
        stopped.unwrap();
    }
    assert!(consul.lookup(&service).await.unwrap().is_empty(), "nothing is left behind");
}
