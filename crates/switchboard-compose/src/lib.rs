//! Several registries as one, for a migration, a spare, or parts of a company that do not share one.
//!
//! | | reads | registers in |
//! |---|---|---|
//! | [`Union`] | all, each id once | all |
//! | [`Failover`] | the first that can be heard | all |
//! | [`Mirror`] | the first | all |
//! | [`Route`] | the one that a service's name says | that one |
//!
//! Each is a [`Registry`] over others, so they nest, and a program does not notice:
//!
//! ```
//! use std::sync::Arc;
//! use switchboard_compose::Union;
//! use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (old, new) = (Arc::new(MemoryRegistry::new()), Arc::new(MemoryRegistry::new()));
//! let both = Union::new(vec![old.clone(), new.clone()])?;
//!
//! let greeter = Instance::builder("greeter").address("10.0.0.1:80").build()?;
//! both.register(&greeter, &RegisterOptions::new()).await?;
//! assert_eq!(old.lookup(greeter.service()).await?.len(), 1);
//! assert_eq!(new.lookup(greeter.service()).await?.len(), 1);
//! assert_eq!(both.lookup(greeter.service()).await?.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Registering in several
//!
//! It is one registration, with one id. All are asked at once, and one that hangs holds up the others by three seconds at most. It
//! has succeeded when one of them took it and none refused it as invalid; which did not, and why, is logged once, and again when it
//! has. Each renewal tries all, so what was missed is made up for by the next. Those that one can only read
//! ([`Unsupported`](switchboard_core::ErrorKind::Unsupported)) are left out, as long as there are others.
//! Deregistering and closing reach all, and fail if one does. Maintenance is for those that know the instance.
//!
//! # An error is never empty
//!
//! What cannot be heard contributes what it last said. Where it has said nothing yet, and the others know nobody, the answer is its
//! error: nobody knows whether there is somebody.

mod failover;
mod heard;
mod merged;
mod mirror;
mod parts;
mod route;
mod union;

pub use failover::Failover;
pub use mirror::Mirror;
pub use route::Route;
pub use union::Union;

// For the links in the documentation.
#[cfg(doc)]
use switchboard_core::Registry;
