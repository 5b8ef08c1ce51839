//! Calls to the registry: one that hangs is given up, and one that panics has failed.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use switchboard_core::{Error, ErrorKind, Instance, RegisterOptions, Result};
use tokio::time::timeout;

use crate::Registrar;
use crate::caught::Caught;

/// A call to the registry may take at least so long, however short the TTL.
const SHORTEST_CALL: Duration = Duration::from_secs(1);

/// A call may take so long at most, however long the TTL: one that hangs must not hold up a withdrawal.
pub(crate) const LONGEST_CALL: Duration = Duration::from_secs(30);

/// What a registry did with a registration.
#[derive(Clone, Debug)]
pub(crate) enum Taken {
    /// It has it.
    Here,
    /// It can only be read, and this is who registers instead.
    Elsewhere(Arc<str>),
}

impl Registrar {
    pub(crate) async fn register(&self, instance: &Instance) -> Result<Taken> {
        let mut options = RegisterOptions::new();
        options.ttl = self.effective_ttl();
        let call = async { self.registry.register(instance, &options).await };
        match within(self.call_limit(), "register", call).await {
            Ok(()) => Ok(Taken::Here),
            Err(error) => match error.registered_by() {
                Some(who) => Ok(Taken::Elsewhere(who.into())),
                None => Err(error),
            },
        }
    }

    pub(crate) async fn deregister(&self, limit: Duration) -> Result<()> {
        let call = async { self.registry.deregister(&self.instance.key()).await };
        match within(limit, "deregister", call).await {
            // There is nothing of ours in what can only be read.
            Err(error) if error.registered_by().is_some() => Ok(()),
            done => done,
        }
    }

    /// So long a call may take that a second one comes before the TTL lapses.
    pub(crate) fn call_limit(&self) -> Duration {
        let half = |ttl: Duration| ttl.saturating_sub(self.effective_interval()) / 2;
        self.effective_ttl().map_or(LONGEST_CALL, half).clamp(SHORTEST_CALL, LONGEST_CALL)
    }
}

async fn within(
    limit: Duration,
    operation: &'static str,
    call: impl Future<Output = Result<()>>,
) -> Result<()> {
    match timeout(limit, Caught::new(call)).await {
        Ok(Some(done)) => done,
        Ok(None) => Err(unavailable(operation, "the registry panicked".into())),
        Err(_) => Err(late(operation, limit)),
    }
}

pub(crate) fn late(operation: &'static str, limit: Duration) -> Error {
    unavailable(operation, format!("the registry did not answer within {limit:?}"))
}

fn unavailable(operation: &'static str, message: String) -> Error {
    Error::new(ErrorKind::Unavailable, "registrar", operation, message)
}

/// Whether the registry, or who calls it, said no; else the answer may have been lost.
pub(crate) fn is_refusal(error: &Error) -> bool {
    use ErrorKind::{Closed, Invalid, PermissionDenied, Unsupported};
    matches!(error.kind(), Closed | Invalid | PermissionDenied | Unsupported)
}
