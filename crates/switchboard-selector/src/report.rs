use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Serialize;
use switchboard_core::time::seconds_until;
use switchboard_core::{Health, Instance};
use tokio::time::Instant;

use crate::group::Group;
use crate::member::{Member, Stage};
use crate::pool::Pool;
use crate::selection::Selection;
use crate::slow_start::FULL;

/// How one instance stands with a balancer: why is it picked, or not?
///
/// Displayed in a line, and serialized with times in seconds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct InstanceReport {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Whether it is picked, and if not, why.
    pub standing: Standing,
    /// Calls in flight.
    pub in_flight: u32,
    /// The moving average of latency; `None` before the first call that was timed.
    #[serde(rename = "latency_seconds", serialize_with = "seconds")]
    pub latency: Option<Duration>,
    /// Failures since the last success, and calls given up that took longer than usual.
    pub consecutive_failures: u32,
    /// How often it has been ejected, less one for each interval since at the end of which it had its full share.
    pub ejections: u32,
    /// The part of its full share that it gets: 0 on trial, and growing to 1 in a slow start.
    pub share: f64,
}

/// Whether an instance is picked, and if not, why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Standing {
    /// It is picked.
    InUse,
    /// It returns from ejection: one call at a time goes to it, until one succeeds.
    OnTrial,
    /// It failed and is out until then.
    Ejected {
        /// When it returns.
        #[serde(rename = "for_another_seconds", serialize_with = "seconds_until")]
        until: Instant,
    },
    /// Its connections fail, or it does not answer, and it is left alone until then, as there are others.
    Unreachable {
        /// When it is tried again.
        #[serde(rename = "for_another_seconds", serialize_with = "seconds_until")]
        until: Instant,
    },
    /// It failed and would be out, but too many are; so it is picked.
    EjectedInUse {
        /// When it returns.
        #[serde(rename = "for_another_seconds", serialize_with = "seconds_until")]
        until: Instant,
    },
    /// The registry says that it must not be used.
    Unhealthy(Health),
    /// A filter, as it displays, does not let it pass.
    FilteredOut(String),
}

impl Standing {
    /// Whether it is picked.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::InUse | Self::OnTrial | Self::EjectedInUse { .. })
    }
}

#[allow(clippy::ref_option, reason = "serde gives it so")]
fn seconds<S: serde::Serializer>(latency: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    latency.map(|latency| latency.as_secs_f64()).serialize(serializer)
}

impl fmt::Display for InstanceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, {} in flight", self.instance.key(), self.standing, self.in_flight)?;
        if let Some(latency) = self.latency {
            write!(f, ", latency {latency:.1?}")?;
        }
        if self.consecutive_failures > 0 {
            write!(f, ", {} failures in a row", self.consecutive_failures)?;
        }
        if self.share < 1.0 {
            write!(f, ", {:.0} % of its share", self.share * 100.0)?;
        }
        Ok(())
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = |until: &Instant| until.saturating_duration_since(Instant::now());
        match self {
            Self::InUse => f.write_str("in use"),
            Self::OnTrial => f.write_str("on trial: one call at a time, until one succeeds"),
            Self::Ejected { until } => write!(f, "ejected for another {:.1?}", left(until)),
            Self::Unreachable { until } => write!(f, "unreachable, tried again in {:.1?}", left(until)),
            Self::EjectedInUse { until } => {
                write!(f, "in use although ejected for another {:.1?}, as too many are", left(until))
            }
            Self::Unhealthy(health @ Health::Warning) => write!(f, "not used: {health}, with a weight of 0"),
            Self::Unhealthy(health) => write!(f, "not used: {health}"),
            Self::FilteredOut(filter) => write!(f, "left out by the filter {filter:?}"),
        }
    }
}

pub(crate) fn report(group: &Group, pool: &Pool) -> Vec<InstanceReport> {
    let members = &group.members().list;
    let selection = Selection::of(members, &pool.filters, group.hub.settings.panic_threshold);
    let is_all_away = selection.near.iter().all(|&at| members[at].is_away());
    let report = |member: &Member| InstanceReport {
        instance: member.instance().clone(),
        standing: match member.stage {
            _ if !member.is_healthy() => Standing::Unhealthy(member.instance().health()),
            Stage::Ejected(until) if selection.panic => Standing::EjectedInUse { until },
            Stage::Ejected(until) => Standing::Ejected { until },
            Stage::Away(until) if is_all_away => Standing::EjectedInUse { until },
            Stage::Away(until) => Standing::Unreachable { until },
            Stage::OnTrial => Standing::OnTrial,
            Stage::Starting(_) | Stage::Full => Standing::InUse,
        },
        in_flight: member.candidate.in_flight(),
        latency: member.candidate.latency(),
        consecutive_failures: member.stats().row.load(Relaxed),
        ejections: member.ejections,
        share: f64::from(member.stats().share.load(Relaxed)) / f64::from(FULL),
    };
    let mut reports: Vec<InstanceReport> = members.iter().map(report).collect();
    for (at, filter) in selection.filtered {
        reports[at].standing = Standing::FilteredOut(filter.to_string());
    }
    reports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_well_and_is_serialized() {
        let instance = Instance::builder("greeter").id("1").address("10.0.0.7:80").build().unwrap();
        let report = InstanceReport {
            instance: Arc::new(instance),
            standing: Standing::Ejected { until: Instant::now() + Duration::from_secs(30) },
            in_flight: 2,
            latency: Some(Duration::from_micros(1500)),
            consecutive_failures: 5,
            ejections: 1,
            share: 0.5,
        };
        assert_eq!(
            report.to_string(),
            "greeter/1: ejected for another 30.0s, 2 in flight, latency 1.5ms, 5 failures in a row, 50 % of its share"
        );
        let mut told = serde_json::to_value(&report).unwrap();
        assert_eq!(told["instance"].take()["id"], "1");
        assert_eq!(
            told,
            serde_json::json!({
                "instance": null, "standing": {"ejected": {"for_another_seconds": 30.0}}, "in_flight": 2,
                "latency_seconds": 0.0015, "consecutive_failures": 5, "ejections": 1, "share": 0.5,
            })
        );
    }
}
