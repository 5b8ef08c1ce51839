//! Switchboard's registry on Kubernetes: balances over the pods of a service, from its EndpointSlices.
//!
//! In Kubernetes a service's name leads to one virtual address, behind which connections are balanced and not calls: what keeps its
//! connections, as gRPC does, stays with the few pods it met first. This registry tells the pods themselves.
//!
//! ```no_run
//! use switchboard_core::{Registry, ServiceName};
//! use switchboard_kubernetes::KubernetesRegistry;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), switchboard_core::Error> {
//! let registry = KubernetesRegistry::builder().namespace("shop").port("grpc").open()?;
//! for pod in registry.lookup(&ServiceName::new("orders")?).await?.healthy() {
//!     println!("{} in {:?}", pod.address(), pod.metadata().get("zone"));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is read
//!
//! | | |
//! |---|---|
//! | `orders` | the Service of this name in the registry's namespace |
//! | `orders.shop` | that of another namespace: a name of two DNS labels |
//! | an instance | a pod, or an endpoint without one, over all EndpointSlices of the Service; its id is the pod's uid, or its address and port |
//! | passing | `ready`, which a slice may leave out |
//! | warning | `serving` and `terminating`, where no other endpoint of the Service is ready; else critical |
//! | critical | all others |
//! | `zone`, `node`, `pod` | in the metadata, so that a selector's `prefer_zone` works |
//! | `protocol` | in the metadata: the port's `appProtocol` |
//! | `port.NAME` | in the metadata: the other ports |
//!
//! [`labels`](KubernetesBuilder::labels) adds what the pods' own labels say, and their version.
//!
//! A watch tells at once what is more. That an endpoint has gone it tells when its Service's slices have been quiet for
//! [`settle`](KubernetesBuilder::settle), 250 ms: while the control plane moves endpoints from slice to slice, one may be in none.
//!
//! # Watching
//!
//! The first eight services that are watched have a watch of their own; more share one of the whole namespace. A watch that the server
//! ends, as it does every few minutes, is no error. What cannot be heard is, and what was read last stands; it is tried again every second.
//!
//! # Registering
//!
//! By default the platform registers, and one can [only read](switchboard_core::Registry#registries-one-can-only-read).
//! [`Registration`] has the other two ways.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod client;
mod config;
mod diagnosis;
mod follow;
mod place;
mod readiness;
mod record;
mod registrations;
mod watch;
mod world;

pub use backend::KubernetesRegistry;
pub use config::{IpFamily, KubernetesBuilder, Registration};
pub use diagnosis::{Diagnosis, Endpoint, Permission, Slice};

/// How this registry calls itself in URLs and errors.
const BACKEND: &str = "kubernetes";
