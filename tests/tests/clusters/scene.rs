//! A cluster at work: registrars that renew through both agents, and readers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{ready, try_join_all};
use futures::stream;
use switchboard_consul::ConsulRegistry;
use switchboard_core::{Instance, Registry, ServiceName};
use switchboard_registrar::{Registrar, Running};
use switchboard_tests::consul::{Agent, Cluster, LIMIT, version};
use tokio::time::{Instant, sleep, timeout};

use crate::readers::{Readers, Told};

const SERVICE: &str = "greeter";
/// On each of the two agents.
pub(crate) const EACH: usize = 3;
/// Often enough that no case waits for a renewal; the TTL is go-micro's.
const INTERVAL: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(90);
/// More than what a test's cluster writes.
const WRITES: u32 = 1000;
/// How long a look of the test's own may take: an agent may hang on a server that does.
const LOOK: Duration = Duration::from_secs(5);
/// A client agent looks for servers that it has lost every 30 s, and for what is in the catalog once a minute or two.
const WHOLE_WITHIN: Duration = Duration::from_secs(240);

pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    writers: [Arc<dyn Registry>; 2],
    readers: Readers,
    running: Vec<Running>,
}

fn registry(agent: &Agent) -> ConsulRegistry {
    ConsulRegistry::builder().ignore_env().address(&agent.address()).build().unwrap()
}

impl Scene {
    pub(crate) async fn start() -> Self {
        let cluster = Cluster::start().await;
        age(&cluster.agents[0]).await;
        let writers = cluster.agents.each_ref().map(|agent| Arc::new(registry(agent)) as Arc<dyn Registry>);
        let started = (0..2 * EACH).map(|number| registrar(&writers[number % 2], number).start());
        let running = try_join_all(started).await.unwrap();
        let service = ServiceName::new(SERVICE).unwrap();
        let readers = Readers::new(registry(&cluster.agents[0]), registry(&cluster.agents[1]), &service);
        let scene = Self { cluster, writers, readers, running };
        scene.readers.until_both_have(2 * EACH, LIMIT).await;
        scene.readers.begin(2 * EACH);
        scene
    }

    /// Waits until all is whole again after what began then, one that is registered meanwhile included, and says how it
    /// was. The readers must never have been told less than there is.
    pub(crate) async fn heals(self, case: &str, begun: Instant) {
        self.heals_with(2 * EACH, case, begun).await;
    }

    /// The same, where readers may be told as few as `least` meanwhile.
    pub(crate) async fn heals_with(mut self, least: usize, case: &str, begun: Instant) {
        let (before, all) = (2 * EACH, 2 * EACH + 1);
        self.running.push(registrar(&self.writers[0], before).start_in_background().unwrap());
        let end = begun + WHOLE_WITHIN;
        for (agent, own) in self.cluster.agents.iter().zip([EACH + 1, EACH]) {
            while listed(agent).await != Some(all) || held(agent).await != Some(own) {
                assert!(
                    Instant::now() < end,
                    "{case}: not whole: {:?}\n{}",
                    self.readers.told(),
                    agent.log()
                );
                sleep(Duration::from_millis(50)).await;
            }
        }
        self.readers.until_both_have(all, WHOLE_WITHIN).await;
        let whole = begun.elapsed().as_secs_f64();
        let [watch, view] = self.readers.told();
        let told =
            |told: &Told| format!("{} of {before} at the least, {} errors", told.fewest_healthy, told.errors);
        println!("| {case} | {} | {} | {} | {whole:.1} s |", version(), told(&watch), told(&view));
        for told in [watch, view] {
            assert!(told.fewest > 0, "{case}: told that there is nobody: {told:?}");
            assert!(told.fewest >= least && told.fewest_healthy >= least, "{case}: {told:?}");
        }
    }

    /// Waits until both readers know that something is wrong.
    pub(crate) async fn until_readers_have_heard(&self) {
        let end = Instant::now() + WHOLE_WITHIN;
        while !self.readers.told().iter().all(|told| told.errors > 0) {
            assert!(Instant::now() < end, "no error: {:?}", self.readers.told());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Brings Consul's index to where no new cluster has it soon, by writes that nobody reads: by it a watch knows that
/// servers began anew.
async fn age(agent: &Agent) {
    stream::iter(0..WRITES)
        .map(|_| agent.put("/v1/kv/age", ""))
        .buffer_unordered(16)
        .for_each(|_| ready(()))
        .await;
}

/// How many of the instances Consul itself lists as passing.
async fn listed(agent: &Agent) -> Option<usize> {
    let path = format!("/v1/health/service/{SERVICE}?passing=true");
    look(agent, &path).await?.as_array().map(Vec::len)
}

/// How many instances the agent itself holds.
async fn held(agent: &Agent) -> Option<usize> {
    look(agent, "/v1/agent/services").await?.as_object().map(serde_json::Map::len)
}

async fn look(agent: &Agent, path: &str) -> Option<serde_json::Value> {
    let answer = timeout(LOOK, agent.get(path)).await.ok()?.ok()?;
    serde_json::from_str(&answer).ok()
}

fn registrar(registry: &Arc<dyn Registry>, number: usize) -> Registrar {
    let instance = Instance::builder(SERVICE).id(format!("{number}")).address("127.0.0.1:7001");
    Registrar::new(registry.clone(), instance.build().unwrap()).interval(INTERVAL).ttl(TTL)
}
