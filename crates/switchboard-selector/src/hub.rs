use std::time::Duration;

use std::sync::atomic::Ordering::Relaxed;

use switchboard_core::ServiceName;
use switchboard_watcher::Directory;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::FailureKind;
use crate::candidate::Seat;
use crate::pick::Start;
use crate::stats::{Decay, Millis};
use crate::telemetry::Telemetry;

/// The registry hears of the same instance at most this often.
const HINT_INTERVAL: Duration = Duration::from_secs(1);

/// What a failed call costs in the latency average at least: a failure must not look fast.
const FAILURE_COST: f32 = 1e9;

/// What the picks of a service share: its clock, and whom to tell.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) service: ServiceName,
    pub(crate) decay: Decay,
    /// So many failures in a row wake the group; 0: never.
    pub(crate) consecutive: u32,
    pub(crate) wake: Notify,
    pub(crate) telemetry: Telemetry,
    epoch: Instant,
    directory: Directory,
}

impl Hub {
    pub(crate) fn new(service: ServiceName, directory: Directory, decay: Duration, consecutive: u32) -> Self {
        Self {
            telemetry: Telemetry::new(&service),
            service,
            decay: Decay::over(decay),
            consecutive,
            wake: Notify::new(),
            epoch: Instant::now(),
            directory,
        }
    }

    /// Nanoseconds since this hub was made, on tokio's clock; enough for 584 years.
    #[inline]
    pub(crate) fn nanos(&self) -> u64 {
        let passed = Instant::now().saturating_duration_since(self.epoch);
        passed.as_secs() * 1_000_000_000 + u64::from(passed.subsec_nanos())
    }

    pub(crate) fn millis(&self) -> Millis {
        millis(self.nanos())
    }

    /// Takes in what came of a call.
    pub(crate) fn judge(&self, seat: &Seat, started: Start, outcome: Result<(), FailureKind>) {
        self.telemetry.verdict(outcome);
        seat.count(outcome.is_ok());
        self.learn(seat, started, outcome.is_ok());
        let consecutive = &seat.stats().consecutive;
        match outcome {
            Ok(()) => {
                if consecutive.load(Relaxed) != 0 {
                    consecutive.store(0, Relaxed);
                }
            }
            Err(kind) => {
                let row = consecutive.fetch_add(1, Relaxed).wrapping_add(1);
                if self.consecutive != 0 && row % self.consecutive == 0 {
                    self.wake.notify_one();
                }
                if kind == FailureKind::Connection {
                    self.hint(seat);
                }
            }
        }
    }

    #[allow(clippy::cast_precision_loss)] // an average needs no more than the 24 bits of f32
    fn learn(&self, seat: &Seat, started: Start, succeeded: bool) {
        let started = match started {
            Start::At(nanos) => Some(nanos),
            // That a call failed is known without its time.
            Start::Skipped if !succeeded => None,
            Start::Skipped | Start::Untimed => return,
        };
        let now = self.nanos();
        let took = started.map_or(0.0, |started| now.saturating_sub(started) as f32);
        let cost = if succeeded { took } else { took.max(FAILURE_COST) };
        seat.stats().latency().observe(cost, millis(now), self.decay);
    }

    fn hint(&self, seat: &Seat) {
        // 0 stands for never.
        let now = Millis(self.millis().0.max(1));
        let hinted = &seat.stats().hinted;
        let last = hinted.load(Relaxed);
        let due = last == 0 || u128::from(now.since(Millis(last))) >= HINT_INTERVAL.as_millis();
        if due && hinted.compare_exchange(last, now.0, Relaxed, Relaxed).is_ok() {
            self.directory.suspect(&seat.instance().key());
        }
    }
}

/// Wraps after 49 days, as [`Millis`] expects.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn millis(nanos: u64) -> Millis {
    Millis((nanos / 1_000_000) as u32)
}
