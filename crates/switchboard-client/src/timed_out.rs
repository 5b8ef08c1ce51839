use std::error::Error;
use std::time::Duration;

/// A call was given up because its time was over.
///
/// | adapter | where it is |
/// |---|---|
/// | `tonic` | the source of the status, which is `DEADLINE_EXCEEDED`, whoever noticed first that the time was over |
/// | `reqwest` | in `reqwest_middleware::Error::Middleware`, to downcast to; where the client's own clock ended the call, that downcasts to reqwest's error, whose `is_timeout()` holds |
/// | `tower` | the source of `CallError::TimedOut` |
///
/// [`is_timeout`] knows them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimedOut {
    /// The time for the whole call.
    #[error("the call is not over after {:?}", rounded(*.0))]
    Call(Duration),
    /// The time for one attempt, and no other was allowed.
    #[error("the attempt is not over after {:?}", rounded(*.0))]
    Try(Duration),
}

/// To milliseconds, from one on: what is left of a caller's deadline has digits that say nothing.
fn rounded(time: Duration) -> Duration {
    let rounded = time.saturating_add(Duration::from_micros(500)).as_millis();
    match u64::try_from(rounded) {
        Ok(0) | Err(_) => time,
        Ok(millis) => Duration::from_millis(millis),
    }
}

/// Whether a call failed because a time was over: of the call, of an attempt, or one that the client beneath or the server
/// has of its own.
///
/// Looks at `error` and its sources for a [`TimedOut`]; with the feature `reqwest` also for errors of reqwest whose
/// `is_timeout()` holds, which includes those for connecting (`connect_timeout`); and with `tonic` for the status
/// `DEADLINE_EXCEEDED`, also of a server, and for `TimeoutExpired`.
///
/// ```
/// use std::time::Duration;
/// use switchboard_client::{TimedOut, is_timeout};
///
/// assert!(is_timeout(&TimedOut::Call(Duration::from_secs(1))));
/// assert!(!is_timeout(&std::fmt::Error));
/// ```
pub fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source())
        .any(|error| error.is::<TimedOut>() || is_timeout_of_reqwest(error) || is_timeout_of_tonic(error))
}

#[cfg(feature = "reqwest")]
fn is_timeout_of_reqwest(error: &(dyn Error + 'static)) -> bool {
    // An error of a middleware leaves out what it wraps when it tells its source.
    match error.downcast_ref() {
        Some(reqwest_middleware::Error::Reqwest(error)) => error.is_timeout(),
        Some(reqwest_middleware::Error::Middleware(error)) => is_timeout(&**error),
        None => error.downcast_ref().is_some_and(::reqwest::Error::is_timeout),
    }
}

#[cfg(not(feature = "reqwest"))]
fn is_timeout_of_reqwest(_: &(dyn Error + 'static)) -> bool {
    false
}

#[cfg(feature = "tonic")]
fn is_timeout_of_tonic(error: &(dyn Error + 'static)) -> bool {
    let is_exceeded = |status: &::tonic::Status| status.code() == ::tonic::Code::DeadlineExceeded;
    error.downcast_ref().is_some_and(is_exceeded) || error.is::<::tonic::TimeoutExpired>()
}

#[cfg(not(feature = "tonic"))]
fn is_timeout_of_tonic(_: &(dyn Error + 'static)) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_to_milliseconds() {
        let told = |nanos| TimedOut::Call(Duration::from_nanos(nanos)).to_string();
        assert_eq!(told(4_999_993_390), "the call is not over after 5s");
        assert_eq!(told(20_400_000), "the call is not over after 20ms");
        assert_eq!(told(70_000), "the call is not over after 70µs");
        assert!(
            TimedOut::Try(Duration::MAX).to_string().starts_with("the attempt is not over after 1844674407")
        );
    }
}
