//! Switchboard on [Consul](https://developer.hashicorp.com/consul/api-docs): the registry to grow into.
//!
//! ```no_run
//! use std::time::Duration;
//! use switchboard_consul::ConsulRegistry;
//! use switchboard_core::{Instance, RegisterOptions, Registry};
//!
//! # async fn example() -> switchboard_core::Result<()> {
//! let registry = ConsulRegistry::from_url(&"consul://127.0.0.1:8500".parse()?)?;
//! let greeter = Instance::builder("greeter").address("10.0.0.7:8080").build()?;
//! // Renew it by calling again, more often than the TTL lasts.
//! registry.register(&greeter, &RegisterOptions::new().ttl(Duration::from_secs(90))).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What faults do
//!
//! | fault | calls | watches |
//! |---|---|---|
//! | agent alive, without a leader | writes wait, and are done; reads are `Unavailable` | the error, then on with backoff; what was read last stands |
//! | agent away, reset, hung, 429, 5xx | `Unavailable`, within the time limit; another agent is asked if there is one | the error, then on with backoff; what was read last stands |
//! | another program registers the id at the same agent | `register` is `Invalid` until that one has lapsed or left, then it is back | the last that registered |
//! | agent restarted and empty | the next renewal puts the instance back | the missing are kept for [`rejoin_grace`](ConsulBuilder::rejoin_grace) |
//! | token refused | `PermissionDenied`; a token file is read again first | the error, then on with backoff |
//! | truncated or foreign content | `Protocol` | the error, then on with backoff |
//! | index missing, backward, or always new | | read again from the start, at most 2 requests a second after the first 20 |
//!
//! `docs/consul.md` has what an operator needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
mod agent;
mod agent_api;
mod answer;
mod backend;
mod budget;
mod catalog;
mod changes;
mod check;
mod client;
mod config;
mod dump;
mod entry;
mod feed;
mod foreign;
mod go_micro;
mod grace;
mod holder;
mod identity;
mod local;
mod metrics;
mod notice;
mod options;
mod pace;
mod query;
mod reason;
mod record;
mod registration;
mod rights;
mod settings;
mod sweep;
mod token;
mod turns;
mod watch;
mod writes;

pub use backend::ConsulRegistry;
pub use check::Check;
pub use config::ConsulBuilder;
pub use options::{Consistency, Wire};

/// What this backend is called in URLs and errors.
const BACKEND: &str = "consul";
/// The longest time that is sent to Consul: a year. Go counts in nanoseconds and overflows at 292.
const MAX_SECONDS: u64 = 365 * 24 * 3600;
