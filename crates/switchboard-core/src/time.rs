//! Times of any length, for backends, decorators and whoever else is given one: no clock or timer reaches them all.

use std::time::Duration;

use tokio::time::Instant;

/// 30 years: longer than any program runs, and short enough for every clock and timer.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// `duration` after `start`, for a duration of any length: beyond 30 years it counts as that.
pub fn later(start: Instant, duration: Duration) -> Instant {
    start + bounded(duration)
}

/// `duration`, but no more than 30 years.
pub fn bounded(duration: Duration) -> Duration {
    duration.min(FAR)
}
