use switchboard_selector::PickError;

use crate::TimedOut;

/// Why a call by name failed. What it wraps is its source, so that [`is_timeout`](crate::is_timeout) sees it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E> {
    /// No instance could be picked; nothing was sent.
    #[error("{0}")]
    Pick(#[source] PickError),
    /// The time was over that the call's options gave it.
    #[error("{0}")]
    TimedOut(#[source] TimedOut),
    /// The call to the picked instance failed, in the words of the service that made it.
    #[error("{0}")]
    Call(#[source] E),
}
