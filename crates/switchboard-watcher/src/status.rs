use std::fmt;
use std::time::Duration;

use serde::Serialize;
use switchboard_core::Error;
use switchboard_core::time::{seconds_since, seconds_until};
use tokio::time::Instant;

/// How much a [`View`](crate::View) can be trusted just now.
///
/// Displayed for people, and serialized for programs, with times as seconds from now: `{"freshness": "stale", "for_seconds":
/// 3.5, "error": {…}, "updated_seconds_ago": 60.0, "held_back": null}`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Whether the registry is heard.
    #[serde(flatten)]
    pub freshness: Freshness,
    /// When the snapshot last changed; `None` while there is none.
    #[serde(rename = "updated_seconds_ago", serialize_with = "seconds_since")]
    pub updated: Option<Instant>,
    /// Set while an update that removes too much is held back.
    pub held_back: Option<HeldBack>,
}

/// Whether the registry behind a view is heard.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "freshness", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Freshness {
    /// Nothing has been heard yet, neither a snapshot nor an error.
    Pending,
    /// The registry is heard; the snapshot is what it says.
    Fresh,
    /// The registry is not heard. The snapshot, if there is one, is the last good one.
    Stale {
        /// When the first error came.
        #[serde(rename = "for_seconds", serialize_with = "seconds_since")]
        since: Instant,
        /// The latest error.
        error: Error,
    },
    /// The registry or the directory was closed, or the runtime that the service was watched on has ended; nothing changes
    /// any more in this view. [`Directory::service`](crate::Directory::service) gives another, if it can.
    Closed,
}

/// An update that [`MassRemoval`](crate::MassRemoval) holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HeldBack {
    /// How many usable instances it would take away.
    pub removed: usize,
    /// When it is applied at the latest.
    #[serde(rename = "for_another_seconds", serialize_with = "seconds_until")]
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

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.freshness.fmt(f)?;
        self.held_back.map_or(Ok(()), |held_back| write!(f, "; {held_back}"))
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => f.write_str("nothing heard yet"),
            Self::Fresh => f.write_str("fresh"),
            Self::Stale { since, error } => write!(f, "stale for {} s: {error}", since.elapsed().as_secs()),
            Self::Closed => f.write_str("closed"),
        }
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.until.saturating_duration_since(Instant::now());
        let Self { removed, .. } = self;
        write!(
            f,
            "an update that removes {removed} usable instances is held back for another {} s",
            left.as_secs()
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_well_and_is_serialized_with_times_from_now() {
        let now = Instant::now();
        tokio::time::advance(Duration::from_millis(3_500)).await;
        let error = Error::closed("memory", "watch");
        let stale = Status {
            freshness: Freshness::Stale { since: now, error: error.clone() },
            updated: Some(now),
            held_back: Some(HeldBack { removed: 4, until: Instant::now() + Duration::from_secs(9) }),
        };
        let fresh = Status { freshness: Freshness::Fresh, ..Status::pending() };
        for (status, text, expected) in [
            (
                Status::pending(),
                "nothing heard yet",
                json!({"freshness": "pending", "updated_seconds_ago": null, "held_back": null}),
            ),
            (fresh, "fresh", json!({"freshness": "fresh", "updated_seconds_ago": null, "held_back": null})),
            (
                stale,
                "stale for 3 s: memory: watch: closed: this registry handle was closed; an update that removes 4 \
                 usable instances is held back for another 9 s",
                json!({
                    "freshness": "stale", "for_seconds": 3.5, "error": error, "updated_seconds_ago": 3.5,
                    "held_back": {"removed": 4, "for_another_seconds": 9.0},
                }),
            ),
        ] {
            assert_eq!(status.to_string(), text);
            assert_eq!(serde_json::to_value(&status).unwrap(), expected);
        }
    }
}
