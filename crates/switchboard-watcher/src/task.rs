//! The one task behind all views of a service.

use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use switchboard_core::{Error, ErrorKind, Registry, Result, Snapshot, SnapshotStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::backoff::Waits;
use crate::cell::Cell;
use crate::directory::{Inner, Settings};
use crate::guard::Guard;
use crate::{Freshness, HeldBack};
use switchboard_core::time::later;

/// A stream that is still up gets no longer rest than this after an error, whatever the backoff's cap.
const LONGEST_REST: Duration = Duration::from_millis(500);

pub(crate) struct Task {
    cell: Arc<Cell>,
    directory: Weak<Inner>,
    registry: Arc<dyn Registry>,
    settings: Settings,
    source: Source,
    waits: Waits,
    guard: Guard,
    leases: watch::Receiver<usize>,
    questions: watch::Receiver<u64>,
    /// When the last view was dropped, while there is none.
    idle_since: Option<Instant>,
}

/// Where the next snapshot comes from.
enum Source {
    /// Nothing is watched yet.
    Idle,
    /// The registry's stream is up.
    Up(SnapshotStream),
    /// The stream is up, and left alone for a moment after an error.
    Resting(SnapshotStream, Instant),
    /// The stream ended, which it should not; watched again at this time.
    Down(Instant),
}

impl Task {
    pub(crate) fn new(
        cell: Arc<Cell>,
        directory: Weak<Inner>,
        registry: Arc<dyn Registry>,
        settings: Settings,
    ) -> Self {
        Self {
            // Not watched here: this runs for a caller, and what a registry does in `watch` is the task's to bear.
            source: Source::Idle,
            waits: Waits::new(settings.backoff.clone()),
            guard: Guard::new(settings.mass_removal),
            leases: cell.leases(),
            questions: cell.questions(),
            idle_since: None,
            cell,
            directory,
            registry,
            settings,
        }
    }

    pub(crate) async fn run(mut self) {
        self.source = Source::Up(self.registry.watch(&self.cell.service));
        while self.step().await.is_continue() {
            // A registry that always has something ready must not keep the thread.
            tokio::task::consume_budget().await;
        }
    }

    async fn step(&mut self) -> ControlFlow<()> {
        let alarm = self.alarm();
        tokio::select! {
            biased;
            _ = self.leases.changed() => {
                let idle = *self.leases.borrow_and_update() == 0;
                self.idle_since = idle.then(Instant::now);
                ControlFlow::Continue(())
            }
            () = at(alarm) => self.on_time(Instant::now()),
            item = self.source.next() => self.hear(item),
            // After the stream, so only when it has nothing ready.
            _ = self.questions.changed() => {
                self.cell.answer(*self.questions.borrow_and_update());
                ControlFlow::Continue(())
            }
        }
    }

    /// The next moment at which something is due.
    fn alarm(&self) -> Option<Instant> {
        let source = match self.source {
            Source::Idle | Source::Up(_) => None,
            Source::Resting(_, until) | Source::Down(until) => Some(until),
        };
        let held = self.guard.held().map(|HeldBack { until, .. }| until);
        [source, held, self.idle_until(), self.expires()].into_iter().flatten().min()
    }

    fn idle_until(&self) -> Option<Instant> {
        let linger = if self.cell.lingers() { self.settings.linger } else { Duration::ZERO };
        self.idle_since.map(|since| later(since, linger))
    }

    /// When the last good snapshot is too old to be kept.
    fn expires(&self) -> Option<Instant> {
        let state = self.cell.state();
        match (&state.status.freshness, &state.snapshot) {
            (Freshness::Stale { since, .. }, Some(_)) => Some(later(*since, self.settings.max_age?)),
            _ => None,
        }
    }

    fn on_time(&mut self, now: Instant) -> ControlFlow<()> {
        if self.idle_until().is_some_and(|until| until <= now) {
            match self.directory.upgrade() {
                Some(directory) if !directory.retire(&self.cell) => {}
                _ => return ControlFlow::Break(()),
            }
        }
        if self.expires().is_some_and(|until| until <= now) {
            tracing::warn!(service = %self.cell.service, "the last good snapshot is too old and dropped");
            // What is held back is as old.
            self.guard.forget();
            self.cell.update(|state| {
                state.snapshot = None;
                state.status.updated = None;
                state.status.held_back = None;
            });
        }
        if let Some(snapshot) = self.guard.release(now) {
            // It was heard when it was held back. Whether the registry is heard now is another matter.
            self.cell.update(|state| state.show(snapshot));
        }
        self.source = match std::mem::replace(&mut self.source, Source::Down(now)) {
            Source::Resting(stream, until) if until <= now => Source::Up(stream),
            Source::Down(until) if until <= now => Source::Up(self.registry.watch(&self.cell.service)),
            waiting => waiting,
        };
        ControlFlow::Continue(())
    }

    fn hear(&mut self, item: Option<Result<Snapshot>>) -> ControlFlow<()> {
        match item {
            Some(Ok(snapshot)) => self.accept(snapshot),
            Some(Err(error)) if error.kind() == ErrorKind::Closed => return ControlFlow::Break(()),
            Some(Err(error)) => {
                let until = later(Instant::now(), self.fail(error).min(LONGEST_REST));
                if let Source::Up(stream) = std::mem::replace(&mut self.source, Source::Down(until)) {
                    self.source = Source::Resting(stream, until);
                }
            }
            None => {
                let error =
                    Error::new(ErrorKind::Unavailable, "directory", "watch", "the registry's stream ended");
                self.source = Source::Down(later(Instant::now(), self.fail(error)));
            }
        }
        ControlFlow::Continue(())
    }

    /// Notes a failure and tells how long to wait.
    fn fail(&mut self, error: Error) -> Duration {
        let now = Instant::now();
        self.cell.update(|state| {
            let since = if let Freshness::Stale { since, .. } = state.status.freshness {
                since
            } else {
                tracing::warn!(service = %self.cell.service, %error, "the registry is not heard");
                now
            };
            state.status.freshness = Freshness::Stale { since, error };
        });
        self.waits.next(now)
    }

    fn accept(&mut self, snapshot: Snapshot) {
        let current = self.cell.snapshot();
        let admitted = self.guard.admit(current.as_ref(), snapshot, Instant::now());
        let held = self.guard.held();
        if let Some(HeldBack { removed, .. }) = held {
            tracing::warn!(service = %self.cell.service, removed, "an update that removes too much is held back");
        }
        self.cell.update(|state| {
            if let Freshness::Stale { since, .. } = state.status.freshness {
                tracing::info!(service = %self.cell.service, after = ?since.elapsed(), "the registry is heard again");
            }
            state.status.freshness = Freshness::Fresh;
            match admitted {
                Some(snapshot) => state.show(snapshot),
                None => state.status.held_back = held,
            }
        });
    }
}

/// However the task ends, its views are told, and the next one to ask starts anew.
impl Drop for Task {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.upgrade() {
            directory.forget(&self.cell);
        }
        self.cell.update(|state| state.status.freshness = Freshness::Closed);
        self.cell.answer(u64::MAX);
    }
}

impl Source {
    async fn next(&mut self) -> Option<Result<Snapshot>> {
        match self {
            Self::Up(stream) => stream.next().await,
            Self::Idle | Self::Resting(..) | Self::Down(_) => std::future::pending().await,
        }
    }
}

async fn at(alarm: Option<Instant>) {
    match alarm {
        Some(alarm) => sleep_until(alarm).await,
        None => std::future::pending().await,
    }
}
