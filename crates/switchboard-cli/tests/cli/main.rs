//! The command as a person or a script meets it: text, JSON, exit codes, signals.
//!
//! What is to be written stands in the files of `golden`; `UPDATE_GOLDEN=1` writes them anew.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod balancers;
mod complete;
mod consul;
mod context;
mod doctor;
mod etcd;
mod find;
mod kubernetes;
mod lists;
mod operate;
mod prometheus;
mod proxy;
mod proxy_hostile;
mod proxy_http2;
mod proxy_rolling;
mod proxy_streams;
mod readable;
mod render;
mod run;
mod serve;
mod several;
mod signals;
mod support;
mod terminal;
mod top;
mod usage;
mod wait;
