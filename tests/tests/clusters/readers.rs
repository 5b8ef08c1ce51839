//! Two readers of one service, and the least they were ever told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use switchboard_consul::ConsulRegistry;
use switchboard_core::{Registry, ServiceName, Snapshot};
use switchboard_watcher::Directory;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// What a reader was told since it was first told everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// How many instances at the least, and how many that may be called.
    pub(crate) fewest: usize,
    pub(crate) fewest_healthy: usize,
    pub(crate) errors: usize,
    /// How many that may be called now; `None` while the last word was an error.
    pub(crate) now: Option<usize>,
}

/// A watch through one agent and a live view through the other.
pub(crate) struct Readers {
    told: [Arc<Mutex<Told>>; 2],
    _tasks: JoinSet<()>,
}

impl Readers {
    pub(crate) fn new(watching: ConsulRegistry, viewing: ConsulRegistry, service: &ServiceName) -> Self {
        let nothing = Told { fewest: usize::MAX, fewest_healthy: usize::MAX, errors: 0, now: None };
        let told = [nothing; 2].map(|told| Arc::new(Mutex::new(told)));
        let mut tasks = JoinSet::new();
        let (mut watch, by_watch) = (watching.watch(service), told[0].clone());
        tasks.spawn(async move {
            let _open = watching;
            while let Some(item) = watch.next().await {
                let mut told = by_watch.lock().unwrap();
                match item {
                    Ok(snapshot) => told.snapshot(&snapshot),
                    Err(_) => told.error(),
                }
            }
        });
        let directory = Directory::new(viewing);
        let (mut view, by_view) = (directory.service(service).unwrap(), told[1].clone());
        tasks.spawn(async move {
            let _directory = directory;
            loop {
                if let Some(snapshot) = view.snapshot() {
                    by_view.lock().unwrap().snapshot(&snapshot);
                }
                if !view.status().is_fresh() {
                    by_view.lock().unwrap().error();
                }
                view.changed().await;
            }
        });
        Self { told, _tasks: tasks }
    }

    /// Whether both were told last that so many may be called.
    fn have(&self, count: usize) -> bool {
        self.told().iter().all(|told| told.now == Some(count))
    }

    pub(crate) async fn until_both_have(&self, count: usize, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.have(count) {
            assert!(Instant::now() < end, "not {count}: {:?}", self.told());
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn told(&self) -> [Told; 2] {
        self.told.each_ref().map(|told| *told.lock().unwrap())
    }

    /// Forgets what was told before there were so many.
    pub(crate) fn begin(&self, count: usize) {
        for told in &self.told {
            let mut told = told.lock().unwrap();
            (told.fewest, told.fewest_healthy, told.errors) = (count, count, 0);
        }
    }
}

impl Told {
    fn snapshot(&mut self, snapshot: &Snapshot) {
        let healthy = snapshot.healthy().count();
        self.fewest = self.fewest.min(snapshot.len());
        self.fewest_healthy = self.fewest_healthy.min(healthy);
        self.now = Some(healthy);
    }

    fn error(&mut self) {
        self.errors += 1;
        self.now = None;
    }
}
