use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use switchboard_core::time::{seconds_since, seconds_until};
use switchboard_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::calls::Taken;
use crate::check::Health;

/// How a registration stands.
///
/// Displayed for people, and serialized for programs, with times as seconds from now: `{"status": "registered", "for_seconds":
/// 12.5, "lapses_in_seconds": 77.5, "check": null}`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// Not registered yet, or not again since it was withdrawn; `error` is what the last try failed with.
    Registering {
        /// Why the last try failed, if there was one.
        error: Option<Error>,
    },
    /// Registered, and the last renewal went well.
    Registered {
        /// Since when, without interruption.
        #[serde(rename = "for_seconds", serialize_with = "seconds_since")]
        since: Instant,
        /// When the TTL of the last renewal ends; `None`: never.
        #[serde(rename = "lapses_in_seconds", serialize_with = "seconds_until")]
        lapses: Option<Instant>,
        /// The checks that failed last, too few yet to withdraw it. `None` while they pass.
        check: Option<CheckFailures>,
    },
    /// The registry can only be read: the platform registers. The check goes on, and is what there is to be told.
    ReadOnly {
        /// Since when.
        #[serde(rename = "for_seconds", serialize_with = "seconds_since")]
        since: Instant,
        /// Who registers, in the registry's words: `whoever keeps the zone`.
        registered_by: Arc<str>,
        /// The checks that failed last, too few yet to withdraw it. `None` while they pass.
        check: Option<CheckFailures>,
    },
    /// Was registered, and renewals fail. Until the TTL lapses the registry still has it, unless the registry has
    /// forgotten.
    Failing {
        /// Since the first renewal that failed.
        #[serde(rename = "for_seconds", serialize_with = "seconds_since")]
        since: Instant,
        /// Why the last one failed.
        error: Error,
        /// When the TTL of the last renewal that went well ends; `None`: never.
        #[serde(rename = "lapses_in_seconds", serialize_with = "seconds_until")]
        lapses: Option<Instant>,
        /// The checks that failed last, too few yet to withdraw it. `None` while they pass.
        check: Option<CheckFailures>,
    },
    /// Taken out, or not let in, because the check fails.
    Withdrawn {
        /// Since when it is withdrawn.
        #[serde(rename = "for_seconds", serialize_with = "seconds_since")]
        since: Instant,
        /// What the last check that failed said.
        why: Arc<str>,
        /// How many checks have passed since, too few yet to bring it back.
        passes: u32,
    },
    /// The registry was closed: it has deregistered everything, and nothing is tried any more.
    Closed {
        /// What the registry said.
        error: Error,
    },
    /// Shut down, or its runtime ended; it will not be registered again.
    Stopped,
}

/// Checks that failed, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckFailures {
    /// How many.
    pub count: u32,
    /// How many withdraw the instance; see [`unhealthy_after`](crate::Registrar::unhealthy_after).
    pub limit: u32,
    /// Since the first of them.
    #[serde(rename = "for_seconds", serialize_with = "seconds_since")]
    pub since: Instant,
    /// What the last one said.
    pub why: Arc<str>,
}

impl Status {
    /// What it is serialized as.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Registering { .. } => "registering",
            Self::Registered { .. } => "registered",
            Self::ReadOnly { .. } => "read_only",
            Self::Failing { .. } => "failing",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Closed { .. } => "closed",
            Self::Stopped => "stopped",
        }
    }

    /// Whether clients can be expected to find the instance now: registered, and the TTL of the last renewal that went well
    /// has not passed. So renewals may fail for less than a TTL, and without a TTL for ever; with the defaults it is not
    /// ready 90 s after the last one. Where the platform registers: the check passes. For a readiness endpoint.
    ///
    /// Time alone can end it: no receiver of [`watch_status`](crate::Running::watch_status) is woken at that moment.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Registered { lapses, .. } | Self::Failing { lapses, .. } => {
                lapses.is_none_or(|lapses| Instant::now() < lapses)
            }
            Self::ReadOnly { .. } => true,
            _ => false,
        }
    }

    /// Takes note of what the checks say; whether that changes anything.
    pub(crate) fn checked(&mut self, health: &Health) -> bool {
        match (self, health) {
            (
                Self::Registered { check, .. } | Self::ReadOnly { check, .. } | Self::Failing { check, .. },
                _,
            ) => replace(check, health.failures().cloned()),
            (Self::Withdrawn { why, passes, .. }, Health::Unwell { failures, passes: passed }) => {
                replace(why, failures.why.clone()) | replace(passes, *passed)
            }
            _ => false,
        }
    }

    /// Takes note of a try to register, and when the TTL ends that begins with it; whether that changes anything but the
    /// latter.
    pub(crate) fn tried(&mut self, tried: &Result<Taken>, ends: Option<Instant>, health: &Health) -> bool {
        let now = Instant::now();
        let check = health.failures().cloned();
        *self = match (&mut *self, tried.clone()) {
            (Self::Registered { lapses, .. }, Ok(Taken::Here)) => {
                *lapses = ends;
                return false;
            }
            (_, Ok(Taken::Here)) => Self::Registered { since: now, lapses: ends, check },
            (Self::ReadOnly { registered_by, .. }, Ok(Taken::Elsewhere(who))) if *registered_by == who => {
                return false;
            }
            (_, Ok(Taken::Elsewhere(who))) => Self::ReadOnly { since: now, registered_by: who, check },
            (_, Err(error)) if error.kind() == ErrorKind::Closed => Self::Closed { error },
            (Self::Registered { lapses, .. }, Err(error)) => {
                Self::Failing { since: now, error, lapses: *lapses, check }
            }
            (Self::Failing { since, lapses, .. }, Err(error)) => {
                Self::Failing { since: *since, error, lapses: *lapses, check }
            }
            (_, Err(error)) => Self::Registering { error: Some(error) },
        };
        true
    }

    /// Takes note that it is withdrawn; whether it was not before.
    pub(crate) fn withdrawn(&mut self, failures: &CheckFailures) -> bool {
        let before = matches!(self, Self::Withdrawn { .. });
        if !before {
            *self = Self::Withdrawn { since: Instant::now(), why: failures.why.clone(), passes: 0 };
        }
        !before
    }
}

