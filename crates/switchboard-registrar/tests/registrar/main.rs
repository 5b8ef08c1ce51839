//! The registrar against a registry that fails, hangs and forgets, on a paused clock.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod changes;
mod checks;
mod durations;
mod interleavings;
mod life;
mod readable;
#[cfg(feature = "metrics")]
#[path = "../../../switchboard-watcher/tests/support/recorded.rs"]
mod recorded;
mod support;
mod told;
