//! Client-side balancing: from the live view of a service to one instance.
//!
//! A [`Selector`] keeps a [`Balancer`] for each service. [`Balancer::pick`] takes no lock and allocates nothing: it reads
//! a picker that was made when the instances last changed. The [`Pick`] it returns is the instance, counts as a call
//! in flight, and takes the verdict on it; from the verdicts the balancer learns whom to prefer and whom to leave out.
//!
//! | module | holds |
//! |---|---|
//! | [`Selector`], [`SelectorBuilder`] | all services of a directory, and the settings |
//! | [`Balancer`], [`CallOptions`], [`Request`] | one service; other options and wishes for single calls |
//! | [`Pick`], [`FailureKind`], [`PickError`] | what comes of a pick |
//! | [`Random`], [`RoundRobin`], [`LeastRequest`], [`PeakEwma`], [`ConsistentHash`] | the strategies |
//! | [`Strategy`], [`Picker`], [`Context`], [`Candidate`] | to write another |
//! | [`Filter`] | who may be picked |
//! | [`OutlierDetection`], [`SlowStart`] | who is taken out for failing, and how they come back |
//! | [`InstanceReport`], [`Standing`] | why is this one not picked? |
//!
//! ```
//! use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
//! use switchboard_selector::{FailureKind, RoundRobin, Selector};
//! use switchboard_watcher::Directory;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = MemoryRegistry::new();
//! for port in [8080, 8081] {
//!     let instance = Instance::builder("greeter").address(format!("127.0.0.1:{port}")).build()?;
//!     registry.register(&instance, &RegisterOptions::default()).await?;
//! }
//!
//! let selector = Selector::builder(Directory::new(registry)).strategy(RoundRobin).build();
//! let pick = selector.select("greeter").await?;
//! match tokio::net::TcpStream::connect(pick.address().to_string()).await {
//!     Ok(_) => pick.success(),
//!     Err(_) => pick.failure(FailureKind::Connection),
//! }
//! # Ok(())
//! # }
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

mod balancer;
mod candidate;
mod error;
mod filter;
mod group;
mod hub;
mod measured;
mod member;
mod metrics;
mod outlier;
mod pick;
mod pool;
mod report;
mod request;
mod selection;
mod selector;
mod slow_start;
mod stats;
mod strategy;
mod wait;

pub use balancer::{Balancer, CallOptions};
pub use candidate::Candidate;
pub use error::{FailureKind, PickError};
pub use filter::Filter;
pub use outlier::OutlierDetection;
pub use pick::Pick;
pub use report::{InstanceReport, Standing};
pub use request::Request;
pub use selector::{Selector, SelectorBuilder};
pub use slow_start::SlowStart;
pub use strategy::{ConsistentHash, Context, LeastRequest, PeakEwma, Picker, Random, RoundRobin, Strategy};
