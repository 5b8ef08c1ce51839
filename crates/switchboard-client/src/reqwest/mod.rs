//! For [reqwest](https://docs.rs/reqwest): requests to `http://hello/greet` go to an instance of the service `hello`.
//!
//! [`Discovery`] is a middleware for [reqwest-middleware](https://docs.rs/reqwest-middleware) that picks for each request,
//! learns from each response and tries again elsewhere. [`Resolver`] is the smaller thing for a plain client: a DNS
//! resolver that knows services.
//!
//! ```
//! use switchboard_client::reqwest::Discovery;
//! use switchboard_core::MemoryRegistry;
//! use switchboard_selector::Selector;
//! use switchboard_watcher::Directory;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let selector = Selector::new(Directory::new(MemoryRegistry::new()));
//! let client = Discovery::new(selector).client().unwrap();
//! let error = client.get("http://hello/greet").send().await.unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "nothing known of service \"hello\": the registry has no instance of it"
//! );
//! # }
//! ```

mod https;
mod limited;
mod middleware;
mod names;
mod outcome;
mod redirect;
mod resolve;
mod unknown_host;
mod upload;

pub use limited::limited;
pub use middleware::{Discovery, HostHeader};
pub use redirect::redirects;
/// What [`Discovery::client`] makes, and its errors.
pub use reqwest_middleware::{ClientWithMiddleware, Error};
pub use resolve::Resolver;
