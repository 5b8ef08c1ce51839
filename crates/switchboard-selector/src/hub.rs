use std::time::Duration;

use switchboard_core::ServiceName;
use switchboard_watcher::Directory;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::measured::{Measured, Nanos, mixed};
use crate::metrics::Metrics;
use crate::outlier::OutlierDetection;
use crate::slow_start::SlowStart;

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) outlier: Option<OutlierDetection>,
    pub(crate) slow_start: Option<SlowStart>,
    pub(crate) panic_threshold: f64,
    pub(crate) latency_decay: Duration,
}

/// What all calls to a service share: its settings, its clock, what is usual in it, and whom to tell.
pub(crate) struct Hub {
    pub(crate) service: ServiceName,
    pub(crate) settings: Settings,
    /// In this time what was learned of latencies is forgotten to 1/e.
    pub(crate) decay: Nanos,
    pub(crate) wake: Notify,
    pub(crate) metrics: Metrics,
    /// The slowest success of late.
    pub(crate) slowest: Measured,
    /// The average time of a success.
    pub(crate) average: Measured,
    epoch: Instant,
    pub(crate) directory: Directory,
}

/// So often, and no more, the average time of a success is brought up to date.
const AVERAGED: f32 = 1e8;

impl Hub {
    pub(crate) fn new(service: ServiceName, directory: Directory, settings: Settings) -> Self {
        Self {
            metrics: Metrics::new(&service),
            service,
            decay: u64::try_from(settings.latency_decay.as_nanos()).unwrap_or(u64::MAX),
            settings,
            wake: Notify::new(),
            slowest: Measured::default(),
            average: Measured::default(),
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

    /// Whether no success of late took nearly so long. Unknown without a success, and none of the selector's business without
    /// outlier detection.
    #[allow(clippy::cast_precision_loss)] // a time
    pub(crate) fn is_too_long(&self, took: Nanos) -> bool {
        let slowest = self.settings.outlier.as_ref().and(self.slowest.get());
        slowest.is_some_and(|slowest| took as f32 > slowest * 2.0)
    }

    /// Notes how long a success took. Written only where it is news, and into the average ten times a second, as all threads
    /// read it; after each decay time without a slower one, the slowest is half as slow.
    #[allow(clippy::cast_precision_loss)] // a time
    pub(crate) fn note_success(&self, took: f32, now: Nanos) {
        self.average.update(now, |average, passed| {
            let due = average == 0.0 || passed >= AVERAGED;
            due.then(|| mixed(average, took, passed, self.decay))
        });
        self.slowest.update(now, |slowest, passed| {
            let news = took > slowest || passed > self.decay as f32;
            news.then(|| took.max(slowest / 2.0))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Hub {
        /// Of a service of which nothing is known, with a decay of 10 s and no slow start.
        pub(crate) fn with(outlier: Option<OutlierDetection>) -> Self {
            let latency_decay = Duration::from_secs(10);
            let settings = Settings { outlier, slow_start: None, panic_threshold: 0.5, latency_decay };
            let directory = Directory::new(switchboard_core::MemoryRegistry::new());
            Self::new(ServiceName::new("a").unwrap(), directory, settings)
        }
    }

    #[test]
    fn the_slowest_and_the_average_are_brought_up_to_date_when_it_is_time() {
        let hub = Hub::with(None);
        assert_eq!((hub.average.get(), hub.slowest.get()), (None, None));
        let note = |took: f32, at: Nanos| {
            hub.note_success(took * 1e6, at * 1_000_000);
            let millis = |nanos: Option<f32>| Duration::from_secs_f32(nanos.unwrap() / 1e9).as_millis();
            (millis(hub.average.get()), millis(hub.slowest.get()))
        };
        assert_eq!(note(10.0, 1_000), (10, 10));
        assert_eq!(note(1_000.0, 1_050), (10, 1_000), "the average has its time");
        assert_eq!(note(500.0, 11_050), (320, 1_000), "10 ms and 1 - 1/e of 490 more");
        assert_eq!(note(1.0, 11_051).1, 500, "after the decay time half as slow");
        assert_eq!(note(1.0, 21_051).1, 500);
        assert_eq!(note(1.0, 21_052).1, 250);
    }

    #[test]
    fn twice_the_slowest_of_late_is_too_long_where_there_is_outlier_detection() {
        let is_too_long = |outlier: Option<OutlierDetection>, slowest: Option<f32>| {
            let hub = Hub::with(outlier);
            if let Some(slowest) = slowest {
                hub.note_success(slowest, 1);
            }
            [200, 201].map(|took| hub.is_too_long(took))
        };
        let detection = Some(OutlierDetection::new());
        assert_eq!(is_too_long(detection.clone(), Some(100.0)), [false, true]);
        assert_eq!(is_too_long(detection, None), [false, false]);
        assert_eq!(is_too_long(None, Some(100.0)), [false, false]);
    }
}
