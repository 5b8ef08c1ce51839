//! Following a file for as long as somebody watches.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::{AbortHandle, abortable};
use futures::stream::{self, BoxStream, StreamExt};
use switchboard_core::{Error, Result, Store};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::events::Events;
use crate::file::{BACKEND, File};

/// Looks are at least so far apart, however much goes on in the folder.
const BREATH: Duration = Duration::from_millis(50);

/// What follows a file; it ends with the last watch.
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn end(&self) {
        self.0.abort();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end();
    }
}

/// The stream that `of` makes of the store, once the file was read, and with what follows the file behind it.
pub(crate) fn following<T: Send + 'static>(
    file: Arc<File>,
    operation: &'static str,
    of: impl FnOnce(&Store) -> BoxStream<'static, Result<T>> + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    let begun = async move {
        if file.store.is_closed() {
            return of(&file.store);
        }
        let task = match task(&file, operation) {
            Ok(task) => task,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        // What it fails with is told by the store.
        let _ = file.refresh(operation).await;
        let told = of(&file.store);
        told.map(move |item| {
            let _ = &task;
            item
        })
        .boxed()
    };
    stream::once(begun).flatten().boxed()
}

/// The one task that all watches of a file share.
fn task(file: &Arc<File>, operation: &'static str) -> Result<Arc<Task>> {
    let mut shared = file.task.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(task) = shared.upgrade().filter(|task| !task.0.is_aborted()) {
        return Ok(task);
    }
    let runtime =
        Handle::try_current().map_err(|error| Error::no_runtime(BACKEND, operation).with_source(error))?;
    let (run, handle) = abortable(follow(file.clone()));
    runtime.spawn(run);
    let task = Arc::new(Task(handle));
    *shared = Arc::downgrade(&task);
    Ok(task)
}

async fn follow(file: Arc<File>) {
    let mut events = Events::new(file.config.events);
    loop {
        // Before the look, so that nothing can change between the two.
        events.listen(&file.config.path);
        let _ = file.refresh("watch").await;
        let next = Instant::now() + file.config.poll.mul_f64(0.8 + 0.4 * fastrand::f64());
        sleep(BREATH.min(file.config.poll)).await;
        tokio::select! {
            () = events.changed() => {}
            () = sleep_until(next) => {}
        }
    }
}
