//! The Consul registry against real agents (`needs consul`) and scripted ones.

// A figure that a test measures is worth seeing with `--nocapture`.
#![allow(clippy::print_stdout)]
// Helpers of tests are tests, which clippy does not see.
#![allow(clippy::unwrap_used)]

mod conformance;
mod crowd;
mod faults;
mod interop;
mod lost;
mod reasons;
#[cfg(feature = "metrics")]
#[path = "../../../switchboard-watcher/tests/support/recorded.rs"]
mod recorded;
mod registering;
mod scripted;
mod security;
mod shared;
mod slow;
mod support;
#[cfg(feature = "metrics")]
mod told;
