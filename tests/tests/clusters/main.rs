//! Real clusters of Consul: servers and agents that fail in every way, and ids on several nodes.

#![allow(clippy::print_stdout, reason = "the figures are what --nocapture is for")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod failing;
mod identity;
mod leaderless;
mod readers;
mod scene;
