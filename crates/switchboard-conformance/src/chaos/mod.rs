//! A registry with bad days, for tests of what is built on one.

mod follow;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceKey, NamesStream, RegisterOptions, Registry, Result, ServiceName,
    Snapshot, SnapshotStream,
};
use tokio::sync::watch;
use tokio::time::sleep;

const BACKEND: &str = "chaos";

/// A registry decorated with trouble, to see how a program lives with it.
///
/// Calm at first: everything passes through, and the contract is kept as far as the registry beneath keeps it. A test
/// brings about what it wants to see, at any time, also while calls and watches are under way:
///
/// | method | what comes of it | within the contract |
/// |---|---|---|
/// | [`outage`](Self::outage), [`heal`](Self::heal) | calls fail, watches tell one error and, healed, the current state | yes |
/// | [`delay`](Self::delay) | calls and what watches tell are late | yes |
/// | [`failures`](Self::failures) | some calls fail, having arrived or not; watches tell an error now and then | yes |
/// | [`losses`](Self::losses) | watches leave out states between, never the last | yes |
/// | [`repeats`](Self::repeats) | watches tell some states twice | no, but there are registries that do |
/// | [`calm`](Self::calm) | none of these any more | |
///
/// After [`Registry::close`] nothing is disturbed any more.
///
/// What happens at random depends on the [seed](Self::seed) alone: every watch and every call draws from it by the number
/// of its kind, so that one does not change the luck of another. Time is tokio's, and pauses with it. There is no task;
/// a watch does its work while it is polled.
///
/// ```
/// use futures::StreamExt;
/// use switchboard_conformance::Chaos;
/// use switchboard_core::{MemoryRegistry, Registry, ServiceName};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), switchboard_core::Error> {
/// let registry = Chaos::new(MemoryRegistry::new()).seed(42);
/// let greeter = ServiceName::new("greeter")?;
/// let mut watch = registry.watch(&greeter);
/// assert!(watch.next().await.is_some_and(|item| item.is_ok()));
///
/// registry.outage();
/// assert!(registry.lookup(&greeter).await.is_err());
/// assert!(watch.next().await.is_some_and(|item| item.is_err()));
///
/// registry.heal();
/// assert!(watch.next().await.is_some_and(|item| item.is_ok()), "told again, though nothing changed");
/// # Ok(())
/// # }
/// ```
pub struct Chaos<R> {
    registry: R,
    sky: Arc<Sky>,
    watches: AtomicU64,
    calls: AtomicU64,
    closed: AtomicBool,
}

/// What all watches look up to.
#[derive(Default)]
struct Sky {
    seed: u64,
    weather: Mutex<Weather>,
    outage: watch::Sender<Outage>,
}

/// What happens at random.
#[derive(Clone, Copy, Default)]
struct Weather {
    delay: Duration,
    failures: f64,
    losses: f64,
    repeats: f64,
}

/// Which outage it is, or was, counted from 1.
#[derive(Clone, Copy, Default, PartialEq)]
struct Outage {
    number: u64,
    lasts: bool,
}

impl<R: Registry> Chaos<R> {
    /// Decorates `registry`; calm, with seed 0.
    pub fn new(registry: R) -> Self {
        let (watches, calls) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { registry, sky: Arc::default(), watches, calls, closed: AtomicBool::new(false) }
    }

    /// With other luck. Before the first use: watches there are already are left behind.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        let sky = Sky {
            seed,
            weather: Mutex::new(*self.sky.weather()),
            outage: watch::Sender::new(self.sky.now()),
        };
        Self { sky: Arc::new(sky), ..self }
    }
}

impl<R> Chaos<R> {
    /// Begins an outage: until [`heal`](Self::heal), calls answer [`ErrorKind::Unavailable`] and reach nothing, and
    /// watches tell that once. Does nothing if there is one already.
    pub fn outage(&self) {
        self.sky.outage.send_if_modified(|outage| {
            let begins = !outage.lasts;
            if begins {
                *outage = Outage { number: outage.number + 1, lasts: true };
            }
            begins
        });
    }

    /// Ends the outage: watches that have told of it tell the current state, equal or not. Does nothing if there is none.
    pub fn heal(&self) {
        self.sky.outage.send_if_modified(|outage| std::mem::take(&mut outage.lasts));
    }

