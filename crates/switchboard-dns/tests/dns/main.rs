//! The registry against name servers: scripted ones for what real ones cannot be made to do, and real ones.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;
#[cfg(target_os = "linux")]
mod real;
mod scripted;
mod support;
