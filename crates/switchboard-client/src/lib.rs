//! Calls to services by name, with the clients Rust programs already use.
//!
//! | feature | module | what it is |
//! |---|---|---|
//! | `tower` | [`tower`] | a `Discover` stream, and a `Service` that picks an instance for each request |
//! | `reqwest` | [`reqwest`] | a middleware: `client.get("http://hello/greet")` goes to an instance of `hello`; and a DNS resolver |
//! | `tonic` | [`tonic`] | a gRPC channel for a service name, which picks for each call |
//! | `caller` | [`Caller`] | the loop of a call, for programs that speak to the instance themselves |
//!
//! All pick through a [`Balancer`](switchboard_selector::Balancer), so strategies, filters and the ejection of failing
//! instances work the same in each, and two adapters on one [`Selector`](switchboard_selector::Selector) learn from each
//! other's calls. None is on by default; features only add.
//!
//! What one call wants otherwise (a hash key, filters, a strategy, retries, time-outs) is said by `Options` in the
//! request's extensions, in all alike. Their times bound everything: waiting for a first snapshot, connecting, all
//! attempts and the pauses between them; `is_timeout` says of any error whether such a time was over. By default an instance has
//! 15 s to begin to answer, and 3 s to be connected to.
//!
//! An error is a line with the service, the instances that were tried and why each failed; what the last one failed with is its
//! source. A response has the instance that it is of in its extensions, an `Arc<Instance>` (`tower`: if asked for). Each call is a
//! span with service, instance, attempts and outcome.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(feature = "caller", feature = "reqwest", feature = "tonic"))]
mod budget;
#[cfg(feature = "caller")]
mod caller;
#[cfg(any(feature = "tower", feature = "reqwest", feature = "tonic"))]
mod connections;
#[cfg(any(feature = "caller", feature = "tower", feature = "reqwest", feature = "tonic"))]
mod failures;
#[cfg(any(feature = "caller", feature = "tower", feature = "reqwest", feature = "tonic"))]
mod limits;
#[cfg(any(feature = "caller", feature = "reqwest", feature = "tonic"))]
mod metrics;
#[cfg(any(feature = "caller", feature = "tower", feature = "reqwest", feature = "tonic"))]
mod options;
#[cfg(any(feature = "caller", feature = "tower", feature = "reqwest", feature = "tonic"))]
mod pick;
#[cfg(any(feature = "caller", feature = "reqwest", feature = "tonic"))]
mod retry;
#[cfg(any(feature = "reqwest", feature = "tonic"))]
mod sent;
#[cfg(any(feature = "caller", feature = "tower", feature = "reqwest", feature = "tonic"))]
mod span;
#[cfg(any(feature = "caller", feature = "tower", feature = "reqwest", feature = "tonic"))]
mod timed_out;
#[cfg(any(feature = "reqwest", feature = "tonic"))]
mod unsent;

#[cfg(feature = "reqwest")]
pub mod reqwest;
#[cfg(feature = "tonic")]
pub mod tonic;
#[cfg(feature = "tower")]
pub mod tower;

#[cfg(feature = "caller")]
pub use caller::{Attempt, Call, Caller, InFlight, NotCalled};
#[cfg(any(feature = "caller", feature = "tower", feature = "reqwest", feature = "tonic"))]
pub use options::Options;
#[cfg(any(feature = "caller", feature = "reqwest", feature = "tonic"))]
pub use retry::Retry;
#[cfg(any(feature = "caller", feature = "tower", feature = "reqwest", feature = "tonic"))]
pub use timed_out::{TimedOut, is_timeout};
