//! A real kube-apiserver on etcd, and what tests write there in place of the controllers.

mod cluster;
mod world;

pub(crate) use cluster::Cluster;
pub(crate) use world::{Space, endpoint, port, slice};
