//! Switchboard's registry of lists: in a URL, or in a TOML or JSON file that is watched.
//!
//! For where nobody registers and somebody knows: a container's environment, a mounted ConfigMap, a colleague's text file. One
//! can [only read](switchboard_core::Registry#registries-one-can-only-read) it.
//!
//! ```
//! use switchboard_core::{Registry, ServiceName};
//! use switchboard_static::StaticRegistry;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), switchboard_core::Error> {
//! let registry = StaticRegistry::from_url(&"static:orders=10.0.0.1:80,10.0.0.2:80;stock=10.0.0.3:90".parse()?)?;
//! let orders = registry.lookup(&ServiceName::new("orders")?).await?;
//! assert_eq!(orders.all()[1].address().to_string(), "10.0.0.2:80");
//! # Ok(())
//! # }
//! ```
//!
//! # In a URL
//!
//! `static:SERVICE=HOST:PORT,HOST:PORT;SERVICE=…`. Names and addresses are percent-decoded; IPv6 is written `[::1]:80`. Each address is
//! an instance, whose id is the address.
//!
//! # In a file
//!
//! `file:///etc/services.toml`, or `file:services.json` in the working directory. JSON is what `switchboard instances --json` writes;
//! TOML has the same keys:
//!
//! ```toml
//! [[instances]]
//! service = "orders"
//! addresses = ["10.0.0.1:80"]
//!
//! [[instances]]
//! service = "orders"
//! id = "orders-2"                 # by default the first address
//! version = "1.2.0"
//! addresses = ["10.0.0.2:80", "orders.example.com:80"]
//! tags = ["canary"]
//! metadata = { zone = "eu-1" }
//! endpoints = [{ name = "Orders.Place" }]
//! weight = 5                      # 1 to 65535, by default 1
//! warning_weight = 1              # by default the weight
//! health = "passing"              # or warning, critical, maintenance
//! ```
//!
//! A list without instances is `instances = []`, or `[]` in JSON. An empty file is none: it is what an editor leaves for a moment.
//!
//! # Watching a file
//!
//! - A change is told as the system tells of it (inotify and the like), of the file, its folder, and what a symbolic link leads to: files
//!   renamed into place, Kubernetes' swap of a mounted ConfigMap, editors that truncate and write. Where the system tells nothing, as on
//!   many network file systems, it is seen at the next look, every [`poll`](FileBuilder::poll), 5 s.
//! - What takes instances away, or cannot be read, must have been so for 100 ms: a file that is just being written is not the list.
//! - A file that is not there, cannot be read or is wrong is an error, which says line and column. What was read last still stands, and
//!   is told again when the file is well. An unknown key is a mistake, and an id given twice.
//! - A lookup reads the file. Nothing runs while nobody watches; with watches there is one task and, for the system's words, one thread.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod config;
mod events;
mod file;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod record;
mod watch;

pub use backend::StaticRegistry;
pub use config::{FileBuilder, Format};
