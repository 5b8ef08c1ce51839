//! The server side: keeps an instance registered for as long as the server runs and is well.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use switchboard_core::{Instance, MemoryRegistry, Registry};
//! use switchboard_registrar::{Registrar, Status};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), switchboard_core::Error> {
//! let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::new());
//! let instance = Instance::builder("greeter").address("127.0.0.1:8080").build()?;
//! let registrar = Registrar::new(registry, instance)
//!     .interval(Duration::from_secs(10))
//!     .ttl(Duration::from_secs(30))
//!     .check(|| async { Ok(()) })
//!     .start()
//!     .await?;
//! assert!(matches!(registrar.status(), Status::Registered { .. }));
//! // … serve, until switchboard_registrar::shutdown_signal().await …
//! registrar.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! - It renews every interval, a little early and at a random moment, so that many registrations in one process, or many
//!   processes started together, do not burst.
//! - A renewal is a full registration. A registry that has lost the instance has it back within one interval; after a failed
//!   renewal it is tried again with jittered exponential backoff, from 100 ms up to the interval.
//! - Before each renewal it runs the check. One that fails, panics or takes too long withdraws the instance, which stays
//!   withdrawn until a check passes.
//! - [`shutdown`](Running::shutdown) deregisters first, then lets requests in flight drain. Once it has begun, nothing is
//!   registered any more. Dropping [`Running`] does the same in the background.
//!
//! # Defaults
//!
//! Interval 30 s and TTL 90 s, which are go-micro's. Given only one of them, the TTL is three times the interval. What is
//! given explicitly always holds, in whatever order.

mod advertise;
mod registrar;
mod running;
mod signal;
mod status;
mod task;

pub use advertise::advertise;
pub use registrar::Registrar;
pub use running::Running;
pub use signal::shutdown_signal;
pub use status::Status;
