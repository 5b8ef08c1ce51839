use std::time::Duration;

/// When an instance that fails is taken out for a while, and for how long.
///
/// Three rules, each on by default. Two look at all instances every [`interval`](Self::interval); one, the run of
/// failures, acts at once. An ejected instance returns after the base time multiplied by how often it has been ejected,
/// on trial: it gets one call at a time until one succeeds, and its first failure ejects it again. Each interval at the end of
/// which it has its full share takes one off that number.
///
/// Beside the rules, and beyond the cap on how many may be ejected, picks keep away as long as there are others
///
/// - from an instance that answers nothing: the first of its calls that wait began over 100 ms ago and twice as long as the slowest
///   success of late took, and nothing was heard since. One answer ends it;
/// - from one that cannot be reached: two connections failed with no answer between them, or a call ended in such silence. It
///   is tried by one call after 1 s, then after twice as long each time, and after five times as long as a call has waited for it
///   in vain if that is longer, up to 30 s (gRPC has 1 s, 1.6 times, 120 s); and up to a fifth later, so that those that died
///   together are not tried together. A call that was tried elsewhere before is no trial.
///
/// Without outlier detection neither holds.
///
/// A call given up after longer than usual counts in the run of failures too ([`Pick`](crate::Pick)), so an instance that
/// hangs is ejected when callers have lost their patience.
///
/// | setting | default | source |
/// |---|---|---|
/// | consecutive failures | 5 | Finagle, Envoy |
/// | interval | 10 s | gRPC A50 |
/// | base ejection time | 30 s | gRPC A50 |
/// | max ejection time | 300 s | gRPC A50 |
/// | max ejected | 10 %, but at least one | gRPC A50 |
/// | success rate | under the mean by 1.9 standard deviations, and by 5 points at least; from 5 instances with 100 calls | gRPC A50, which knows no least |
/// | failure percentage | 85 %; from 5 instances with 50 calls | gRPC A50 |
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierDetection {
    pub(crate) consecutive: u32,
    pub(crate) interval: Duration,
    pub(crate) base: Duration,
    pub(crate) longest: Duration,
    pub(crate) most: f64,
    pub(crate) success_rate: Option<Rule>,
    pub(crate) failure_percentage: Option<Rule>,
}

/// A success rate closer to the mean than this is none to eject for.
const LEAST: f64 = 0.05;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rule {
    threshold: f64,
    instances: usize,
    calls: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive: 5,
            interval: Duration::from_secs(10),
            base: Duration::from_secs(30),
            longest: Duration::from_secs(300),
            most: 0.10,
            success_rate: Some(Rule { threshold: 1.9, instances: 5, calls: 100 }),
            failure_percentage: Some(Rule { threshold: 0.85, instances: 5, calls: 50 }),
        }
    }
}

impl OutlierDetection {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// So many failures in a row eject at once; 0 turns the rule off.
    pub fn consecutive(mut self, failures: u32) -> Self {
        self.consecutive = failures;
        self
    }

    /// How often the rules about rates are applied; at least 10 ms.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(10));
        self
    }

    /// How long the first ejection lasts, and the longest one.
    pub fn ejection_time(mut self, base: Duration, longest: Duration) -> Self {
        self.base = base;
        self.longest = longest.max(base);
        self
    }

    /// No more are ejected once this fraction (0 to 1) is. One always can be, unless it is 0.
    pub fn max_ejected(mut self, fraction: f64) -> Self {
        self.most = at_most_1(fraction, 0.0);
        self
    }

    /// Ejects whose success rate is more than `deviations` standard deviations below the mean, and more than 5 points
    /// (where all fail alike, one is always the worst), if at least `instances` had `calls` in the interval.
    pub fn success_rate(mut self, deviations: f64, instances: usize, calls: u32) -> Self {
        self.success_rate = Some(Rule { threshold: deviations, instances, calls });
        self
    }

    /// Ejects who fails more than this fraction of calls, if at least `instances` had `calls` in the interval.
    pub fn failure_percentage(mut self, fraction: f64, instances: usize, calls: u32) -> Self {
        self.failure_percentage = Some(Rule { threshold: fraction, instances, calls });
        self
    }

    /// Turns both rules about rates off.
    pub fn without_rates(mut self) -> Self {
        self.success_rate = None;
        self.failure_percentage = None;
        self
    }

    /// Whether one more may be ejected.
    #[allow(clippy::cast_precision_loss)] // counts of instances
    pub(crate) fn allows(&self, ejected: usize, all: usize) -> bool {
        (ejected as f64) < self.most * all as f64
    }

    /// How long the `times`-th ejection lasts.
    pub(crate) fn lasts(&self, times: u32) -> Duration {
        self.base.checked_mul(times).map_or(self.longest, |time| time.min(self.longest))
    }

    /// Which of these are outliers, worst first.
    pub(crate) fn outliers(&self, tallies: &[Tally]) -> Vec<usize> {
        let mut found: Vec<usize> = Vec::new();
        if let Some(rule) = self.success_rate {
            let rates: Vec<(usize, f64)> = rule.counted(tallies);
            let floor = floor(&rates, rule.threshold);
            found.extend(rates.iter().filter(|&&(_, rate)| rate < floor).map(|&(at, _)| at));
        }
        if let Some(rule) = self.failure_percentage {
            let rates = rule.counted(tallies);
            found.extend(rates.iter().filter(|&&(_, rate)| 1.0 - rate > rule.threshold).map(|&(at, _)| at));
        }
        found.sort_by(|&a, &b| tallies[a].rate().total_cmp(&tallies[b].rate()).then(a.cmp(&b)));
        found.dedup();
        found
    }
}

