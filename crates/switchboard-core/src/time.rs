//! Times of any length, for backends, decorators and whoever else is given one: no clock or timer reaches them all.

use std::future::{pending, poll_fn};
use std::task::Poll;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::{Instant, sleep_until};

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

/// Waits until `due`, for ever without one, on whatever runtime polls it.
///
/// For streams: they may be read on one runtime after another, and a timer of tokio's panics once the runtime that it was made on has
/// ended.
pub async fn until(due: Option<Instant>) {
    let Some(due) = due else { return pending().await };
    let mut timer = None;
    poll_fn(|cx| {
        // A timer that is due already takes a tick to find that out.
        if due <= Instant::now() {
            return Poll::Ready(());
        }
        timer.insert(Box::pin(sleep_until(due))).as_mut().poll(cx)
    })
    .await;
}

/// Reads a time such as `150ms`, `10s`, `5m` or `1h`.
///
/// # Errors
///
/// What is wrong with it, in words.
pub fn parse(text: &str) -> Result<Duration, String> {
    let parsed = || {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = text[..digits].parse().ok()?;
        let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
        match &text[digits..] {
            "ms" => Some(Duration::from_millis(number)),
            "s" => seconds(1),
            "m" => seconds(60),
            "h" => seconds(3600),
            _ => None,
        }
    };
    parsed().ok_or_else(|| format!("{text:?} is no duration; write a whole number and ms, s, m or h"))
}

/// Serializes how long ago an instant, or one that may not have been, was: in seconds, to the millisecond. For
/// `#[serde(serialize_with = "…")]` of reports, since an [`Instant`] means nothing outside its process.
///
/// # Errors
///
/// Those of the serializer.
pub fn seconds_since<'a, S: Serializer>(
    at: impl Into<Option<&'a Instant>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    at.into().map(|at| seconds(at.elapsed())).serialize(serializer)
}

/// The same for how long it is until then; 0 once it has passed.
///
/// # Errors
///
/// Those of the serializer.
pub fn seconds_until<'a, S: Serializer>(
    at: impl Into<Option<&'a Instant>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    at.into().map(|at| seconds(at.saturating_duration_since(Instant::now()))).serialize(serializer)
}

/// A duration in seconds, to the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_goes_on_on_another_runtime() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let begun = std::time::Instant::now();
        let mut wait = Box::pin(until(Some(Instant::now() + Duration::from_millis(50))));
        assert!(runtime().block_on(async { futures::poll!(wait.as_mut()) }).is_pending());
        runtime().block_on(wait.as_mut());
        assert!(begun.elapsed() >= Duration::from_millis(50));
        assert!(runtime().block_on(async { futures::poll!(Box::pin(until(None))) }).is_pending());
    }

    #[test]
    fn reads_times() {
        for (text, millis) in [("150ms", 150), ("2s", 2_000), ("3m", 180_000), ("1h", 3_600_000)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)));
        }
        for text in ["99999999999999999999s", "18446744073709551615h", "5", "s", "", "1.5s", "ä"] {
            let told = parse(text).unwrap_err();
            assert_eq!(told, format!("{text:?} is no duration; write a whole number and ms, s, m or h"));
        }
    }
}
