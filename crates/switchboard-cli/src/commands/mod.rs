//! The commands, one file each.

pub(crate) mod call;
pub(crate) mod context;
pub(crate) mod deregister;
pub(crate) mod describe;
pub(crate) mod done;
pub(crate) mod generate;
pub(crate) mod instances;
pub(crate) mod maintenance;
pub(crate) mod pick;
pub(crate) mod register;
pub(crate) mod render;
pub(crate) mod run;
pub(crate) mod services;
pub(crate) mod wait;
pub(crate) mod watch;
pub(crate) mod watch_exec;
