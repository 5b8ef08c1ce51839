use switchboard_selector::PickError;

use crate::TimedOut;

/// Why a call by name failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E> {
    /// No instance could be picked; nothing was sent.
    #[error(transparent)]
    Pick(PickError),
    /// The time was over that the call's options gave it.
    #[error(transparent)]
    TimedOut(TimedOut),
    /// The call to the picked instance failed, in the words of the service that made it.
    #[error(transparent)]
    Call(E),
}
