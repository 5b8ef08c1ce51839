use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use switchboard_core::{InstanceKey, ServiceName};
use switchboard_watcher::Directory;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::outlier::OutlierDetection;
use crate::slow_start::SlowStart;
use crate::telemetry::Telemetry;

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) outlier: Option<OutlierDetection>,
    pub(crate) slow_start: Option<SlowStart>,
    pub(crate) panic_threshold: f64,
    pub(crate) latency_decay: Duration,
}

/// What all calls to a service share: its settings, its clock, what is usual in it, and whom to tell.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) service: ServiceName,
    pub(crate) settings: Settings,
    /// In this time what was learned of latencies is forgotten to 1/e.
    pub(crate) decay: Nanos,
    pub(crate) wake: Notify,
    pub(crate) telemetry: Telemetry,
    /// The slowest success of late, and when it was; 0: none yet.
    slowest: (AtomicU64, AtomicU64),
    /// The average time of a success, and when it was last brought up to date; 0: none yet.
    average: (AtomicU64, AtomicU64),
    epoch: Instant,
    directory: Directory,
}

/// So often, and no more, the average time of a success is brought up to date.
const AVERAGED: Nanos = 100_000_000;

/// An average and what comes after so much time, by which the older is forgotten.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // times, not negative
fn mixed(old: Nanos, new: Nanos, passed: Nanos, decay: Nanos) -> Nanos {
    if old == 0 {
        return new;
    }
    let kept = (-(passed as f64) / decay as f64).exp();
    (old as f64 * kept + new as f64 * (1.0 - kept)) as Nanos
}

/// A moment or a time, in nanoseconds; 584 years of them.
pub(crate) type Nanos = u64;

impl Hub {
    pub(crate) fn new(service: ServiceName, directory: Directory, settings: Settings) -> Self {
        Self {
            telemetry: Telemetry::new(&service),
            service,
            decay: u64::try_from(settings.latency_decay.as_nanos()).unwrap_or(u64::MAX),
            settings,
            wake: Notify::new(),
            slowest: Default::default(),
            average: Default::default(),
            epoch: Instant::now(),
            directory,
        }
    }

    /// Since this hub was made, on tokio's clock.
    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        let passed = Instant::now().saturating_duration_since(self.epoch);
        passed.as_secs() * 1_000_000_000 + u64::from(passed.subsec_nanos())
    }

    /// So many failures in a row eject; 0: never.
    pub(crate) fn consecutive(&self) -> u32 {
        self.settings.outlier.as_ref().map_or(0, |detection| detection.consecutive)
    }

    /// What takes longer is not usual: twice the average success. `None` before the first.
    pub(crate) fn usual(&self) -> Option<Nanos> {
        Some(self.average.0.load(Relaxed).saturating_mul(2)).filter(|&nanos| nanos > 0)
    }

    /// The slowest success of late. `None` before the first.
    pub(crate) fn slowest(&self) -> Option<Nanos> {
        Some(self.slowest.0.load(Relaxed)).filter(|&nanos| nanos > 0)
    }

    /// Notes how long a success took. Written only where it is news, and into the average ten times a second, as all threads
    /// read it; after each decay time without a slower one, the slowest is half as slow.
    pub(crate) fn note_success(&self, took: Nanos, now: Nanos) {
        let (average, averaged) = &self.average;
        let (old, passed) = (average.load(Relaxed), now.saturating_sub(averaged.load(Relaxed)));
        if old == 0 || passed >= AVERAGED {
            average.store(mixed(old, took, passed, self.decay).max(1), Relaxed);
            averaged.store(now, Relaxed);
        }
        let (slowest, noted) = &self.slowest;
        let usual = slowest.load(Relaxed);
        let old = now.saturating_sub(noted.load(Relaxed)) > self.decay;
        if took > usual || old {
            slowest.store(took.max(usual / 2).max(1), Relaxed);
            noted.store(now, Relaxed);
        }
    }

    /// Tells the registry that an instance could not be reached.
    pub(crate) fn suspect(&self, key: &InstanceKey) {
        self.directory.suspect(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_is_its_first_and_then_forgets_over_the_decay() {
        let second = 1_000_000_000;
        assert_eq!(mixed(0, 7, 5 * second, 10 * second), 7);
        assert_eq!(mixed(1_000, 3_000, 0, 10 * second), 1_000);
        // To 1/e in the decay time.
        assert_eq!(mixed(1_000, 3_000, 10 * second, 10 * second), 2_264);
        assert_eq!(mixed(1_000, 3_000, u64::MAX, 10 * second), 3_000);
    }

    #[test]
    fn the_slowest_and_the_average_are_brought_up_to_date_when_it_is_time() {
        const MILLI: Nanos = 1_000_000;
        let directory = Directory::new(switchboard_core::MemoryRegistry::new());
        let latency_decay = Duration::from_secs(10);
        let settings = Settings { outlier: None, slow_start: None, panic_threshold: 0.5, latency_decay };
        let hub = Hub::new(ServiceName::new("a").unwrap(), directory, settings);
        assert_eq!((hub.usual(), hub.slowest()), (None, None));
        let note = |took, at| {
            hub.note_success(took * MILLI, at * MILLI);
            let millis = |nanos: Option<Nanos>| nanos.unwrap() / MILLI;
            (millis(hub.usual()), millis(hub.slowest()))
        };
        assert_eq!(note(10, 1_000), (20, 10));
        assert_eq!(note(1_000, 1_050), (20, 1_000), "the average has its time");
        assert_eq!(note(500, 11_050), (641, 1_000), "twice 10 ms and 1 - 1/e of 490 more");
        assert_eq!(note(1, 11_051).1, 500, "after the decay time half as slow");
        assert_eq!(note(1, 21_051).1, 500);
        assert_eq!(note(1, 21_052).1, 250);
    }
}
