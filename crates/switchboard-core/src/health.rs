use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// The health of an instance, as its registry sees it.
///
/// A registry without health checks (mDNS) says [`Passing`](Health::Passing) for everything it hears of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Health {
    /// All is well.
    #[default]
    Passing,
    /// Usable, but in trouble; often given less traffic.
    Warning,
    /// Not usable.
    Critical,
    /// Taken out by an operator.
    Maintenance,
}

impl Health {
    /// Whether clients should be sent there: passing or warning, as in Consul and go-micro.
    pub fn is_healthy(self) -> bool {
        matches!(self, Self::Passing | Self::Warning)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Health {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        [Self::Passing, Self::Warning, Self::Critical, Self::Maintenance]
            .into_iter()
            .find(|health| health.as_str() == text)
            .ok_or_else(|| {
                Invalid::quoting("health", text, "is none of passing, warning, critical, maintenance")
            })
    }
}
