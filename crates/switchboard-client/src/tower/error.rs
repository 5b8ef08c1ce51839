use std::sync::Arc;

use switchboard_core::{Instance, ServiceName};
use switchboard_selector::PickError;

use crate::TimedOut;
use crate::failures::Failures;

/// Why a call by name failed: in a line the service, the instance that was called, and what it failed with. What it wraps is
/// its source, so that [`is_timeout`](crate::is_timeout) sees it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E> {
    /// No instance could be picked; nothing was sent.
    #[error("{0}")]
    Pick(#[source] PickError),
    /// The time was over that the call's options gave it.
    #[error("{}{source}", before(service, instance.as_deref()))]
    TimedOut {
        /// The service.
        service: ServiceName,
        /// The instance that was called; `None` while one was waited for.
        instance: Option<Arc<Instance>>,
        /// Which time it was.
        source: TimedOut,
    },
    /// The call to the picked instance failed, in the words of the service that made it.
    #[error("{}{source}", before(instance.service(), Some(instance)))]
    Call {
        /// The instance that was called.
        instance: Arc<Instance>,
        /// What it failed with.
        source: E,
    },
}

/// What is said before why.
fn before(service: &ServiceName, instance: Option<&Instance>) -> Failures {
    instance.map_or_else(|| Failures::new(service), |instance| Failures::of(instance, String::new()))
}