    /// Whether there is an outage.
    pub fn is_out(&self) -> bool {
        self.sky.now().lasts
    }

    /// Every call, and every item of a watch, is late by up to this much, evenly spread. Zero ends it.
    pub fn delay(&self, longest: Duration) {
        self.sky.weather().delay = longest;
    }

    /// This share (0 to 1) of the calls fails with [`ErrorKind::Unavailable`], half of them after they have taken
    /// effect, and as often a watch tells an error before an item.
    pub fn failures(&self, share: f64) {
        self.sky.weather().failures = share;
    }

    /// This share (0 to 1) of the items of a watch is kept back for a second, and only the newest by then is told.
    pub fn losses(&self, share: f64) {
        self.sky.weather().losses = share;
    }

    /// This share (0 to 1) of the items of a watch is told twice in a row, against the contract.
    pub fn repeats(&self, share: f64) {
        self.sky.weather().repeats = share;
    }

    /// Ends every trouble, an outage included.
    pub fn calm(&self) {
        *self.sky.weather() = Weather::default();
        self.heal();
    }

    /// The registry beneath, which has only good days.
    pub fn inner(&self) -> &R {
        &self.registry
    }

    /// A call with its share of trouble.
    async fn call<T>(&self, operation: &'static str, made: impl Future<Output = Result<T>>) -> Result<T> {
        if self.closed.load(Ordering::Acquire) {
            return made.await;
        }
        let mut dice = self.sky.dice(&self.calls, "call");
        let weather = *self.sky.weather();
        let late = weather.delay.mul_f64(dice.f64());
        // A sleep of nothing still takes a tick.
        if !late.is_zero() {
            sleep(late).await;
        }
        let (fails, arrives) = (dice.f64() < weather.failures, dice.bool());
        if self.is_out() || (fails && !arrives) {
            return Err(trouble(operation));
        }
        let answer = made.await;
        if fails && answer.is_ok() { Err(trouble(operation)) } else { answer }
    }
}

impl Sky {
    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Outage {
        *self.outage.borrow()
    }

    /// The luck of the next of its kind.
    fn dice(&self, count: &AtomicU64, kind: &str) -> Rng {
        let number = count.fetch_add(1, Ordering::Relaxed);
        // A generator's first numbers differ little between neighbouring seeds, so each seed is drawn from another.
        let salt = kind.bytes().fold(0, |salt, byte| salt << 8 | u64::from(byte));
        Rng::with_seed(Rng::with_seed(self.seed ^ salt).u64(..) ^ Rng::with_seed(number).u64(..))
    }
}

fn trouble(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, operation, "brought about by a test")
}

#[async_trait]
impl<R: Registry> Registry for Chaos<R> {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        self.call("register", self.registry.register(instance, options)).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.call("deregister", self.registry.deregister(key)).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        self.call("lookup", self.registry.lookup(service)).await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        self.call("services", self.registry.services()).await
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        follow::follow(
            "watch",
            self.registry.watch(service),
            &self.sky,
            self.sky.dice(&self.watches, "watch"),
        )
    }

    fn watch_services(&self) -> NamesStream {
        let names = self.registry.watch_services();
        follow::follow("watch_services", names, &self.sky, self.sky.dice(&self.watches, "watch"))
    }

    async fn suspect(&self, key: &InstanceKey) {
        let hint = async {
            self.registry.suspect(key).await;
            Ok(())
        };
        // A hint that is lost is nothing.
        let _ = self.call("suspect", hint).await;
    }

    async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        self.call("set_maintenance", self.registry.set_maintenance(key, reason)).await
    }

    async fn local_ip(&self) -> Option<IpAddr> {
        self.registry.local_ip().await
    }

    fn parts(&self) -> Vec<Arc<dyn Registry>> {
        self.registry.parts()
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.registry.close().await
    }
}

impl<R: fmt::Display> fmt::Display for Chaos<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.registry.fmt(f)
    }
}

impl<R: fmt::Debug> fmt::Debug for Chaos<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos")
            .field("registry", &self.registry)
            .field("out", &self.is_out())
            .finish_non_exhaustive()
    }
}
