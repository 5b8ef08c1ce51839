#![doc = include_str!("../README.md")]
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | `mdns` (default) | the registry on the local link, scheme `mdns:` |
//! | `full` | all of the above |
//!
//! The in-memory registry, scheme `memory:`, is always there. Features only add.

mod connect;

pub use connect::{Connector, ENVIRONMENT_VARIABLE, connect, from_env};
pub use switchboard_core::*;

/// The registry on the local link: DNS-SD over multicast DNS.
#[cfg(feature = "mdns")]
pub use switchboard_mdns as mdns;

/// What most programs need: `use switchboard::prelude::*;`.
pub mod prelude {
    pub use crate::{Change, Instance, InstanceKey, RegisterOptions, Registry, ServiceName, Snapshot};
    pub use futures::StreamExt;
}
