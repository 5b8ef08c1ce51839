//! Several registries as one, over real ones: the contract, what callers feel while one of two is in trouble, and a migration.
#![allow(clippy::print_stdout, reason = "the figures are what --nocapture is for")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract;
mod load;
mod migration;
mod trouble;

use std::sync::Arc;

use switchboard::compose::{Failover, Mirror, Route, Union};
use switchboard::consul::ConsulRegistry;
use switchboard_core::Registry;
use switchboard_tests::consul::Agent;

/// What makes one registry of several.
type Composed = fn(Vec<Arc<dyn Registry>>) -> Arc<dyn Registry>;

fn union(parts: Vec<Arc<dyn Registry>>) -> Arc<dyn Registry> {
    Arc::new(Union::new(parts).unwrap())
}

fn failover(parts: Vec<Arc<dyn Registry>>) -> Arc<dyn Registry> {
    Arc::new(Failover::new(parts).unwrap())
}

fn mirror(parts: Vec<Arc<dyn Registry>>) -> Arc<dyn Registry> {
    Arc::new(Mirror::new(parts).unwrap())
}

fn route(parts: Vec<Arc<dyn Registry>>) -> Arc<dyn Registry> {
    // Half of the cases' names have such a letter.
    Arc::new(Route::new(["*e*", "*"].into_iter().zip(parts)).unwrap())
}

fn registry(agent: &Agent) -> Arc<dyn Registry> {
    Arc::new(ConsulRegistry::builder().ignore_env().address(&agent.address()).build().unwrap())
}
