//! Live views of services: what a registry says, shared by all who ask, and kept through the registry's bad days.
//!
//! A [`Directory`] sits on a [`Registry`](switchboard_core::Registry). Its [`View`]s of one service share one task
//! and one stream; reading a view takes no lock and waits for nothing. When the registry cannot be heard, the last
//! good snapshot stays, and [`View::status`] says since when and why.
//!
//! | module | holds |
//! |---|---|
//! | [`Directory`], [`DirectoryBuilder`] | the views of one registry, and their settings |
//! | [`View`] | one service, live: `snapshot`, `ready`, `changed`, `changes`, `status` |
//! | [`Status`], [`Freshness`] | how much a view can be trusted |
//! | [`Cached`] | the directory as a registry: lookups answered from live views |
//! | [`Backoff`] | how long to wait between tries |
//!
//! ```
//! use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
//! use switchboard_watcher::Directory;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), switchboard_core::Error> {
//! let registry = MemoryRegistry::new();
//! let greeter = Instance::builder("greeter").id("1").address("127.0.0.1:8080").build()?;
//! registry.register(&greeter, &RegisterOptions::default()).await?;
//!
//! let directory = Directory::new(registry);
//! let view = directory.service("greeter")?;
//! assert_eq!(view.ready().await?.len(), 1);
//! assert!(view.status().is_fresh());
//! # Ok(())
//! # }
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backoff;
mod cached;
mod cell;
mod directory;
mod guard;
mod metrics;
mod status;
mod suspects;
mod task;
mod view;

pub use backoff::Backoff;
pub use cached::Cached;
pub use directory::{Directory, DirectoryBuilder};
pub use guard::MassRemoval;
pub use status::{Freshness, HeldBack, Status};
pub use view::View;
