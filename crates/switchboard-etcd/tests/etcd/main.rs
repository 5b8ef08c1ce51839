//! The etcd registry against real etcd (`needs etcd`).

// A figure that a test measures is worth seeing with `--nocapture`.
#![allow(clippy::print_stdout)]
// Helpers of tests are tests, which clippy does not see.
#![allow(clippy::unwrap_used)]

mod cluster;
mod conformance;
mod cut_off;
mod interop;
mod lost;
mod many;
mod runtimes;
mod security;
mod support;
