//! A registry on [etcd](https://etcd.io), version 3.4 and newer.
//!
//! An instance is a key, `<prefix>/<service>/<id>`, whose value is the instance as JSON, on a lease of its own. The lease ends when
//! nobody renews it, and the key with it, so that a killed process is gone after its TTL; without a TTL this handle renews a lease
//! of 30 s by itself.
//!
//! Reading is a range and a watch from its revision, so that nothing is missed. Values that go-micro, gRPC's etcd naming and kratos
//! have written are understood too; what nobody understands is left out, and logged once.

mod backend;
mod client;
mod config;
mod diagnosis;
mod failure;
mod record;
mod registrations;
mod scope;
mod stream;
mod watch;
mod wire;

pub use backend::EtcdRegistry;
pub use config::{EtcdBuilder, Wire};
pub use diagnosis::MemberStatus;

pub(crate) const BACKEND: &str = "etcd";