/// A fraction within its bounds; what is no number counts as the least.
#[allow(clippy::manual_clamp)] // that would keep what is no number
pub(crate) fn at_most_1(fraction: f64, least: f64) -> f64 {
    fraction.max(least).min(1.0)
}

/// What came of an instance's calls in one interval.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) succeeded: u32,
    pub(crate) failed: u32,
}

impl Tally {
    fn calls(self) -> u32 {
        self.succeeded.saturating_add(self.failed)
    }

    fn rate(self) -> f64 {
        f64::from(self.succeeded) / f64::from(self.calls().max(1))
    }
}

impl Rule {
    /// The success rates of those with enough calls; none if they are too few.
    fn counted(self, tallies: &[Tally]) -> Vec<(usize, f64)> {
        let enough = tallies.iter().enumerate().filter(|(_, tally)| tally.calls() >= self.calls.max(1));
        let rates: Vec<_> = enough.map(|(at, tally)| (at, tally.rate())).collect();
        if rates.len() < self.instances { Vec::new() } else { rates }
    }
}

#[allow(clippy::cast_precision_loss)] // counts of instances
fn floor(rates: &[(usize, f64)], deviations: f64) -> f64 {
    let count = rates.len().max(1) as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    mean - (variance.sqrt() * deviations).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tallies(rates: &[(u32, u32)]) -> Vec<Tally> {
        rates.iter().map(|&(succeeded, failed)| Tally { succeeded, failed }).collect()
    }

    #[test]
    fn too_few_instances_or_calls_prove_nothing() {
        let detection = OutlierDetection::new();
        assert!(detection.outliers(&tallies(&[(100, 0), (100, 0), (100, 0), (0, 100)])).is_empty());
        let mut few = vec![(40, 0); 9];
        few.push((0, 40));
        assert!(detection.outliers(&tallies(&few)).is_empty());
        assert!(detection.outliers(&[]).is_empty());
    }

    #[test]
    fn the_failure_percentage_counts_on_its_own() {
        let detection = OutlierDetection { success_rate: None, ..OutlierDetection::new() };
        let list = tallies(&[(5, 95), (0, 100), (14, 86), (15, 85), (100, 0)]);
        assert_eq!(detection.outliers(&list), [1, 0, 2]);
    }

    #[test]
    fn the_floor_is_so_many_deviations_below_the_mean() {
        let is = |rates: &[f64], deviations: f64, wanted: f64| {
            let rates: Vec<_> = rates.iter().copied().enumerate().collect();
            assert!((floor(&rates, deviations) - wanted).abs() < 1e-9, "{rates:?}");
        };
        is(&[0.9, 0.7], 1.9, 0.8 - 0.19);
        is(&[0.9, 0.7], 3.0, 0.8 - 0.3);
        is(&[0.9, 0.9], 1.9, 0.9 - LEAST);
    }

    #[test]
    fn ejections_last_longer_each_time_up_to_the_longest() {
        let detection = OutlierDetection::new();
        let seconds: Vec<u64> =
            [1, 2, 9, 10, 11, u32::MAX].map(|times| detection.lasts(times).as_secs()).to_vec();
        assert_eq!(seconds, [30, 60, 270, 300, 300, 300]);
    }

    #[test]
    fn what_is_set_holds() {
        let second = Duration::from_secs(1);
        let set = OutlierDetection::new()
            .consecutive(3)
            .interval(second)
            .ejection_time(second, second * 2)
            .max_ejected(0.3)
            .success_rate(1.0, 2, 3)
            .failure_percentage(0.5, 4, 6);
        let expected = OutlierDetection {
            consecutive: 3,
            interval: second,
            base: second,
            longest: second * 2,
            most: 0.3,
            success_rate: Some(Rule { threshold: 1.0, instances: 2, calls: 3 }),
            failure_percentage: Some(Rule { threshold: 0.5, instances: 4, calls: 6 }),
        };
        assert_eq!(set, expected);
        let bare = expected.clone().without_rates();
        assert_eq!(bare, OutlierDetection { success_rate: None, failure_percentage: None, ..expected });
        assert!((OutlierDetection::new().max_ejected(f64::NAN).most).abs() < 1e-9);
    }
}
