//! Switchboard's registry over DNS: SRV records, addresses, and DNS-SD (RFC 6763) over unicast.
//!
//! For where the platform registers: Kubernetes, Consul, Docker Compose, Nomad, or whoever keeps a zone. One can
//! [only read](switchboard_core::Registry#registries-one-can-only-read) it.
//!
//! ```no_run
//! use futures::StreamExt;
//! use switchboard_core::{Registry, ServiceName};
//! use switchboard_dns::DnsRegistry;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), switchboard_core::Error> {
//! let registry = DnsRegistry::builder().server(([127, 0, 0, 1], 8600).into()).domain("service.consul").open()?;
//! let mut watch = registry.watch(&ServiceName::new("orders")?);
//! while let Some(snapshot) = watch.next().await {
//!     println!("{} instances of orders", snapshot?.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is asked
//!
//! The name of a service, with the [domain](DnsBuilder::domain) behind it, for one kind of [records](Records):
//!
//! - **SRV** (RFC 2782): each record is an instance, with the port, the weight and the addresses of its target, which come along in
//!   the additional section or are asked for. Of several priorities the lowest counts that has a target with an address. A
//!   weight of 0 among others is hardly ever picked; a target `.` says that the service is not there. The id is `target:port`.
//! - **Addresses**: each is an instance, at the [port](DnsBuilder::port) that is given. The id is `address:port`.
//! - **DNS-SD**: as on a link, from a zone: what [`switchboard_dnssd`] reads. Only this has a list of names; for the others
//!   `services` is `Unsupported`.
//!
//! By default it is SRV and, where there is none, addresses. CNAMEs are followed, 8 at most. DNS does not tell upper from
//! lower case, so names that differ in nothing else are one service.
//!
//! Without a domain the system's search list and `ndots` apply, which ask several times and can make a name mean another;
//! a name that ends in a dot is taken as it is.
//!
//! # Watching is asking again
//!
//! - A watched service is asked for again when its records' time to live is over, but not before
//!   [`min_refresh`](DnsBuilder::min_refresh) (5 s) nor after [`max_refresh`](DnsBuilder::max_refresh) (30 s), up to a tenth later
//!   at random; and at once when an instance is suspected, at most every 3 s. All watches of a service share one question.
//! - No such name, and no such record, is an answer: nobody is there. `SERVFAIL`, `REFUSED`, silence and nonsense are errors, and
//!   what was heard last stands; it is asked again after 0.25 s, and twice as long each time, up to 10 s or `max_refresh`.
//! - An answer over UDP may be a part: cut short, which is marked and asked for over TCP; or, as Consul does it, three of
//!   twenty, which is not. So the first answer, and one that leaves out somebody, is asked for over TCP as well. Where TCP has more,
//!   that is what is asked from then on. Where there is no TCP, who is left out stays for a minute.
//! - Servers that give some of many at random over TCP, too, need a [`window`](DnsBuilder::window).
//! - A lookup asks at once. Nothing is cached.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod client;
mod config;
mod examine;
mod feed;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzz;
mod kept;
mod names;
mod record;
mod resolve;
mod sd;
mod servers;
mod watch;

pub use backend::DnsRegistry;
pub use config::{DnsBuilder, IpVersion, Records};
pub use examine::{Answered, Examined};

/// How this backend calls itself in URLs and errors.
const BACKEND: &str = "dns";
