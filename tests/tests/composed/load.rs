//! Servers, clients that call them all the time, and how many calls failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use switchboard::client::reqwest::Discovery;
use switchboard::registrar::{Registrar, Running};
use switchboard::selector::Selector;
use switchboard::watcher::Directory;
use switchboard_core::{Instance, Registry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Longer than anything takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Calls under way. More would only wait for one another where the machine is busy.
const AT_ONCE: usize = 50;

pub(crate) const SERVICE: &str = "greeter";

/// An HTTP server that is registered.
pub(crate) struct Server {
    running: Running,
    _serving: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(registry: Arc<dyn Registry>, id: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let instance = Instance::builder(SERVICE).id(id).address(address).build().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(answer(connection));
            }
        });
        let registrar = Registrar::new(registry, instance).interval(Duration::from_secs(1));
        let registrar = registrar.ttl(Duration::from_secs(60)).drain(Duration::from_secs(2));
        Self { running: registrar.start().await.unwrap(), _serving: serving }
    }

    /// Ends as a server should: it deregisters, serves on for a while, and stops.
    pub(crate) async fn stop(self) {
        self.running.shutdown().await.unwrap();
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

/// How many calls went well, and how many did not.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<[AtomicUsize; 2]>);

impl Calls {
    pub(crate) fn get(&self) -> [usize; 2] {
        [0, 1].map(|of| self.0[of].load(SeqCst))
    }

    /// Waits for a hundred, so that what is next meets clients at work.
    pub(crate) async fn until_more(&self) {
        let before = self.get()[0];
        let more = async {
            while self.get()[0] < before + 100 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, more).await.expect("calls");
    }
}

/// Two hundred calls a second, or as many as the machine takes, until it is dropped.
pub(crate) struct Client {
    _calling: JoinSet<()>,
}

impl Client {
    /// Calls once there is somebody to call.
    pub(crate) async fn start(registry: Arc<dyn Registry>, calls: &Calls) -> Self {
        let selector = Selector::new(Directory::builder(registry).ready_timeout(LIMIT).build());
        selector.service(SERVICE).unwrap().ready().await.expect("a snapshot");
        let client = Discovery::new(selector).client().unwrap();
        let (calls, mut calling) = (calls.clone(), JoinSet::new());
        calling.spawn(async move {
            let mut ticks = interval(Duration::from_millis(5));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut under_way = JoinSet::new();
            loop {
                ticks.tick().await;
                if under_way.len() >= AT_ONCE {
                    under_way.join_next().await;
                }
                let (client, calls) = (client.clone(), calls.clone());
                under_way.spawn(async move {
                    let call = client.get(format!("http://{SERVICE}/")).timeout(LIMIT);
                    let done = call.send().await;
                    calls.0[usize::from(done.is_err())].fetch_add(1, SeqCst);
                    if let Err(error) = done {
                        eprintln!("{error:?}");
                    }
                });
                while under_way.try_join_next().is_some() {}
            }
        });
        Self { _calling: calling }
    }
}
