use std::fmt;
use std::sync::Arc;

use switchboard_core::Error;
use tokio::time::Instant;

/// How a registration stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Status {
    /// Not registered yet; `error` is what the last try failed with.
    Registering {
        /// Why the last try failed, if there was one.
        error: Option<Error>,
    },
    /// Registered, and the last renewal went well.
    Registered {
        /// Since when, without interruption.
        since: Instant,
    },
    /// Was registered, and renewals fail. Until the TTL lapses the registry still has it, unless the registry has
    /// forgotten.
    Failing {
        /// Since the first renewal that failed.
        since: Instant,
        /// Why the last one failed.
        error: Error,
    },
    /// Taken out because the check fails.
    Withdrawn {
        /// Since the check first failed.
        since: Instant,
        /// What the last check said.
        why: Arc<str>,
    },
    /// Shut down; it will not be registered again.
    Stopped,
}

impl Status {
    /// Whether clients can be expected to find the instance: registered, or failing only since a moment. For a readiness
    /// endpoint.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Registered { .. } | Self::Failing { .. })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = |since: &Instant| format!("{} s", since.elapsed().as_secs());
        match self {
            Self::Registering { error: None } => f.write_str("registering"),
            Self::Registering { error: Some(error) } => write!(f, "registering, not yet done: {error}"),
            Self::Registered { since } => write!(f, "registered for {}", ago(since)),
            Self::Failing { since, error } => write!(f, "renewals failing for {}: {error}", ago(since)),
            Self::Withdrawn { since, why } => write!(f, "withdrawn for {} by its check: {why}", ago(since)),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}
