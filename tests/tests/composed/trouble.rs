use std::sync::Arc;

use futures::StreamExt;
use switchboard_core::{Registry, ServiceName};
use switchboard_tests::consul::Agent;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::load::{Calls, Client, LIMIT, SERVICE, Server};
use super::{Composed, failover, mirror, registry, route, union};

const SERVERS: usize = 3;

/// Two agents, servers that are registered in both, a client that calls all the time, and a reader.
struct Scene {
    agents: [Agent; 2],
    composed: Composed,
    servers: Vec<Server>,
    client: Client,
    calls: Calls,
    reader: JoinSet<()>,
    /// How many instances the reader was told last.
    told: watch::Receiver<usize>,
}

fn handle(composed: Composed, agents: &[Agent; 2]) -> Arc<dyn Registry> {
    composed(agents.iter().map(registry).collect())
}

impl Scene {
    async fn start(composed: Composed) -> Self {
        let agents = [Agent::dev().await, Agent::dev().await];
        let mut servers = Vec::new();
        for number in 0..SERVERS {
            servers.push(Server::start(handle(composed, &agents), &format!("greeter-{number}")).await);
        }
        let calls = Calls::default();
        let client = Client::start(handle(composed, &agents), &calls).await;
        let mut reader = JoinSet::new();
        let told = read(&mut reader, handle(composed, &agents));
        let mut scene = Self { agents, composed, servers, client, calls, reader, told };
        scene.until_told().await;
        scene.calls.until_more().await;
        scene
    }

    async fn add_server(&mut self) {
        let id = format!("greeter-{}", self.servers.len());
        self.servers.push(Server::start(handle(self.composed, &self.agents), &id).await);
    }

    /// Waits until the reader knows all servers.
    async fn until_told(&mut self) {
        let servers = self.servers.len();
        let told = timeout(LIMIT, self.told.wait_for(|told| *told == servers)).await;
        told.unwrap_or_else(|_| panic!("{servers} servers")).unwrap();
    }

    /// Nothing was told that is less than there is, and no call has failed.
    async fn end(mut self, what: &str) {
        self.calls.until_more().await;
        while let Some(ended) = self.reader.try_join_next() {
            ended.unwrap();
        }
        drop((self.client, self.reader));
        let [well, failed] = self.calls.get();
        println!("{what}: {well} calls, {failed} failed");
        assert_eq!(failed, 0, "of {well} calls");
        for server in self.servers {
            server.stop().await;
        }
    }
}

/// Reads on, and never less than there is.
fn read(reader: &mut JoinSet<()>, registry: Arc<dyn Registry>) -> watch::Receiver<usize> {
    let (sender, told) = watch::channel(0);
    reader.spawn(async move {
        let mut snapshots = registry.watch(&ServiceName::new(SERVICE).unwrap());
        while let Some(said) = snapshots.next().await {
            let Ok(snapshot) = said else { continue };
            let before = *sender.borrow();
            assert!(before < SERVERS || snapshot.len() >= SERVERS, "told {snapshot:?} after {before}");
            sender.send_replace(snapshot.len());
        }
    });
    told
}

/// When those are seen who come while one registry is away.
#[derive(Clone, Copy, PartialEq)]
enum Newcomers {
    Meanwhile,
    Later,
    /// They cannot register, and so do not come.
    Never,
}

/// One of two is killed and comes back with nothing, hangs, and flaps.
async fn trouble(composed: Composed, what: &str, which: usize, newcomers: Newcomers) {
    let mut scene = Scene::start(composed).await;

    scene.agents[which].kill();
    scene.calls.until_more().await;
    come(&mut scene, newcomers).await;
    scene.agents[which].start();
    scene.agents[which].ready().await;
    scene.until_told().await;
    scene.calls.until_more().await;

    scene.agents[which].hang();
    scene.calls.until_more().await;
    come(&mut scene, newcomers).await;
    scene.agents[which].go_on();
    scene.until_told().await;

    for _ in 0..3 {
        scene.agents[which].kill();
        scene.calls.until_more().await;
        scene.agents[which].start();
        scene.agents[which].ready().await;
        scene.calls.until_more().await;
    }
    scene.until_told().await;
    scene.end(what).await;
}

async fn come(scene: &mut Scene, newcomers: Newcomers) {
    if newcomers != Newcomers::Never {
        scene.add_server().await;
    }
    if newcomers == Newcomers::Meanwhile {
        scene.until_told().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn of_one_of_a_union() {
    trouble(union, "union, the first in trouble", 0, Newcomers::Meanwhile).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn of_the_other_of_a_union() {
    trouble(union, "union, the second in trouble", 1, Newcomers::Meanwhile).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn of_the_first_of_a_failover() {
    trouble(failover, "failover, the first in trouble", 0, Newcomers::Meanwhile).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn of_the_first_of_a_mirror() {
    trouble(mirror, "mirror, the first in trouble", 0, Newcomers::Later).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn of_the_second_of_a_mirror() {
    trouble(mirror, "mirror, the second in trouble", 1, Newcomers::Meanwhile).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn of_one_of_a_route() {
    trouble(route, "route, the one of the service in trouble", 0, Newcomers::Never).await;
}
