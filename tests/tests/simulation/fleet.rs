//! Instances and their callers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
use switchboard_selector::{Balancer, FailureKind, Selector, SelectorBuilder};
use switchboard_watcher::Directory;
use tokio::time::{Instant, sleep, timeout};

pub(crate) const SERVICE: &str = "simulated";

/// How an instance answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Answers take between half and one and a half of this.
    pub(crate) latency: Duration,
    /// The part of the calls that fails.
    pub(crate) fails: f64,
    pub(crate) hangs: bool,
}

impl Manner {
    pub(crate) fn good(latency: Duration) -> Self {
        Self { latency, fails: 0.0, hangs: false }
    }
}

/// The instances of one service, and how they answer.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) registry: Rc<MemoryRegistry>,
    manners: Rc<RefCell<BTreeMap<String, Rc<Cell<Manner>>>>>,
}

/// What became of one call.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    pub(crate) at: Instant,
    /// The instance, or why there was none.
    pub(crate) id: Result<String, String>,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self { registry: Rc::new(MemoryRegistry::new()), manners: Rc::default() }
    }

    pub(crate) async fn add(&self, id: &str, weight: u16, manner: Manner) {
        let port = 1 + u16::try_from(self.manners.borrow().len()).unwrap();
        let instance = Instance::builder(SERVICE).id(id).weight(weight).address(format!("10.0.0.1:{port}"));
        self.registry.register(&instance.build().unwrap(), &RegisterOptions::new()).await.unwrap();
        self.set(id, manner);
    }

    /// How an instance answers from now on, also one that registers by itself.
    pub(crate) fn set(&self, id: &str, manner: Manner) {
        let mut manners = self.manners.borrow_mut();
        manners.entry(id.into()).or_insert_with(|| Rc::new(Cell::new(manner))).set(manner);
    }

    pub(crate) async fn balancer(
        &self,
        settings: impl FnOnce(SelectorBuilder) -> SelectorBuilder,
    ) -> Balancer {
        let directory = Directory::builder(self.registry.handle()).linger(Duration::ZERO).build();
        let balancer = settings(Selector::builder(directory)).build().service(SERVICE).unwrap();
        balancer.ready().await.unwrap();
        balancer
    }

    /// Calls at random moments, so many a second on average, for so long; waits until all are over.
    pub(crate) async fn call(
        &self,
        balancer: &Balancer,
        load: Load,
        random: &mut fastrand::Rng,
    ) -> Vec<Called> {
        let (end, called) = (Instant::now() + load.time, Rc::new(RefCell::new(Vec::new())));
        let mut calls = Vec::new();
        while Instant::now() < end {
            let (fleet, balancer, called) = (self.clone(), balancer.clone(), called.clone());
            calls.push(tokio::task::spawn_local(async move {
                let one = fleet.call_once(&balancer, load.patience).await;
                called.borrow_mut().push(one);
            }));
            calls.retain(|call| !call.is_finished());
            sleep(Duration::from_secs_f64(-(1.0 - random.f64()).ln() / load.per_second)).await;
        }
        for call in calls {
            call.await.unwrap();
        }
        called.take()
    }

    async fn call_once(&self, balancer: &Balancer, patience: Duration) -> Called {
        let at = Instant::now();
        let pick = match balancer.pick() {
            Ok(pick) => pick,
            Err(error) => return Called { at, id: Err(error.to_string()) },
        };
        let id = pick.id().to_string();
        let manner = self.manners.borrow()[&id].clone();
        let answer = async move {
            let Manner { latency, fails, hangs } = manner.get();
            if hangs {
                std::future::pending::<()>().await;
            }
            sleep(latency.mul_f64(0.5 + fastrand::f64())).await;
            let failed = fastrand::f64() < fails;
            pick.finish(if failed { Err(FailureKind::Response) } else { Ok(()) });
        };
        let _ = timeout(patience, answer).await;
        Called { at, id: Ok(id) }
    }
}

/// How callers behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) time: Duration,
    /// After this a call is given up.
    pub(crate) patience: Duration,
}

/// The part of the calls since `since` that went to instances that `which` names.
pub(crate) fn share(called: &[Called], since: Instant, which: impl Fn(&str) -> bool) -> f64 {
    let late: Vec<&Called> = called.iter().filter(|call| call.at >= since).collect();
    let to = late.iter().filter(|call| call.id.as_ref().is_ok_and(|id| which(id))).count();
    to as f64 / late.len().max(1) as f64
}
