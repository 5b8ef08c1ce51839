//! The end: within which time the instance is deregistered.

use std::time::Duration;

use switchboard_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep, timeout};

use crate::Registrar;
use crate::calls::{LONGEST_CALL, late};
use crate::pause::{LONGEST_RETRY, retries};

impl Registrar {
    /// Deregisters, within what is left of the limit since the end was asked for.
    pub(crate) async fn leave(&self, asked: Instant) -> Result<()> {
        let limit = self.shutdown_limit.saturating_sub(asked.elapsed());
        match self.deregister_with_retries(limit).await {
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
