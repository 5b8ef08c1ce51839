//! Nothing is registered after the deregistration has begun, whatever is under way when it does.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use switchboard_core::{
    Error, ErrorKind, InstanceKey, MemoryRegistry, NamesStream, RegisterOptions, Registry, Result,
    ServiceName, Snapshot, SnapshotStream,
};
use switchboard_registrar::{Registrar, Running, Status};
use tokio::time::{sleep, timeout};

use crate::support::{instance, seconds};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Register,
    /// It reached the registry.
    Registered,
    Deregister,
    ShutdownAsked,
}

/// A registry far away: each call takes its time on the way there and back, and some fail on either way.
#[derive(Debug)]
struct Far {
    memory: MemoryRegistry,
    log: Arc<Mutex<Vec<Event>>>,
    /// What is sent arrives, though the caller may have given up; otherwise that ends the call.
    arrives_anyway: bool,
    slowest: Duration,
}

impl Far {
    async fn way(&self) -> Result<()> {
        sleep(random(self.slowest)).await;
        let lost = fastrand::u8(..10) == 0;
        if lost { Err(Error::new(ErrorKind::Unavailable, "far", "call", "was lost")) } else { Ok(()) }
    }

    fn note(&self, event: Event) {
        self.log.lock().unwrap().push(event);
    }
}

/// What the registrar holds: a handle to it.
#[derive(Clone, Debug)]
struct Handle(Arc<Far>);

impl Handle {
    async fn call(&self, call: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
        if self.0.arrives_anyway { tokio::spawn(call).await.unwrap() } else { call.await }
    }
}

#[async_trait]
impl Registry for Handle {
    async fn register(&self, instance: &switchboard_core::Instance, options: &RegisterOptions) -> Result<()> {
        let (far, instance, options) = (self.0.clone(), instance.clone(), options.clone());
        far.note(Event::Register);
        self.call(async move {
            far.way().await?;
            far.note(Event::Registered);
            far.memory.register(&instance, &options).await?;
            far.way().await
        })
        .await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        let (far, key) = (self.0.clone(), key.clone());
        far.note(Event::Deregister);
        self.call(async move {
            far.way().await?;
            far.memory.deregister(&key).await?;
            far.way().await
        })
        .await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.0.memory.lookup(service).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.0.memory.services().await
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        self.0.memory.watch(service)
    }

    fn watch_services(&self) -> NamesStream {
        self.0.memory.watch_services()
    }

    async fn close(&self) -> Result<()> {
        self.0.memory.close().await
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("far:")
    }
}

fn random(longest: Duration) -> Duration {
    longest.mul_f64(fastrand::f64())
}

/// Well two times out of three, after a while.
async fn check() -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    sleep(random(seconds(6))).await;
    if fastrand::u8(..3) == 0 { Err("so it goes".into()) } else { Ok(()) }
}

/// Changes the instance now and then, and often does not wait for what comes of it.
async fn change(running: &Running) {
    for weight in 1.. {
        sleep(random(seconds(5))).await;
        let changed = instance().to_builder().weight(weight).build().unwrap();
        let _ = timeout(random(seconds(5)), running.update(changed)).await;
    }
}

/// One life, and what happened in it.
async fn live(arrives_anyway: bool) -> Vec<Event> {
    // What arrives anyway can be waited for only within the limits: 5 s for a call, 10 s for the one in flight at the end.
    let slowest = if arrives_anyway { Duration::from_millis(2400) } else { seconds(15) };
    let log = Arc::new(Mutex::default());
    let far = Arc::new(Far { memory: MemoryRegistry::new(), log, arrives_anyway, slowest });
    let running = Registrar::new(Arc::new(Handle(far.clone())), instance())
        .interval(seconds(5))
        .ttl(seconds(15))
        .check(check)
        .check_interval(seconds(3))
        .unhealthy_after(2)
        .shutdown_limit(seconds(20))
        .start_in_background()
        .unwrap();
    let mut status = running.watch_status();
    let _ = timeout(random(seconds(60)), change(&running)).await;

    far.note(Event::ShutdownAsked);
    let left = if fastrand::bool() {
        running.shutdown().await.is_ok()
    } else {
        drop(running);
        status.wait_for(|status| matches!(status, Status::Stopped)).await.unwrap();
        false
    };
    if left {
        assert!(far.memory.lookup(instance().service()).await.unwrap().all().is_empty());
    }
    sleep(seconds(1000)).await;
    assert!(far.memory.lookup(instance().service()).await.unwrap().all().is_empty());
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    far.log.lock().unwrap().clone()
}

#[test]
fn nothing_is_registered_after_the_deregistration_began() {
    let mut in_flight = 0;
    for seed in 0..400 {
        fastrand::seed(seed);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let log = runtime.block_on(live(seed % 2 == 0));
        let asked = log.iter().position(|event| *event == Event::ShutdownAsked).unwrap();
        let after = &log[asked..];
        assert!(!after.contains(&Event::Register), "seed {seed}: {log:?}");
        let deregister = after.iter().position(|event| *event == Event::Deregister);
        let deregister = deregister.expect("it is always deregistered");
        assert!(!after[deregister..].contains(&Event::Registered), "seed {seed}: {log:?}");
        in_flight += usize::from(after.contains(&Event::Registered));
    }
    assert!(in_flight > 20, "often one was under way: {in_flight}");
}