/// Puts a value in place of another; whether they differ.
fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let differs = *place != value;
    *place = value;
    differs
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registering { error: None } => f.write_str("registering"),
            Self::Registering { error: Some(error) } => write!(f, "registering, not yet done: {error}"),
            Self::Registered { since, check, .. } => {
                write!(f, "registered for {}", Age(since))?;
                also(f, check.as_ref())
            }
            Self::ReadOnly { registered_by, check, .. } => {
                write!(
                    f,
                    "not registered here: the registry can only be read, and {registered_by} registers"
                )?;
                also(f, check.as_ref())
            }
            Self::Failing { since, error, check, .. } => {
                write!(f, "renewals failing for {}: {error}", Age(since))?;
                also(f, check.as_ref())
            }
            Self::Withdrawn { since, why, passes: 0 } => {
                write!(f, "withdrawn for {} by its check: {why}", Age(since))
            }
            Self::Withdrawn { since, why, passes } => {
                write!(
                    f,
                    "withdrawn for {} by its check, which has passed {passes} times since: {why}",
                    Age(since)
                )
            }
            Self::Closed { error } => {
                write!(f, "not registered, and will not be: the registry was closed: {error}")
            }
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

impl fmt::Display for CheckFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, limit, since, why } = self;
        write!(f, "its check has failed {count} of {limit} times, for {}: {why}", Age(since))
    }
}

fn also(f: &mut fmt::Formatter<'_>, check: Option<&CheckFailures>) -> fmt::Result {
    check.map_or(Ok(()), |failures| write!(f, "; {failures}"))
}

struct Age<'a>(&'a Instant);

impl fmt::Display for Age<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.elapsed().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_serialized_with_times_from_now() {
        let now = Instant::now();
        let check = CheckFailures { count: 1, limit: 3, since: now, why: "no disk".into() };
        let lapses = Some(now + Duration::from_secs(90));
        tokio::time::advance(Duration::from_millis(12_500)).await;
        let error = Error::closed("memory", "register");
        for (status, expected) in [
            (Status::Registering { error: None }, json!({"status": "registering", "error": null})),
            (
                Status::Registered { since: now, lapses, check: None },
                json!({"status": "registered", "for_seconds": 12.5, "lapses_in_seconds": 77.5, "check": null}),
            ),
            (
                Status::Failing { since: now, error: error.clone(), lapses: None, check: Some(check) },
                json!({
                    "status": "failing", "for_seconds": 12.5, "error": error, "lapses_in_seconds": null,
                    "check": {"count": 1, "limit": 3, "for_seconds": 12.5, "why": "no disk"},
                }),
            ),
            (
                Status::Withdrawn { since: now, why: "no disk".into(), passes: 1 },
                json!({"status": "withdrawn", "for_seconds": 12.5, "why": "no disk", "passes": 1}),
            ),
            (
                Status::ReadOnly { since: now, registered_by: "the list".into(), check: None },
                json!({"status": "read_only", "for_seconds": 12.5, "registered_by": "the list", "check": null}),
            ),
            (Status::Stopped, json!({"status": "stopped"})),
        ] {
            assert_eq!(serde_json::to_value(status).unwrap(), expected);
        }
    }
}
