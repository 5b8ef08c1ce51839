use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};
use switchboard_core::time;

/// A time, written as in URLs: `"150ms"`, `"10s"`, `"5m"`, `"1h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl From<Time> for Duration {
    fn from(Time(time): Time) -> Self {
        time
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        time::parse(&text).map(Self).map_err(D::Error::custom)
    }
}
