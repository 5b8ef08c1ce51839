//! For [tonic](https://docs.rs/tonic): a channel for the name of a service.
//!
//! [`Channel`] goes where a `tonic::transport::Channel` goes, into any generated client. It picks an instance for each call,
//! not for each connection.

mod body;
mod channel;
mod endpoint;
mod outcome;
mod replay;
mod status;
mod timeout;

pub use body::ResponseBody;
pub use channel::{Channel, ChannelBuilder};
pub use endpoint::limited;
