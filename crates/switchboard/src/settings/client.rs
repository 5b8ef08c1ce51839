#![cfg(any(feature = "reqwest", feature = "tonic", feature = "caller"))]

use serde::Deserialize;
use switchboard_client::{Options, Retry};

use super::Time;

/// What can be set of calls, for all adapters: see [`Options`] and [`Retry`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ClientSettings {
    /// The time for a whole call. Default: none.
    pub timeout: Option<Time>,
    /// The time for one attempt. Default 15 s.
    pub per_try_timeout: Option<Time>,
    /// The most retries for one call. Default 2.
    pub retries: Option<u32>,
    /// How many calls may be retries.
    pub retry_budget: Option<RetryBudget>,
}

/// How many calls to a service may be retries: see [`Retry::budget`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RetryBudget {
    /// This fraction of them,
    pub fraction: f64,
    /// and so many in each second.
    pub per_second: u32,
}

impl ClientSettings {
    /// The limits, for the `options` of an adapter.
    pub fn options(&self) -> Options {
        set!(self, Options::new(), [timeout, per_try_timeout])
    }

    /// The retries, for the `retry` of an adapter; several adapters share its budgets when they are given clones of one.
    pub fn retry(&self) -> Retry {
        let mut retry = Retry::new();
        if let Some(retries) = self.retries {
            retry = retry.most(retries);
        }
        if let Some(RetryBudget { fraction, per_second }) = self.retry_budget {
            retry = retry.budget(fraction, per_second);
        }
        retry
    }
}
