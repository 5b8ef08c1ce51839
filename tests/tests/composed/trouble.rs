use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures::StreamExt;
use switchboard::client::reqwest::Discovery;
use switchboard::registrar::{Registrar, Running};
use switchboard::selector::Selector;
use switchboard::watcher::Directory;
use switchboard_core::{Instance, Registry, ServiceName};
use switchboard_tests::consul::Agent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::{Composed, failover, mirror, registry, route, union};

/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(120);

const SERVICE: &str = "greeter";
const SERVERS: usize = 3;

/// Two agents, servers that are registered in both, a client that calls all the time, and a reader.
struct Scene {
    agents: [Agent; 2],
    composed: Composed,
    running: Vec<Running>,
    servers: JoinSet<()>,
    client: JoinSet<()>,
    calls: Arc<[AtomicUsize; 2]>,
    /// How many instances the reader was told last.
    told: watch::Receiver<usize>,
}

impl Scene {
    async fn start(composed: Composed) -> Self {
        let agents = [Agent::dev().await, Agent::dev().await];
        let parts = |agents: &[Agent]| composed(agents.iter().map(registry).collect());
        let mut scene = Self {
            running: Vec::new(),
            servers: JoinSet::new(),
            client: JoinSet::new(),
            calls: Arc::default(),
            told: watch::channel(0).1,
            composed,
            agents,
        };
        for number in 0..SERVERS {
            scene.add_server(number).await;
        }
        scene.told = scene.read(parts(&scene.agents));
        scene.until_told(SERVERS).await;
        scene.call(parts(&scene.agents));
        scene.until_more_calls().await;
        scene
    }

    fn handle(&self) -> Arc<dyn Registry> {
        (self.composed)(self.agents.iter().map(registry).collect())
    }

    async fn add_server(&mut self, number: usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = Instance::builder(SERVICE)
            .id(format!("greeter-{number}"))
            .address(listener.local_addr().unwrap())
            .build()
            .unwrap();
        self.servers.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(answer(connection));
            }
        });
        let registrar = Registrar::new(self.handle(), instance).interval(Duration::from_secs(1));
        self.running.push(registrar.ttl(Duration::from_secs(60)).start().await.unwrap());
    }

    /// Reads on, and never less than there is.
    fn read(&mut self, registry: Arc<dyn Registry>) -> watch::Receiver<usize> {
        let (sender, told) = watch::channel(0);
        let mut snapshots = registry.watch(&ServiceName::new(SERVICE).unwrap());
        self.client.spawn(async move {
            while let Some(said) = snapshots.next().await {
                let Ok(snapshot) = said else { continue };
                let before = *sender.borrow();
                assert!(before < SERVERS || snapshot.len() >= SERVERS, "told {snapshot:?} after {before}");
                sender.send_replace(snapshot.len());
            }
        });
        told
    }

    async fn until_told(&mut self, servers: usize) {
        let told = timeout(LIMIT, self.told.wait_for(|told| *told == servers)).await;
        told.unwrap_or_else(|_| panic!("{servers} servers")).unwrap();
    }

    /// Two hundred calls a second.
    fn call(&mut self, registry: Arc<dyn Registry>) {
        let calls = self.calls.clone();
        let client = Discovery::new(Selector::new(Directory::new(registry))).client().unwrap();
        self.client.spawn(async move {
            let mut ticks = interval(Duration::from_millis(5));
            let mut under_way = JoinSet::new();
            loop {
                ticks.tick().await;
                let (client, calls) = (client.clone(), calls.clone());
                under_way.spawn(async move {
                    let done = client
                        .get(format!("http://{SERVICE}/"))
                        .timeout(Duration::from_secs(20))
                        .send()
                        .await;
                    calls[usize::from(done.is_err())].fetch_add(1, SeqCst);
                    if let Err(error) = done {
                        eprintln!("{error:?}");
                    }
                });
                while under_way.try_join_next().is_some() {}
            }
        });
    }

    /// Waits for a hundred calls, so that what is next meets a client at work.
    async fn until_more_calls(&self) {
        let before = self.calls[0].load(SeqCst);
        let more = async {
            while self.calls[0].load(SeqCst) < before + 100 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, more).await.expect("calls");
    }

    /// Nothing was told that is less than there is, and no call has failed.
    async fn end(mut self, what: &str) {
        self.until_more_calls().await;
        while let Some(ended) = self.client.try_join_next() {
            ended.unwrap();
        }
        let [well, failed] = [0, 1].map(|of| self.calls[of].load(SeqCst));
        println!("{what}: {well} calls, {failed} failed");
        assert_eq!(failed, 0, "of {well} calls");
        for running in self.running {
            running.shutdown().await.unwrap();
        }
    }
}

/// Answers whatever is asked.
async fn answer(mut connection: TcpStream) {
    let mut asked = Vec::new();
    let mut part = [0; 1024];
    while let Ok(read @ 1..) = connection.read(&mut part).await {
        asked.extend_from_slice(&part[..read]);
        if asked.ends_with(b"\r\n\r\n") {
            asked.clear();
            if connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.is_err() {
                return;
            }
        }
    }
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
async fn trouble(composed: Composed, what: &str, first: usize, newcomers: Newcomers) {
    let mut scene = Scene::start(composed).await;
    let mut servers = SERVERS;

    scene.agents[first].kill();
    scene.until_more_calls().await;
    if newcomers != Newcomers::Never {
        scene.add_server(servers).await;
        servers += 1;
    }
    if newcomers == Newcomers::Meanwhile {
        scene.until_told(servers).await;
    }
    scene.agents[first].start();
    scene.agents[first].ready().await;
    scene.until_told(servers).await;
    scene.until_more_calls().await;

    scene.agents[first].hang();
    scene.until_more_calls().await;
    if newcomers != Newcomers::Never {
        scene.add_server(servers).await;
        servers += 1;
    }
    if newcomers == Newcomers::Meanwhile {
        scene.until_told(servers).await;
    }
    scene.agents[first].go_on();
    scene.until_told(servers).await;

    for _ in 0..3 {
        scene.agents[first].kill();
        scene.until_more_calls().await;
        scene.agents[first].start();
        scene.agents[first].ready().await;
        scene.until_more_calls().await;
    }
    scene.until_told(servers).await;
    scene.end(what).await;
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
