//! The contract every Switchboard registry keeps, and the data that crosses it.
//!
//! A [`Registry`] turns its world (a LAN, a Consul agent, a map in memory) into [`Snapshot`]s: all the
//! instances of one service, as of now. Everything else in Switchboard is built on that one trait, so a program
//! written against it runs on any backend.
//!
//! | module | holds |
//! |---|---|
//! | [`Registry`] | the trait, with what each method promises |
//! | [`Instance`], [`ServiceName`], [`Address`], [`Endpoint`] | what is registered |
//! | [`Snapshot`], [`Change`] | what is read, and how two readings differ |
//! | [`Error`], [`ErrorKind`] | what goes wrong |
//! | [`MemoryRegistry`] | the reference implementation: for tests, examples and one-process programs |
//! | [`Namespace`] | a part of a registry that others do not see |
//! | [`Store`], [`RegistryUrl`] | tools for those who write a backend |
//!
//! This crate does no input or output and spawns nothing.
//!
//! ```
//! use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), switchboard_core::Error> {
//! let registry = MemoryRegistry::new();
//! let greeter = Instance::builder("greeter").address("127.0.0.1:8080").build()?;
//! registry.register(&greeter, &RegisterOptions::default()).await?;
//!
//! let found = registry.lookup(greeter.service()).await?;
//! assert_eq!(found.all()[0].addresses()[0].to_string(), "127.0.0.1:8080");
//! # Ok(())
//! # }
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
mod difference;
mod endpoint;
mod error;
mod health;
mod health_reason;
mod instance;
mod into_registry;
mod memory;
#[doc(hidden)]
pub mod metrics;
mod name;
mod namespace;
pub mod random;
mod registry;
mod snapshot;
mod store;
pub mod time;
mod url;

pub use address::{Address, Host};
pub use endpoint::{Endpoint, Value};
pub use error::{Error, ErrorKind, Invalid, Result};
pub use health::Health;
pub use health_reason::HealthReason;
pub use instance::{Instance, InstanceBuilder, InstanceKey, metadata_keys};
pub use into_registry::IntoRegistry;
pub use memory::MemoryRegistry;
pub use name::{InstanceId, ServiceName};
pub use namespace::Namespace;
pub use registry::{NamesStream, RegisterOptions, Registry, SnapshotStream, look_up_all};
pub use snapshot::{Change, Snapshot};
pub use store::Store;
pub use url::{Params, RegistryUrl};
