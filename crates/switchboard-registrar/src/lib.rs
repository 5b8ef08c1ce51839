//! The server side: keeps an instance registered for as long as the server runs and is well.
//!
//! ```
//! use std::time::Duration;
//! use switchboard_core::{Error, Instance, MemoryRegistry};
//! use switchboard_registrar::{Registrar, Status};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Error> {
//! let registry = MemoryRegistry::new();
//! let instance = Instance::builder("greeter").address("127.0.0.1:8080").build()?;
//! let registrar = Registrar::new(registry, instance)
//!     .interval(Duration::from_secs(10))
//!     .ttl(Duration::from_secs(30))
//!     .check(|| async { Ok::<_, Error>(()) })
//!     .start()
//!     .await?;
//! assert!(matches!(registrar.status(), Status::Registered { .. }));
//! // … serve, until switchboard_registrar::shutdown_signal().await …
//! registrar.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! `Serve` (features `axum` and `tonic`) does that and the serving in one call.
//!
//! # What it does
//!
//! - It renews every interval, a little early and at a random moment, so that many registrations in one process, or many
//!   processes started together, do not burst.
//! - A renewal is a full registration. A registry that has lost the instance has it back within one interval; after a failed
//!   renewal it is tried again with jittered exponential backoff, from 100 ms up to 3 s, or 30 s after what trying again
//!   does not mend, and never longer than the interval. A call that panics has failed. Only a registry that was closed is not tried again.
//! - It runs the check at an interval of its own, beside the renewals. Several failures in a row withdraw the instance, which
//!   stays withdrawn until the check passes; a single one is only told in the [`Status`].
//! - [`update`](Running::update) changes what is registered: weight, metadata, tags, addresses.
//! - [`shutdown`](Running::shutdown) deregisters first, then lets requests in flight drain. Once it has begun, nothing is
//!   registered any more. Dropping [`Running`] does the same in the background.
//! - On a registry that can only be read, because the platform registers (DNS, a list, Kubernetes), it stays up all the same:
//!   the [`Status`] says so, checks run, and readiness is what they say.
//!
//! # Defaults
//!
//! Interval 30 s and TTL 90 s, which are go-micro's. Given only one of them, the TTL is three times the interval. What is
//! given explicitly always holds, in whatever order. A check every 10 s, three failures to withdraw and one success to come
//! back are Kubernetes' defaults for probes; a check may take 5 s. Durations may have any length: [`Duration::MAX`] is for ever.
//!
//! # Taking an instance out by hand
//!
//! A check that fails while a flag is set takes the instance out until the flag is cleared (the example `health-check`), after
//! [`unhealthy_after`](Registrar::unhealthy_after) checks. `update` with a weight of 1 leaves it the smallest share there is.
//! There is no weight of 0, and no health that a server could register: whether an instance is fit is for the registry to say.
//!
//! [`Duration::MAX`]: std::time::Duration::MAX
#![cfg_attr(docsrs, feature(doc_cfg))]

mod advertise;
mod calls;
mod caught;
mod check;
mod leave;
mod metrics;
mod pause;
mod registrar;
mod running;
#[cfg(any(feature = "axum", feature = "tonic"))]
mod serve;
mod signal;
mod status;
mod task;
mod teller;

pub use advertise::{advertise, advertise_on};
pub use check::CheckError;
pub use registrar::Registrar;
pub use running::Running;
#[cfg(any(feature = "axum", feature = "tonic"))]
pub use serve::Serve;
pub use signal::shutdown_signal;
pub use status::{CheckFailures, Status};
