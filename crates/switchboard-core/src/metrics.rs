//! Handles for what Switchboard measures, through the [`metrics`](https://docs.rs/metrics) facade. For its own crates, which
//! share the feature: without it all of this is nothing.
//!
//! A handle belongs to the recorder that is installed when it is made, and then costs no look-up, no lock and no allocation of
//! ours. Each one describes its metric when it is made, as the recorder may be another than the last time.

#[cfg(feature = "metrics")]
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use tokio::time::Instant;

/// Whether anything is measured. To tell of a state may take looking at all of it, which is for nothing without.
pub const ENABLED: bool = cfg!(feature = "metrics");

/// A metric: its name, and what it is.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))]
pub struct Metric {
    name: &'static str,
    about: &'static str,
}

/// What a metric is of: names with their values. Values are few: never an instance's id, of which a fleet makes new ones each
/// time it is deployed.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

impl Metric {
    /// Counts, unless the name of the handle says otherwise.
    pub const fn new(name: &'static str, about: &'static str) -> Self {
        Self { name, about }
    }
}

#[cfg(feature = "metrics")]
impl Metric {
    fn labels(labels: Labels<'_>) -> Vec<::metrics::Label> {
        labels.iter().map(|(name, value)| ::metrics::Label::new(*name, (*value).to_owned())).collect()
    }

    /// Counts what happens.
    pub fn counter(self, labels: Labels<'_>) -> Counter {
        ::metrics::describe_counter!(self.name, ::metrics::Unit::Count, self.about);
        Counter(::metrics::counter!(self.name, Self::labels(labels)))
    }

    /// A number of things that there are.
    pub fn level(self, labels: Labels<'_>) -> Level {
        self.part(::metrics::Unit::Count, labels)
    }

    /// A moment, in seconds since 1970; 0: none.
    pub fn moment(self, labels: Labels<'_>) -> Level {
        self.part(::metrics::Unit::Seconds, labels)
    }

    fn part(self, unit: ::metrics::Unit, labels: Labels<'_>) -> Level {
        ::metrics::describe_gauge!(self.name, unit, self.about);
        Level { gauge: ::metrics::gauge!(self.name, Self::labels(labels)), part: AtomicI64::new(0) }
    }

    /// How long things take.
    pub fn durations(self, labels: Labels<'_>) -> Durations {
        ::metrics::describe_histogram!(self.name, ::metrics::Unit::Seconds, self.about);
        Durations(::metrics::histogram!(self.name, Self::labels(labels)))
    }
}

#[cfg(not(feature = "metrics"))]
#[allow(clippy::unused_self, reason = "the same shape as with the feature")]
impl Metric {
    /// Counts what happens.
    pub fn counter(self, _: Labels<'_>) -> Counter {
        Counter()
    }

    /// A number of things that there are.
    pub fn level(self, _: Labels<'_>) -> Level {
        Level {}
    }

    /// A moment, in seconds since 1970; 0: none.
    pub fn moment(self, _: Labels<'_>) -> Level {
        Level {}
    }

    /// How long things take.
    pub fn durations(self, _: Labels<'_>) -> Durations {
        Durations()
    }
}

/// Counts what happens.
#[derive(Clone, Debug)]
pub struct Counter(#[cfg(feature = "metrics")] ::metrics::Counter);

impl Counter {
    /// Once more.
    #[inline]
    pub fn count(&self) {
        #[cfg(feature = "metrics")]
        self.0.increment(1);
    }
}

/// How long things take.
#[derive(Clone, Debug)]
pub struct Durations(#[cfg(feature = "metrics")] ::metrics::Histogram);

impl Durations {
    /// One took so many seconds.
    #[inline]
    pub fn took(&self, seconds: f64) {
        #[cfg(feature = "metrics")]
        self.0.record(seconds);
        #[cfg(not(feature = "metrics"))]
        let _ = seconds;
    }
}

/// One part of a gauge, to which the parts of all its holders add up: two selectors of a process are not in each other's
/// way, and what is dropped takes its part back.
#[derive(Debug)]
pub struct Level {
    #[cfg(feature = "metrics")]
    gauge: ::metrics::Gauge,
    #[cfg(feature = "metrics")]
    part: AtomicI64,
}

#[cfg(feature = "metrics")]
#[allow(clippy::cast_precision_loss, reason = "counts, and seconds since 1970")]
impl Level {
    /// Adds to the gauge; whoever does takes it back likewise.
    #[inline]
    pub fn add(&self, more: i64) {
        self.gauge.increment(more as f64);
    }

    /// Makes the part so large.
    pub fn set(&self, part: i64) {
        let before = self.part.swap(part, Relaxed);
        self.gauge.increment(part.saturating_sub(before) as f64);
    }

    /// Tells a moment, or that there is none.
    #[allow(clippy::disallowed_types, reason = "a moment that others are told is one of the calendar's")]
    pub fn since(&self, moment: Option<Instant>) {
        use std::time::SystemTime;

        let ago = |moment: Instant| SystemTime::now().checked_sub(moment.elapsed());
        let unix = moment.and_then(ago).and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        self.set(unix.and_then(|unix| unix.as_secs().try_into().ok()).unwrap_or(0));
    }
}

#[cfg(feature = "metrics")]
impl Drop for Level {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(not(feature = "metrics"))]
#[allow(clippy::unused_self, reason = "the same shape as with the feature")]
impl Level {
    /// Adds to the gauge; whoever does takes it back likewise.
    #[inline]
    pub fn add(&self, _: i64) {}

    /// Makes the part so large.
    pub fn set(&self, _: i64) {}

    /// Tells a moment, or that there is none.
    pub fn since(&self, _: Option<Instant>) {}
}
