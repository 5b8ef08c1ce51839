//! Why an instance is not passing, and since when a watch has seen that.

use switchboard_core::{Health, HealthReason, Instance};
use tokio::time::Instant;

/// The reasons in the order in which they are told: the worst first.
pub(crate) fn sorted(mut reasons: Vec<HealthReason>) -> Vec<HealthReason> {
    reasons.retain(|reason| reason.health != Health::Passing);
    reasons.sort_by(|a, b| b.health.cmp(&a.health).then_with(|| a.check.cmp(&b.check)));
    reasons
}

/// `instance` with its reasons dated: as in `before`, the same one when it was last read, or `now` where that had none
/// of the kind.
pub(crate) fn dated(instance: Instance, before: Option<&Instance>, now: Instant) -> Instance {
    if instance.health_reasons().is_empty() {
        return instance;
    }
    let since = |reason: &HealthReason| {
        let known = before?.health_reasons().iter();
        known.clone().find(|known| known.check == reason.check && known.health == reason.health)?.seen_since
    };
    let dated: Vec<_> = instance
        .health_reasons()
        .iter()
        .map(|reason| reason.clone().seen_since(Some(since(reason).unwrap_or(now))))
        .collect();
    let undated = instance.to_builder().clear_health_reasons();
    // What was valid still is.
    dated
        .into_iter()
        .fold(undated, switchboard_core::InstanceBuilder::health_reason)
        .build()
        .unwrap_or(instance)
}

/// Whether nobody says that it fails: TTLs have ended, or were not renewed since the agent began anew, and the agent's own
/// checks have not run since.
pub(crate) fn has_only_lapsed(instance: &Instance) -> bool {
    let critical = |reason: &&HealthReason| reason.health == Health::Critical;
    instance.health() == Health::Critical
        && instance
            .health_reasons()
            .iter()
            .filter(critical)
            .all(|reason| reason.output.is_empty() || reason.output.starts_with(TTL_ENDED))
}

/// What Consul puts out for a check whose TTL has ended.
const TTL_ENDED: &str = "TTL expired";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn failing(output: &str, checks: &[&str]) -> Instance {
        let builder = Instance::builder("a").id("1").address("h:1").health(Health::Critical);
        let reasons = checks.iter().map(|check| HealthReason::new(*check, Health::Critical).output(output));
        reasons.fold(builder, switchboard_core::InstanceBuilder::health_reason).build().unwrap()
    }

    #[test]
    fn a_ttl_that_ended_is_told_from_a_check_that_failed() {
        for output in ["", "TTL expired", "TTL expired (last output before timeout follows): ok"] {
            assert!(has_only_lapsed(&failing(output, &["TTL"])), "{output}");
        }
        assert!(!has_only_lapsed(&failing("refused", &["http"])));
        let maintenance = failing("", &["TTL"]).with_health(Health::Maintenance);
        assert!(!has_only_lapsed(&maintenance));
    }

    #[test]
    fn a_reason_keeps_its_time_for_as_long_as_its_check_says_so() {
        let [first, later] = [0, 1].map(|hours| Instant::now() + Duration::from_secs(hours * 3600));
        let one = dated(failing("a", &["http"]), None, first);
        assert_eq!(one.health_reasons()[0].seen_since, Some(first));
        let two = dated(failing("b", &["disk", "http"]), Some(&one), later);
        let times: Vec<_> = two.health_reasons().iter().map(|reason| reason.seen_since).collect();
        assert_eq!(times, [Some(later), Some(first)]);
        assert_eq!(two.health_reasons()[1].output, "b");
        let passed = failing("", &[]);
        assert_eq!(
            dated(failing("c", &["http"]), Some(&passed), later).health_reasons()[0].seen_since,
            Some(later)
        );
    }
}
