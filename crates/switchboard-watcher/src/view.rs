use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::unfold;
use futures::{Stream, StreamExt};
use switchboard_core::{Change, Error, ErrorKind, Result, ServiceName, Snapshot};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::cell::{Cell, State};
use crate::directory::Inner;
use crate::{Freshness, Status};

/// How long a reader waits for the task to write what it has heard.
const CATCH_UP: Duration = Duration::from_millis(100);

/// One service, live.
///
/// Cheap to clone; clones and all other views of the service share one task. While any is left the service is
/// watched.
pub struct View {
    cell: Arc<Cell>,
    directory: Arc<Inner>,
    written: watch::Receiver<u64>,
}

impl View {
    /// A view that [`Inner`] has counted.
    pub(crate) fn new(cell: Arc<Cell>, directory: Arc<Inner>) -> Self {
        let written = cell.writes();
        Self { cell, directory, written }
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.cell.service
    }

    /// What is known now; takes no lock and never waits.
    ///
    /// `None` while nothing has been heard yet, and when the last good snapshot has become too old to be kept. A
    /// service that the registry does not know is an empty snapshot.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.cell.snapshot()
    }

    /// How much [`snapshot`](Self::snapshot) can be trusted: fresh, or stale since when and why.
    pub fn status(&self) -> Status {
        self.cell.state().status.clone()
    }

    /// Whether nothing will change any more, as [`Freshness::Closed`] says: the registry or the directory was closed, or the
    /// runtime on which the service was watched has ended. Takes no lock.
    ///
    /// Ask the directory again: unless it is closed, it watches anew, on the runtime it is then called from.
    pub fn is_closed(&self) -> bool {
        self.cell.is_closed()
    }

    /// Waits until there is a snapshot, and gives it.
    ///
    /// # Errors
    ///
    /// When there is none within the directory's `ready_timeout`, the registry's latest error, or
    /// [`ErrorKind::Unavailable`] if it said nothing. An error that waiting does not cure, such as
    /// [`ErrorKind::PermissionDenied`], comes at once; and so does each once the service has been watched for that long, so
    /// that not every call waits while the registry is away.
    pub async fn ready(&self) -> Result<Snapshot> {
        let lasting = |error: &Error| !error.is_transient();
        self.wait(|state| state.status.error().filter(|error| lasting(error)).cloned()).await
    }

    /// What the registry has said last: a snapshot if there is one, else its error, waiting for either.
    pub(crate) async fn latest(&self) -> Result<Snapshot> {
        // The limit is for a stream that never stops to breathe.
        let _ = timeout(CATCH_UP, self.cell.caught_up()).await;
        self.wait(|state| state.status.error().cloned()).await
    }

    async fn wait(&self, fatal: impl Fn(&State) -> Option<Error>) -> Result<Snapshot> {
        let mut written = self.written.clone();
        let settled = async {
            loop {
                written.mark_unchanged();
                let state = self.cell.state();
                if let Some(snapshot) = &state.snapshot {
                    return Ok(snapshot.clone());
                }
                if matches!(state.status.freshness, Freshness::Closed) {
                    return Err(Error::closed("directory", "ready"));
                }
                if let Some(error) = fatal(&state) {
                    return Err(error);
                }
                // The cell holds the sender and this view holds the cell.
                let _ = written.changed().await;
            }
        };
        let limit = self.directory.settings.ready_timeout;
        timeout(limit.saturating_sub(self.cell.since.elapsed()), settled).await.unwrap_or_else(|_| {
            let state = self.cell.state();
            Err(state.status.error().cloned().unwrap_or_else(|| {
                let message = format!("no snapshot of {:?} within {limit:?}", self.cell.service);
                Error::new(ErrorKind::Unavailable, "directory", "ready", message)
            }))
        })
    }

    /// Waits until snapshot or status has changed since this view (not its clones) last returned from here, or was
    /// made.
    ///
    /// Once the view is [`Freshness::Closed`] nothing changes any more and this waits for ever.
    pub async fn changed(&mut self) {
        // Cannot fail: the cell holds the sender and this view holds the cell.
        let _ = self.written.changed().await;
    }

    /// Everything known now as [`Change::Added`], then each change.
    ///
    /// A reader slower than the changes misses states between, never the last. Ends when the view is
    /// [`Freshness::Closed`].
    pub fn changes(&self) -> impl Stream<Item = Change> + Send + use<> {
        let known = Snapshot::empty(self.cell.service.clone());
        unfold((self.clone(), known, VecDeque::new()), |(mut view, mut known, mut ready)| async move {
            loop {
                if let Some(change) = ready.pop_front() {
                    return Some((change, (view, known, ready)));
                }
                view.written.mark_unchanged();
                let state = view.cell.state();
                let now = state.snapshot.clone().unwrap_or_else(|| Snapshot::empty(known.service().clone()));
                ready.extend(now.diff(&known));
                known = now;
                if ready.is_empty() {
                    if matches!(state.status.freshness, Freshness::Closed) {
                        return None;
                    }
                    view.changed().await;
                }
            }
        })
        .fuse()
    }

    pub(crate) fn set_lingering(&self) {
        self.cell.set_lingering();
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.cell.state()
    }

    /// Forgets the changes so far, so that [`changed`](Self::changed) waits for the next.
    pub(crate) fn mark_seen(&mut self) {
        self.written.mark_unchanged();
    }
}

/// The clone has seen what this view has seen.
impl Clone for View {
    fn clone(&self) -> Self {
        self.cell.lease();
        Self { cell: self.cell.clone(), directory: self.directory.clone(), written: self.written.clone() }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.directory.release(&self.cell);
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.cell.state();
        f.debug_struct("View")
            .field("service", &self.cell.service)
            .field("instances", &state.snapshot.as_ref().map(Snapshot::len))
            .field("status", &state.status)
            .finish_non_exhaustive()
    }
}
