use std::time::Duration;

use switchboard_core::Error;
use tokio::time::Instant;

/// How much a [`View`](crate::View) can be trusted just now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Whether the registry is heard.
    pub freshness: Freshness,
    /// When the snapshot last changed; `None` while there is none.
    pub updated: Option<Instant>,
    /// Set while an update that removes too much is held back.
    pub held_back: Option<HeldBack>,
}

/// Whether the registry behind a view is heard.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Freshness {
    /// Nothing has been heard yet, neither a snapshot nor an error.
    Pending,
    /// The registry is heard; the snapshot is what it says.
    Fresh,
    /// The registry is not heard. The snapshot, if there is one, is the last good one.
    Stale {
        /// When the first error came.
        since: Instant,
        /// The latest error.
        error: Error,
    },
    /// The registry or the directory was closed, or the runtime that the service was watched on has ended; nothing changes
    /// any more in this view. [`Directory::service`](crate::Directory::service) gives another, if it can.
    Closed,
}

/// An update that [`MassRemoval`](crate::MassRemoval) holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldBack {
    /// How many usable instances it would take away.
    pub removed: usize,
    /// When it is applied at the latest.
    pub until: Instant,
}

impl Status {
    pub(crate) fn pending() -> Self {
        Self { freshness: Freshness::Pending, updated: None, held_back: None }
    }

    /// Whether the registry is heard.
    pub fn is_fresh(&self) -> bool {
        matches!(self.freshness, Freshness::Fresh)
    }

    /// How long the registry has not been heard: zero when it is, `None` before anything was heard and once closed.
    pub fn age(&self) -> Option<Duration> {
        match &self.freshness {
            Freshness::Fresh => Some(Duration::ZERO),
            Freshness::Stale { since, .. } => Some(since.elapsed()),
            Freshness::Pending | Freshness::Closed => None,
        }
    }

    /// Why the registry is not heard.
    pub fn error(&self) -> Option<&Error> {
        match &self.freshness {
            Freshness::Stale { error, .. } => Some(error),
            _ => None,
        }
    }
}
