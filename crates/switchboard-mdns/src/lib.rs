//! Switchboard's zero-configuration registry: DNS-SD (RFC 6763) over multicast DNS (RFC 6762).
//!
//! Programs on one link find each other with no server and nothing to set up. What is registered here is ordinary DNS-SD,
//! so Avahi, Bonjour and python-zeroconf see it too, and what they announce can be found from here.
//!
//! ```no_run
//! use switchboard_core::{Instance, RegisterOptions, Registry, ServiceName};
//! use switchboard_mdns::MdnsRegistry;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), switchboard_core::Error> {
//! let registry = MdnsRegistry::builder().open().await?;
//! let greeter = Instance::builder("greeter").address("192.168.1.7:8080").build()?;
//! registry.register(&greeter, &RegisterOptions::default()).await?;
//!
//! // Any printer on the LAN, by its standard type:
//! let printers = registry.lookup(&ServiceName::new("_ipp._tcp")?).await?;
//! for printer in printers.all() {
//!     println!("{} at {}", printer.id(), printer.address());
//! }
//! registry.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # On the wire
//!
//! Every service is announced under the type `_switchboard._tcp.local.`, with the instance id as instance label (in lower
//! case, dots as hyphens) and everything else in the TXT record, one readable `key=value` each: `service`, `id`,
//! `version`, `weight`, `tags`, `endpoints`, `m.<key>`.
//!
//! A service name that starts with `_`, such as `_http._tcp`, is that DNS-SD type itself. Its metadata is the TXT record;
//! it has no version, tags, weight or endpoints, its instances' ids are their labels, and it is not listed by
//! `services`.
//!
//! # What it does and does not keep
//!
//! - Endpoints keep their names only. All else must fit TXT strings of 255 bytes, 8,000 in all; above 1,300 the
//!   record travels in fragments, and a warning says so.
//! - Multicast DNS has no health checks: what is heard is passing.
//! - A program that ends without a goodbye stays listed until its records lapse, up to two minutes, unless somebody
//!   [`suspect`](switchboard_core::Registry::suspect)s it. A `ttl` given on registering is kept by the registering
//!   process itself: without renewal it says goodbye.
//!
//! - One id that two living programs registered for one service is two instances. The second goes by another label,
//!   such as `web (2)` ([`MdnsRegistry::label`]), which readers take for its id until the first is gone. A program that was
//!   killed has no claim: the one that registers its id next has it at once, on another port or host too.
//! - Of many answers at once those are lost that do not fit the sockets' [receive buffer](MdnsBuilder::receive_buffer),
//!   and heard later. Linux grants the 4 MiB asked for to processes with `CAP_NET_ADMIN`, or to all after
//!   `sysctl -w net.core.rmem_max=4194304`; elsewhere the system's default stays. With less, a warning says so once.
//!
//! # Without a network
//!
//! - With no interface at all, `lookup`, `services` and watches fail with `Unavailable`.
//! - With loopback alone, services that it has are answered and followed as ever, also when they leave. Of any other service,
//!   whether it was heard over a link that has gone or never, nothing can be said: `Unavailable`, never an empty set.
//! - What was heard over links that have gone is not told as gone. When a link is back and has been listened to for as long
//!   as for a first state, the state is told again, without those that are not heard any more.
//! - `mdns:?interface=lo` says that this machine is all that is wanted: then nothing on loopback is an empty set.
//! - A link that goes while another than loopback stays takes what was heard on it alone along.
//! - A registration at a loopback address only, on a machine with other links, is warned of once.
//!
//! # Trust
//!
//! Multicast DNS has no authentication. Anyone on the link can announce any name with any address, and everything read
//! from it is untrusted input. Use it where you trust the link; elsewhere use a registry with access control, or
//! authenticate the peers themselves (mutual TLS).
#![cfg_attr(docsrs, feature(doc_cfg))]

mod announce;
mod answers;
mod ask;
mod backend;
mod browse;
mod browses;
mod buffer;
mod config;
mod daemon;
#[cfg(test)]
mod faults;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod heard;
mod interface;
mod linked;
mod metrics;
mod record;
mod registrations;
mod requery;
mod restarts;
mod watch;

pub use backend::MdnsRegistry;
pub use config::{IpVersion, MdnsBuilder};

/// How this backend calls itself in URLs and errors.
const BACKEND: &str = "mdns";
