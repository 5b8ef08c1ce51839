//! Real clusters of Consul, whose servers and agents fail in every way.

#![allow(clippy::print_stdout, reason = "the figures are what --nocapture is for")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod failing;
mod identity;
mod leaderless;
mod readers;
mod scene;
