//! The machine's network: which interfaces there are, which of them mDNS can use, and which address others reach this
//! machine at.
//!
//! The one place where Switchboard chooses interfaces and addresses: the mDNS registry, the registrar's `advertise` and the
//! `switchboard` command all ask here. Nothing in it sends anything.
//!
//! | module | answers |
//! |---|---|
//! | [`buffer`] | how sockets get a larger receive buffer |
//! | [`interface`] | what interfaces there are, and what a user means by `eth0`, `192.168.1.7` or `lo` |
//! | [`mdns`] | whether mDNS can use an interface, or why not |
//! | [`port`] | how a UDP port is shared with other programs |
//! | [`reachable`] | which address of this machine others can reach |
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod buffer;
pub mod interface;
pub mod mdns;
pub mod port;
pub mod reachable;

pub use if_addrs::{IfAddr, Interface};
