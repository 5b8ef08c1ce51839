//! The Consul registry against real agents (`needs consul`) and scripted ones.

mod conformance;
mod support;
