//! The contract of [`Registry`](switchboard_core::Registry) as tests.
//!
//! Whoever implements `Registry`, a backend or a decorator around one, proves it here: describe it once as a
//! [`Backend`], and [`suite!`] makes one named test of every clause.
//!
//! ```
//! use std::sync::Arc;
//! use switchboard_conformance::{Backend, Profile, async_trait};
//! use switchboard_core::{MemoryRegistry, Registry};
//!
//! struct Memory(MemoryRegistry);
//!
//! #[async_trait]
//! impl Backend for Memory {
//!     fn profile(&self) -> Profile {
//!         Profile::new()
//!     }
//!
//!     async fn open(&self) -> Arc<dyn Registry> {
//!         Arc::new(self.0.handle())
//!     }
//! }
//!
//! switchboard_conformance::suite!(Memory(MemoryRegistry::new()));
//! # fn main() {
//! #     for name in ["lookup::unknown_service_is_empty", "ttl::a_lapse_reaches_watchers"] {
//! #         switchboard_conformance::run(&Memory(MemoryRegistry::new()), name);
//! #     }
//! # }
//! ```
//!
//! # What a backend provides
//!
//! - **A world and handles on it.** Every case opens the handles it needs with [`Backend::open`]; all of them must see
//!   the same instances, as separate programs would. Cases choose service names nobody else has, so that any number
//!   of them may share one world, in parallel, and with strangers.
//! - **A profile.** [`Profile`] says what the backend can do and how long things take. The default is the strictest:
//!   everything is kept, within seconds. What a backend declares it cannot do is not tested, or tested for being
//!   refused in words.
//! - **A writer**, if its handles can [only read](switchboard_core::Registry#registries-one-can-only-read).
//!   [`Backend::write`] edits the zone or writes the file; then it is what cases have for registering, and what is about registering is
//!   skipped. By default handles register.
//! - **An outage**, if it can. [`Backend::open_fragile`] opens a handle that a case may cut off from its registry; without
//!   it the cases of theme [`outage`] are skipped.
//!
//! # What a case does
//!
//! It panics when its clause is broken, with the clause's name, what was expected and what came instead. Otherwise it
//! tells its [`Outcome`]: passed, or skipped and why. Tests made by [`suite!`] write a skip to standard error past the
//! test harness, so that it is seen in a passing run too.
//!
//! Every wait has a limit from the profile. No case waits for a time to pass where it can wait for an event; that
//! nothing comes is concluded after [`Profile::quiet`].
//!
//! # Without the macro
//!
//! Each case is a public function in the module of its theme, and [`cases`] lists them all, for programs with a test
//! harness of their own.
//!
//! # For programs on a registry
//!
//! [`Chaos`] decorates any registry with outages, delays, failures, lost and repeated states, so that a program can be
//! tried on bad days.
//!
//! # What is left to the backend's own tests
//!
//! What cannot be brought about through `Registry` alone: that credentials are never shown, and threads left behind by a
//! dropped watch.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod case;
mod chaos;
mod follow;
mod tasks;
mod world;

pub mod close;
pub mod content;
pub mod deregister;
pub mod invalid;
pub mod lookup;
pub mod maintenance;
pub mod names;
pub mod outage;
pub mod register;
pub mod services;
pub mod suspect;
pub mod ttl;
pub mod update;
pub mod watch;

pub use async_trait::async_trait;
pub use backend::{Backend, Outage, Profile};
pub use case::{Case, Outcome, cases, run};
pub use chaos::Chaos;
