#![cfg(feature = "watcher")]

use serde::Deserialize;
use switchboard_watcher::{Backoff, DirectoryBuilder, MassRemoval};

use super::Time;

/// What can be set of a [`Directory`](switchboard_watcher::Directory); each key is the method of the same name of its builder.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the builder has them")]
pub struct DirectorySettings {
    pub linger: Option<Time>,
    pub max_idle: Option<usize>,
    pub max_age: Option<Time>,
    pub ready_timeout: Option<Time>,
    pub backoff: Option<BackoffSettings>,
    pub mass_removal: Option<MassRemovalSettings>,
}

/// The waits between tries: see [`Backoff`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackoffSettings {
    /// The first wait.
    pub initial: Time,
    /// The longest wait.
    pub cap: Time,
    /// By how much each wait is longer than the one before. Default 1.6.
    #[serde(default)]
    pub factor: Option<f32>,
}

/// Updates to hold back: see [`MassRemoval`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MassRemovalSettings {
    /// In which more than this fraction of the usable instances are gone.
    pub fraction: f64,
    /// For so long at most.
    pub hold: Time,
}

impl DirectorySettings {
    /// Sets these of `builder`.
    pub fn apply(&self, builder: DirectoryBuilder) -> DirectoryBuilder {
        let mut builder = set!(self, builder, [linger, max_idle, max_age, ready_timeout]);
        if let Some(BackoffSettings { initial, cap, factor }) = &self.backoff {
            let backoff = Backoff::new(initial.0, cap.0);
            builder = builder.backoff(factor.iter().fold(backoff, |backoff, factor| backoff.factor(*factor)));
        }
        if let Some(MassRemovalSettings { fraction, hold }) = &self.mass_removal {
            builder = builder.mass_removal(MassRemoval::more_than(*fraction, hold.0));
        }
        builder
    }
}
