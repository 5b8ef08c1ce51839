//! The registry, against a real kube-apiserver, and a scripted one for what that cannot be made to do.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what was measured")]

mod balance;
mod burst;
mod conformance;
mod in_cluster;
mod readiness;
mod reading;
mod registering;
mod restart;
mod rights;
mod scripted;
mod support;
