#![doc = "Service discovery: name a service, get a healthy instance."]
#![cfg_attr(docsrs, feature(doc_cfg))]
// Its programs need these.
#![cfg_attr(all(feature = "registrar", feature = "selector"), doc = include_str!("../README.md"))]
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | `mdns` (default) | the registry on the local link, scheme `mdns:` |
//! | `consul` | Consul, scheme `consul:` |
//! | `dns` | DNS: SRV records, addresses and DNS-SD of Kubernetes, Consul, Docker or any zone, scheme `dns:`; one can only read it, and it needs Rust 1.88 |
//! | `static` | lists in a URL or a watched file, schemes `static:` and `file:`; one can only read them |
//! | `etcd` | etcd, scheme `etcd:` |
//! | `kubernetes` | the pods of Kubernetes' services, scheme `kubernetes:`; needs Rust 1.89 |
//! | `registrar` | the server side: renewals, health checks, withdrawal, graceful shutdown |
//! | `axum` | `Serve`: an HTTP server in one call, registered, with `/ready`, deregistered and drained at the end; includes `registrar` |
//! | `tonic-server` | the same for gRPC, with the health service; includes `registrar` |
//! | `watcher` | live views of services, shared and kept through outages |
//! | `selector` | client-side balancing: strategies, filters, outlier ejection; includes `watcher` |
//! | `tower` | a tower `Service` that picks for each request, and a `Discover` stream; includes `selector` |
//! | `reqwest` | `http://hello/greet` for reqwest: a middleware, and a DNS resolver; includes `selector` |
//! | `tonic` | a gRPC channel for a service name that picks for each call; includes `selector` |
//! | `caller` | the loop of a call by name, for other protocols and proxies; includes `selector` |
//! | `compose` | several registries as one, for migrations and spares: see [`connect`] |
//! | `settings` | all settings as a structure for a program's own configuration file, and registries in a file, scheme `config:` |
//! | `metrics` | counters, gauges and histograms of all of it, through the [`metrics`](https://docs.rs/metrics) facade |
//! | `full` | all of the above but `kubernetes`, so that it builds with Rust 1.88 |
//!
//! The in-memory registry, scheme `memory:`, is always there. Features only add.

mod connect;
mod expression;
mod plan;
#[cfg(feature = "settings")]
pub mod settings;

pub use connect::{Connector, ENVIRONMENT_VARIABLE, NAMESPACE_VARIABLE, connect, from_env};
pub use switchboard_core::*;

/// The registry on the local link: DNS-SD over multicast DNS.
#[cfg(feature = "mdns")]
pub use switchboard_mdns as mdns;

/// The registry to grow into: Consul, over its HTTP API.
#[cfg(feature = "consul")]
pub use switchboard_consul as consul;

/// DNS: SRV records, addresses, and DNS-SD over unicast.
#[cfg(feature = "dns")]
pub use switchboard_dns as dns;
/// The registry for those who have etcd.
#[cfg(feature = "etcd")]
pub use switchboard_etcd as etcd;

/// Lists in a URL, or in a TOML or JSON file that is watched.
#[cfg(feature = "static")]
pub use switchboard_static as lists;

/// The pods of a Kubernetes cluster's services, from their EndpointSlices.
#[cfg(feature = "kubernetes")]
pub use switchboard_kubernetes as kubernetes;

/// Several registries as one: united, in turn, mirrored, or by the service's name.
#[cfg(feature = "compose")]
pub use switchboard_compose as compose;

/// The server side: keeps an instance registered for as long as the server runs and is well.
#[cfg(feature = "registrar")]
pub use switchboard_registrar as registrar;

/// Live views of services, shared and kept through outages.
#[cfg(feature = "watcher")]
pub use switchboard_watcher as watcher;

/// Client-side balancing: strategies, filters, outlier ejection.
#[cfg(feature = "selector")]
pub use switchboard_selector as selector;

/// Calls to services by name, with tower, reqwest and tonic, or by other means.
#[cfg(any(feature = "tower", feature = "reqwest", feature = "tonic", feature = "caller"))]
pub use switchboard_client as client;

/// What most programs need: `use switchboard::prelude::*;`.
pub mod prelude {
    pub use crate::{Change, Instance, InstanceKey, RegisterOptions, Registry, ServiceName, Snapshot};
    pub use futures::StreamExt;
    #[cfg(any(feature = "axum", feature = "tonic-server"))]
    pub use switchboard_registrar::Serve;
    #[cfg(feature = "registrar")]
    pub use switchboard_registrar::{Registrar, shutdown_signal};
    #[cfg(feature = "selector")]
    pub use switchboard_selector::{FailureKind, Pick, Selector};
    #[cfg(feature = "watcher")]
    pub use switchboard_watcher::Directory;
}
