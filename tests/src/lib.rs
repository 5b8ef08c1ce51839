//! The tools of Switchboard's tests against real peers and real faults: network namespaces, programs run in them, and
//! other people's mDNS.
//!
//! | module | holds |
//! |---|---|
//! | [`consul`] | Consul agents on free loopback ports |
//! | [`etcd`] | etcd on free loopback ports, alone and three members |
//! | [`netns`] | namespaces joined by bridges, and what breaks in them |
//! | [`program`] | a program in a namespace that takes commands and reports in JSON lines |
//! | [`peers`] | Avahi, python-zeroconf, hashicorp/mdns |
//! | [`go`] | programs of others in Go, built once |
//! | [`proxy`] | a wire that can be cut |
//! | [`port`] | ports that nobody else has |
//! | [`packet`] | DNS packets, right and wrong |
//! | [`usage`] | what a process and its namespace have used |
//!
//! Everything here is for tests, so it panics with the reason when something cannot be had.

pub mod consul;
pub mod etcd;
pub mod go;
pub mod netns;
pub mod packet;
pub mod peers;
pub mod port;
pub mod program;
pub mod proxy;
pub mod usage;
