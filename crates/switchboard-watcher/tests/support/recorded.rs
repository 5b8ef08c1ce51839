//! What a recorder of metrics is told.

#![allow(dead_code)] // each test binary uses its part

use std::collections::BTreeMap;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// What is told of one metric: a count, a level, or how often something was timed and how many milliseconds that took in all.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    Count(u64),
    Level(f64),
    Times(usize, u128),
}

pub(crate) type All = BTreeMap<String, Told>;

/// What a recorder was told. A snapshot of its begins everything anew; levels are added up here.
pub(crate) struct Heard {
    snapshotter: Snapshotter,
    prefix: &'static str,
    levels: BTreeMap<String, f64>,
}

impl Heard {
    /// The metrics whose names begin so, without that, since the last time and without those that say nothing.
    pub(crate) fn all(&mut self) -> All {
        let metric = |(name, value)| {
            let value = match value {
                DebugValue::Counter(count) => Told::Count(count),
                DebugValue::Gauge(more) => {
                    let level = self.levels.entry(String::clone(&name)).or_default();
                    *level += more.into_inner();
                    Told::Level(*level)
                }
                DebugValue::Histogram(times) => {
                    let sum = times.iter().map(|time| time.into_inner()).sum::<f64>();
                    // What was measured has 24 bits.
                    let millis = Duration::from_secs_f64(sum + 1e-4).as_millis();
                    Told::Times(times.len(), millis)
                }
            };
            (name, value)
        };
        let says = |told: &Told| !matches!(told, Told::Count(0) | Told::Times(0, _) | Told::Level(0.0));
        let all = self.snapshotter.snapshot().into_vec().into_iter().filter_map(|(key, _, _, value)| {
            let key = key.key();
            let name = key.name().strip_prefix(self.prefix)?;
            let labels: Vec<&str> = key.labels().map(metrics::Label::value).collect();
            Some((format!("{name} {}", labels.join(" ")).trim_end().to_owned(), value))
        });
        all.map(metric).filter(|(_, told)| says(told)).collect()
    }
}

/// Runs with a recorder of its own, on tokio's paused clock.
pub(crate) fn recorded<F: Future<Output = ()>>(prefix: &'static str, scene: impl FnOnce(Heard) -> F) {
    let recorder = DebuggingRecorder::new();
    let heard = Heard { snapshotter: recorder.snapshotter(), prefix, levels: BTreeMap::new() };
    metrics::with_local_recorder(&recorder, || {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap().block_on(scene(heard));
    });
}

pub(crate) fn expected<const N: usize>(expected: [(&str, Told); N]) -> All {
    expected.into_iter().map(|(name, told)| (name.to_owned(), told)).collect()
}
