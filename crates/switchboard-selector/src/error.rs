use std::fmt;

use serde::Serialize;
use switchboard_core::{Error, ServiceName};

/// Why no instance was picked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PickError {
    /// Nothing is known of the service, because the registry has not been heard yet, or not for longer than the
    /// directory's `max_age`; the view's status says since when and why.
    #[error("nothing known of service {service:?}: the registry is not heard")]
    NotHeard {
        /// The service.
        service: ServiceName,
    },
    /// Nothing is known of the service: the registry has no instance of it.
    #[error("nothing known of service {service:?}: the registry has no instance of it")]
    NotFound {
        /// The service.
        service: ServiceName,
    },
    /// There are instances, but none may be used. Instances ejected for failing are not among the reasons: when too
    /// many of them are, all are used.
    #[error(
        "none of the {known} known instances of service {service:?} is usable: {unhealthy} unhealthy, {filtered} filtered out"
    )]
    NoneUsable {
        /// The service.
        service: ServiceName,
        /// How many instances the registry has.
        known: usize,
        /// How many of them are critical, in maintenance, or warning with a warning weight of 0.
        unhealthy: usize,
        /// How many of the others do not pass the filters.
        filtered: usize,
    },
    /// The registry could not be asked.
    #[error(transparent)]
    Registry(#[from] Error),
}

impl PickError {
    /// Whether nothing is known, as opposed to known and not usable.
    pub fn is_nothing_known(&self) -> bool {
        matches!(self, Self::NotHeard { .. } | Self::NotFound { .. })
    }
}

/// Why a call failed. A reply that says "no" for reasons of the application's own is a success: the instance works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection came about, or it broke. The registry is told too.
    Connection,
    /// No reply in time.
    Timeout,
    /// A reply that says the instance is in trouble, such as HTTP 500 or gRPC `UNAVAILABLE`.
    Response,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connection => "no connection",
            Self::Timeout => "no reply in time",
            Self::Response => "a reply that says it is in trouble",
        })
    }
}
