#![cfg(feature = "selector")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use switchboard_selector::{
    ConsistentHash, Filter, LeastRequest, OutlierDetection, PeakEwma, Random, RoundRobin, SelectorBuilder,
    SlowStart,
};

use super::Time;

/// What can be set of a [`Selector`](switchboard_selector::Selector).
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SelectorSettings {
    /// How to choose. Default `random`.
    pub strategy: Option<StrategyName>,
    /// Only instances of this version.
    pub version: Option<String>,
    /// Only instances with all of these tags.
    pub tags: BTreeSet<String>,
    /// Only instances with this metadata.
    pub labels: BTreeMap<String, String>,
    /// Instances of this zone first.
    pub prefer_zone: Option<String>,
    /// Only so many instances, others in each process.
    pub subset: Option<usize>,
    /// When failing instances are taken out, or `false`.
    pub outlier_detection: Option<Unless<OutlierSettings>>,
    /// How new instances start, or `false`.
    pub slow_start: Option<Unless<SlowStartSettings>>,
    /// From which fraction of ejected instances on all are used. Default 0.5.
    pub panic_threshold: Option<f64>,
    /// How fast a peak in latency is forgotten. Default 10 s.
    pub latency_decay: Option<Time>,
}

/// A strategy's name, as the command line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StrategyName {
    /// [`Random`]
    Random,
    /// [`RoundRobin`]
    RoundRobin,
    /// [`LeastRequest`]
    LeastRequest,
    /// [`PeakEwma`]
    PeakEwma,
    /// [`ConsistentHash`]
    Hash,
}

/// See [`OutlierDetection`]; each key is its method of the same name.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the methods have them")]
pub struct OutlierSettings {
    pub consecutive: Option<u32>,
    pub interval: Option<Time>,
    pub ejection_time: Option<EjectionTime>,
    pub max_ejected: Option<f64>,
    /// `false`: neither of the two rules about rates.
    pub rates: Option<bool>,
    pub success_rate: Option<SuccessRate>,
    pub failure_percentage: Option<FailurePercentage>,
}

/// See [`OutlierDetection::ejection_time`].
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the method has them")]
pub struct EjectionTime {
    pub base: Time,
    pub longest: Time,
}

/// See [`OutlierDetection::success_rate`].
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the method has them")]
pub struct SuccessRate {
    pub deviations: f64,
    pub instances: usize,
    pub calls: u32,
}

/// See [`OutlierDetection::failure_percentage`].
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the method has them")]
pub struct FailurePercentage {
    pub fraction: f64,
    pub instances: usize,
    pub calls: u32,
}

/// See [`SlowStart`].
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SlowStartSettings {
    /// Until an instance has its full share. Default 30 s.
    pub window: Option<Time>,
    /// The share it begins with. Default 0.1.
    pub from_share: Option<f64>,
}

/// Settings of something that can be turned off by `false`; `true` is all the defaults.
#[derive(Clone, Debug, PartialEq)]
pub enum Unless<T> {
    /// `false`
    Off,
    /// `true`
    Default,
    /// A table.
    Set(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unless<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = Unless<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or a table")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Self::Value, E> {
                Ok(if on { Unless::Default } else { Unless::Off })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Unless::Set)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl SelectorSettings {
    /// Sets these of `builder`.
    pub fn apply(&self, mut builder: SelectorBuilder) -> SelectorBuilder {
        builder = match self.strategy {
            None => builder,
            Some(StrategyName::Random) => builder.strategy(Random),
            Some(StrategyName::RoundRobin) => builder.strategy(RoundRobin),
            Some(StrategyName::LeastRequest) => builder.strategy(LeastRequest),
            Some(StrategyName::PeakEwma) => builder.strategy(PeakEwma),
            Some(StrategyName::Hash) => builder.strategy(ConsistentHash),
        };
        let version = self.version.iter().map(Filter::version);
        let tags = self.tags.iter().map(Filter::tag);
        let labels = self.labels.iter().map(|(key, value)| Filter::label(key, value));
        let zone = self.prefer_zone.iter().map(Filter::prefer_zone);
        let subset = self.subset.iter().map(|&size| Filter::subset(size));
        // A subset of what is left by the others.
        builder = version
            .chain(tags)
            .chain(labels)
            .chain(subset)
            .chain(zone)
            .fold(builder, SelectorBuilder::filter);
        builder = match &self.outlier_detection {
            None | Some(Unless::Default) => builder,
            Some(Unless::Off) => builder.without_outlier_detection(),
            Some(Unless::Set(outlier)) => builder.outlier_detection(outlier.detection()),
        };
        builder = match &self.slow_start {
            None | Some(Unless::Default) => builder,
            Some(Unless::Off) => builder.without_slow_start(),
            Some(Unless::Set(slow)) => builder.slow_start(slow.slow_start()),
        };
        set!(self, builder, [panic_threshold, latency_decay])
    }
}

impl OutlierSettings {
    fn detection(&self) -> OutlierDetection {
        let mut detection = set!(self, OutlierDetection::new(), [consecutive, interval, max_ejected]);
        if let Some(EjectionTime { base, longest }) = &self.ejection_time {
            detection = detection.ejection_time(base.0, longest.0);
        }
        if self.rates == Some(false) {
            detection = detection.without_rates();
        }
        if let Some(SuccessRate { deviations, instances, calls }) = self.success_rate {
            detection = detection.success_rate(deviations, instances, calls);
        }
        if let Some(FailurePercentage { fraction, instances, calls }) = self.failure_percentage {
            detection = detection.failure_percentage(fraction, instances, calls);
        }
        detection
    }
}

impl SlowStartSettings {
    fn slow_start(&self) -> SlowStart {
        let slow = self.window.map_or_else(SlowStart::default, |Time(window)| SlowStart::over(window));
        self.from_share.iter().fold(slow, |slow, &share| slow.from_share(share))
    }
}
