use std::fmt;
use std::sync::Arc;

use switchboard_core::{InstanceId, Result, ServiceName};
use switchboard_watcher::View;

use crate::group::Group;
use crate::pool::Pool;
use crate::{FailureKind, Filter, InstanceReport, Pick, PickError, Request, Strategy};

/// Picks among the instances of one service.
///
/// Cheap to clone; clones share everything. What is learned of an instance (calls in flight, latency, failures) is
/// shared by all balancers of a service that come from one [`Selector`](crate::Selector).
///
/// It lives by the runtime it was first asked for on: when that ends, it picks from what was known last. Ask the selector
/// again, and there is a new one.
#[derive(Clone)]
pub struct Balancer {
    pub(crate) group: Arc<Group>,
    pub(crate) pool: Arc<Pool>,
}

/// A strategy and filters for some calls only.
///
/// Nothing is built anew when the same are given again: built-in strategies and filters are compared by value, a
/// strategy that holds something and a custom filter by identity, so build those once and keep them.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    strategy: Option<Arc<dyn Strategy>>,
    filters: Vec<Filter>,
}

impl CallOptions {
    /// The balancer's own strategy and no further filter.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this strategy instead.
    pub fn strategy(mut self, strategy: impl Strategy) -> Self {
        self.strategy = Some(Arc::new(strategy));
        self
    }

    /// With this filter after the balancer's own.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }
}

impl Balancer {
    /// Chooses an instance. Takes no lock, allocates nothing, waits for nothing.
    ///
    /// # Errors
    ///
    /// [`PickError::NotHeard`] and [`PickError::NotFound`] when nothing is known of the service,
    /// [`PickError::NoneUsable`] when instances are known but none may be used.
    #[inline]
    pub fn pick(&self) -> Result<Pick, PickError> {
        self.pool.pick(&Request::new())
    }

    /// Chooses an instance for `request`: by its key, or avoiding those already tried.
    ///
    /// # Errors
    ///
    /// As for [`pick`](Self::pick).
    #[inline]
    pub fn pick_for(&self, request: &Request<'_>) -> Result<Pick, PickError> {
        self.pool.pick(request)
    }

    /// Whether [`pick_for`](Self::pick_for) can choose an instance that `request` does not avoid.
    pub fn has_other(&self, request: &Request<'_>) -> bool {
        self.pool.has_other(request)
    }

    /// Waits until the registry has been heard, at most the directory's `ready_timeout`.
    ///
    /// # Errors
    ///
    /// Those of [`View::ready`].
    pub async fn ready(&self) -> Result<()> {
        self.group.view.ready().await?;
        self.group.refresh();
        Ok(())
    }

    /// A balancer with other options on the same instances, sharing what is learned of them. For equal options it is
    /// the same one each time; the last 64 are kept.
    pub fn with(&self, options: &CallOptions) -> Balancer {
        let strategy = options.strategy.as_ref().unwrap_or(&self.pool.strategy);
        let filters = [&self.pool.filters[..], &options.filters].concat();
        Balancer { group: self.group.clone(), pool: self.group.pool(strategy, filters) }
    }

    /// Tells what came of a call, for callers who hold no [`Pick`]; its latency stays unknown. Returns whether there
    /// is such an instance.
    pub fn mark(&self, id: &InstanceId, outcome: Result<(), FailureKind>) -> bool {
        self.group.mark(id, outcome)
    }

    /// Forgets all that was learned of the service's instances: latencies, failures, ejections, slow starts. Calls in
    /// flight stay counted.
    pub fn reset(&self) {
        self.group.reset();
    }

    /// How each instance stands: why is it picked, or not? Sorted by id.
    pub fn report(&self) -> Vec<InstanceReport> {
        crate::report::report(&self.group, &self.pool)
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.group.hub.service
    }

    /// The live view the picks are made from.
    pub fn view(&self) -> &View {
        &self.group.view
    }
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer")
            .field("service", self.service())
            .field("strategy", &self.pool.strategy)
            .field("filters", &self.pool.filters)
            .finish_non_exhaustive()
    }
}
