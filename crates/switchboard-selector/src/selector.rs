use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use switchboard_core::{Error, Invalid, Result, ServiceName};
use switchboard_watcher::Directory;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::group::Group;
use crate::hub::Settings;
use crate::outlier::at_most_1;
use crate::pool::Pool;
use crate::{Balancer, CallOptions, Filter, OutlierDetection, Pick, PickError, Random, SlowStart, Strategy};

/// Picks instances of any service in a directory.
///
/// Keeps one [`Balancer`] for each service asked for, so that places in the circle and what was learned last from call
/// to call. One that nobody holds and nobody has asked for over the directory's
/// [`linger`](switchboard_watcher::DirectoryBuilder::linger) is let go, and its view with it. Clones share everything.
#[derive(Clone, Debug)]
pub struct Selector {
    made_by: Arc<SelectorBuilder>,
    kept: Arc<Mutex<HashMap<ServiceName, Kept>>>,
}

/// A balancer that a task keeps for a while after it was last asked for.
#[derive(Debug)]
struct Kept {
    group: Weak<Group>,
    pool: Weak<Pool>,
    /// Wakes the task; dropping it ends the task.
    asked: watch::Sender<()>,
}

/// Settings of a [`Selector`]. Made with [`Selector::builder`].
#[derive(Debug)]
#[must_use = "a selector comes into being with `build()`"]
pub struct SelectorBuilder {
    directory: Directory,
    strategy: Arc<dyn Strategy>,
    filters: Vec<Filter>,
    settings: Settings,
}

impl SelectorBuilder {
    /// How to choose. Default [`Random`], as in go-micro, by weight.
    pub fn strategy(mut self, strategy: impl Strategy) -> Self {
        self.strategy = Arc::new(strategy);
        self
    }

    /// Adds a filter; they are applied in the order given. Default: none.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }

    /// When failing instances are taken out. Default: [`OutlierDetection::default`].
    pub fn outlier_detection(mut self, detection: OutlierDetection) -> Self {
        self.settings.outlier = Some(detection);
        self
    }

    /// No instance is taken out for failing.
    pub fn without_outlier_detection(mut self) -> Self {
        self.settings.outlier = None;
        self
    }

    /// How new and returning instances start. Default: [`SlowStart::default`].
    pub fn slow_start(mut self, slow: SlowStart) -> Self {
        self.settings.slow_start = Some(slow);
        self
    }

    /// All instances get their full share at once.
    pub fn without_slow_start(mut self) -> Self {
        self.settings.slow_start = None;
        self
    }

    /// When more than this fraction of the instances is ejected, the failures are more likely not theirs and all are
    /// used. Default 0.5, as Envoy's. When all are ejected all are used whatever this says.
    pub fn panic_threshold(mut self, fraction: f64) -> Self {
        self.settings.panic_threshold = at_most_1(fraction, 0.0);
        self
    }

    /// How fast a peak in latency is forgotten: to 1/e in this time. Default 10 s, as Finagle's.
    pub fn latency_decay(mut self, decay: Duration) -> Self {
        self.settings.latency_decay = decay.max(Duration::from_millis(1));
        self
    }

    /// Makes the selector. Nothing is watched until a service is asked for.
    pub fn build(self) -> Selector {
        Selector { made_by: Arc::new(self), kept: Arc::default() }
    }
}

impl Selector {
    /// A selector on `directory` that picks at random, with the default settings.
    pub fn new(directory: Directory) -> Self {
        Self::builder(directory).build()
    }

    /// Settings to change first.
    pub fn builder(directory: Directory) -> SelectorBuilder {
        let settings = Settings {
            outlier: Some(OutlierDetection::default()),
            slow_start: Some(SlowStart::default()),
            panic_threshold: 0.5,
            latency_decay: Duration::from_secs(10),
        };
        SelectorBuilder { directory, strategy: Arc::new(Random), filters: Vec::new(), settings }
    }

    /// The balancer of `service`, the same one each time. Returns at once; the service need not exist (yet).
    ///
    /// # Errors
    ///
    /// Those of [`Directory::service`]: a bad name, a closed directory, no tokio runtime around.
    pub fn service<S>(&self, service: S) -> Result<Balancer>
    where
        S: TryInto<ServiceName, Error: Into<Invalid>>,
    {
        let invalid = |error: S::Error| Error::invalid("selector", "service", &error.into());
        let service = service.try_into().map_err(invalid)?;
        let SelectorBuilder { directory, strategy, filters, settings } = &*self.made_by;
        let linger = directory.linger();
        if let Some(balancer) = self.kept().get_mut(&service).and_then(|kept| kept.balancer(linger)) {
            return Ok(balancer);
        }
        // Without the lock: strategies and registries of others run here.
        let view = directory.service::<ServiceName>(service.clone())?;
        let group = Group::new(directory, view, settings.clone())?;
        let balancer = Balancer { pool: group.pool(strategy, filters.clone()), group };
        let mut kept = self.kept();
        if kept.len().is_power_of_two() {
            kept.retain(|_, kept| kept.group.strong_count() > 0);
        }
        // Somebody may have been faster.
        let earlier = kept.get_mut(&service).and_then(|kept| kept.balancer(linger));
        Ok(earlier.unwrap_or_else(|| {
            kept.insert(service, Kept::new(&balancer, linger));
            balancer
        }))
    }

    /// Picks an instance of `service`, waiting for a first snapshot if there is none yet, at most the directory's
    /// `ready_timeout`.
    ///
    /// # Errors
    ///
    /// Those of [`Balancer::pick`]; [`PickError::Registry`] for a bad name, and for a registry that could not be heard
    /// in time.
    pub async fn select<S>(&self, service: S) -> Result<Pick, PickError>
    where
        S: TryInto<ServiceName, Error: Into<Invalid>>,
    {
        pick(&self.service(service)?).await
    }

    /// [`select`](Self::select) with a strategy or filters for this call.
    ///
    /// # Errors
    ///
    /// As for [`select`](Self::select).
    pub async fn select_with<S>(&self, service: S, options: &CallOptions) -> Result<Pick, PickError>
    where
        S: TryInto<ServiceName, Error: Into<Invalid>>,
    {
        pick(&self.service(service)?.with(options)).await
    }

    /// The directory beneath.
    pub fn directory(&self) -> &Directory {
        &self.made_by.directory
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<ServiceName, Kept>> {
        // Nothing panics under this lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn new(balancer: &Balancer, linger: Duration) -> Self {
        let (asked, questions) = watch::channel(());
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(keep(balancer.clone(), questions, linger));
        }
        Self { group: Arc::downgrade(&balancer.group), pool: Arc::downgrade(&balancer.pool), asked }
    }

    /// The balancer, kept for another while; `None` if it is gone, or lives no more as its runtime has ended.
    fn balancer(&mut self, linger: Duration) -> Option<Balancer> {
        let balancer = Balancer { group: self.group.upgrade()?, pool: self.pool.upgrade()? };
        if balancer.group.is_over() {
            return None;
        }
        if self.asked.send(()).is_err() {
            *self = Self::new(&balancer, linger);
        }
        Some(balancer)
    }
}

/// Holds a balancer until nobody has asked for it for this long, or its selector is gone.
async fn keep(_balancer: Balancer, mut asked: watch::Receiver<()>, linger: Duration) {
    while let Ok(Ok(())) = timeout(linger, asked.changed()).await {}
}

async fn pick(balancer: &Balancer) -> Result<Pick, PickError> {
    match balancer.pick() {
        Err(PickError::NotHeard { .. }) => {
            balancer.ready().await?;
            balancer.pick()
        }
        picked => picked,
    }
}
