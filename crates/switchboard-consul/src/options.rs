//! The options that are a choice of a few words.

use std::str::FromStr;
use std::time::Duration;

use switchboard_core::Invalid;

use crate::check::DeregisterAfter;

/// How reads weigh freshness against availability
/// (<https://developer.hashicorp.com/consul/api-docs/features/consistency>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// The leader answers; in rare cases a deposed one. Without a leader reads fail. `default` in a URL.
    #[default]
    Default,
    /// Any server answers, also without a leader; normally some milliseconds old. `stale` in a URL.
    Stale,
    /// The leader answers after asking its followers. `consistent` in a URL.
    Consistent,
    /// The local agent answers from its cache. `cached` in a URL.
    Cached,
}

impl Consistency {
    pub(crate) fn parameter(self) -> Option<&'static str> {
        match self {
            Self::Default => None,
            Self::Stale => Some("stale"),
            Self::Consistent => Some("consistent"),
            Self::Cached => Some("cached"),
        }
    }
}

impl FromStr for Consistency {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "default" => Ok(Self::Default),
            "stale" => Ok(Self::Stale),
            "consistent" => Ok(Self::Consistent),
            "cached" => Ok(Self::Cached),
            _ => Err(Invalid::quoting("consistency", text, "is none of default, stale, consistent, cached")),
        }
    }
}

/// The form in which registrations are written. Reads understand both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wire {
    /// As an operator would: tags are tags, metadata is Meta. `plain` in a URL.
    #[default]
    Plain,
    /// As go-micro's Consul registry does, so that go-micro programs find the service. `go-micro` in a URL.
    GoMicro,
}

impl FromStr for Wire {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "plain" => Ok(Self::Plain),
            "go-micro" => Ok(Self::GoMicro),
            _ => Err(Invalid::quoting("wire", text, "is none of plain, go-micro")),
        }
    }
}

impl FromStr for DeregisterAfter {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "never" {
            return Ok(Self::Never);
        }
        let refused =
            || Invalid::quoting("deregister_after", text, "is neither a number of s, m or h nor never");
        let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
        let number: u64 = text[..unit].parse().map_err(|_| refused())?;
        let each = match &text[unit..] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(refused()),
        };
        match number.checked_mul(each) {
            Some(seconds) if (1..=crate::MAX_SECONDS).contains(&seconds) => {
                Ok(Self::Fixed(Duration::from_secs(seconds)))
            }
            _ => Err(Invalid::quoting("deregister_after", text, "is out of range; it is 1s to 8760h")),
        }
    }
}
