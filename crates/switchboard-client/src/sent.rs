//! Whether the body of a request has been sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Clones belong to one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent(Arc<State>);

#[derive(Debug, Default)]
struct State {
    done: AtomicBool,
    told: Notify,
}

impl Sent {
    pub(crate) fn done(&self) {
        if !self.0.done.swap(true, Ordering::AcqRel) {
            self.0.told.notify_waiters();
        }
    }

    /// Returns when it has been.
    pub(crate) async fn wait(&self) {
        let told = self.0.told.notified();
        if !self.0.done.load(Ordering::Acquire) {
            told.await;
        }
    }
}
