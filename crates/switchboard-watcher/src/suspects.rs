use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use switchboard_core::{InstanceKey, Registry};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// How many hints may be on their way. More are dropped: they are only hints, and whoever gives them must not wait.
const QUEUE: usize = 64;

/// How long a registry may take over one hint.
const LIMIT: Duration = Duration::from_secs(5);

/// Brings clients' hints to the registry, one at a time, by a task that starts with the first.
pub(crate) struct Suspects {
    registry: Arc<dyn Registry>,
    worker: Mutex<Worker>,
}

enum Worker {
    None,
    Running(mpsc::Sender<InstanceKey>, AbortHandle),
    Closed,
}

impl Suspects {
    pub(crate) fn new(registry: Arc<dyn Registry>) -> Self {
        Self { registry, worker: Mutex::new(Worker::None) }
    }

    /// Whether the hint is on its way.
    pub(crate) fn hint(&self, key: &InstanceKey) -> bool {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        match &*worker {
            Worker::Closed => return false,
            Worker::Running(queue, _) if !queue.is_closed() => return queue.try_send(key.clone()).is_ok(),
            Worker::Running(..) | Worker::None => {}
        }
        let Ok(runtime) = Handle::try_current() else { return false };
        let (queue, hints) = mpsc::channel(QUEUE);
        let sent = queue.try_send(key.clone()).is_ok();
        let task = runtime.spawn(deliver(self.registry.clone(), hints)).abort_handle();
        // A runtime that is shut down has dropped it already.
        let sent = sent && !queue.is_closed();
        *worker = Worker::Running(queue, task);
        sent
    }

    pub(crate) fn close(&self) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Worker::Running(_, task) = std::mem::replace(&mut *worker, Worker::Closed) {
            task.abort();
        }
    }
}

async fn deliver(registry: Arc<dyn Registry>, mut hints: mpsc::Receiver<InstanceKey>) {
    while let Some(key) = hints.recv().await {
        if timeout(LIMIT, registry.suspect(&key)).await.is_err() {
            tracing::debug!(%key, "the registry did not take a hint in time");
        }
    }
}

impl Drop for Suspects {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Suspects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suspects").finish_non_exhaustive()
    }
}
