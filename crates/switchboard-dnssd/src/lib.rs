//! An instance as DNS-SD records (RFC 6763), and back: what the registries over multicast DNS and over DNS share, so that a
//! program that announced itself on a link reads the same from a zone.
//!
//! | module | says |
//! |---|---|
//! | [`txt`] | what stands in a TXT record |
//! | [`ServiceType`] | which DNS-SD type a service's name means |
//! | [`decode`], [`tell_apart`] | which instance records are, and which of several have one id |
#![cfg_attr(docsrs, feature(doc_cfg))]

mod instance;
mod kind;
pub mod txt;

pub use instance::{decode, own_label, tell_apart};
pub use kind::{OWN_TYPE, ServiceType};

/// A DNS label is at most 63 bytes (RFC 1035, section 2.3.4).
pub const MAX_LABEL: usize = 63;
