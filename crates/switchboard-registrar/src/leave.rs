//! The end: when it is asked for, how, and within which time the instance is deregistered.

use std::time::Duration;

use switchboard_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep, timeout};

use crate::Registrar;
use crate::calls::{LONGEST_CALL, late};
use crate::pause::{LONGEST_RETRY, retries};

/// Ending a start that failed may take so long.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(1);

/// How to end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// Deregisters, trying again until the shutdown limit.
    Shutdown,
    /// Deregisters once, and only what the registry may have.
    GiveUp,
}

impl Stop {
    /// How long ending may take, a call in flight included.
    pub(crate) fn limit(self, registrar: &Registrar) -> Duration {
        match self {
            Self::Shutdown => registrar.shutdown_limit,
            Self::GiveUp => GIVE_UP_LIMIT,
        }
    }
}

impl Registrar {
    /// Deregisters, within what is left of the limit since the end was asked for.
    pub(crate) async fn leave(&self, stop: Stop, asked: Instant, may_be_there: bool) -> Result<()> {
        let limit = stop.limit(self).saturating_sub(asked.elapsed());
        let left = match stop {
            Stop::Shutdown => self.deregister_with_retries(limit).await,
            Stop::GiveUp if may_be_there => self.deregister(limit).await,
            Stop::GiveUp => Ok(()),
        };
        match left {
            // The registry deregistered everything when it was closed.
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            left => left,
        }
    }

    async fn deregister_with_retries(&self, limit: Duration) -> Result<()> {
        // One that hangs leaves time for another.
        let half = (limit / 2).min(LONGEST_CALL);
        let mut failed: Option<Error> = None;
        let leaving = async {
            let mut pauses = retries(LONGEST_RETRY);
            loop {
                match self.deregister(half).await {
                    Err(error) if error.is_transient() => failed = Some(error),
                    done => return done,
                }
                sleep(pauses.next().unwrap_or(LONGEST_RETRY)).await;
            }
        };
        let done = timeout(limit, leaving).await;
        done.unwrap_or_else(|_| Err(failed.unwrap_or_else(|| late("deregister", limit))))
    }
}
