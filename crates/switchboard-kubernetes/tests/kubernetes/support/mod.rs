//! A real kube-apiserver on etcd, and what tests write there in place of the controllers.

mod cluster;
#[path = "../../../../switchboard-consul/tests/it/support/proxy.rs"]
mod proxy;
mod world;

pub(crate) use cluster::Cluster;
pub(crate) use proxy::Proxy;
pub(crate) use world::{Space, endpoint, port, slice};
