//! For [tower](https://docs.rs/tower): a `Discover` stream for its own balancers, and a service that balances by ours.
//!
//! [`Balance`] picks an instance for each request and learns from each response. [`Discover`] is for those who want
//! `tower::balance` instead, or something else that follows a changing set of services.

mod balance;
mod discover;
mod error;

pub use balance::{Balance, Classify, ErrorsFail, FromExtensions, InExtensions, NoOptions, OptionsOf};
pub use discover::Discover;
pub use error::CallError;
