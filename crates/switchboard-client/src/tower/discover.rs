use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{BoxStream, Stream, StreamExt};
use switchboard_core::{Change, Instance, InstanceId};
use switchboard_watcher::View;
use tower::discover;

use crate::connections::same_target;

/// The usable instances of a service as a [`tower::discover::Discover`], for `tower::balance::p2c::Balance` and the like.
///
/// First an insertion for each instance there is, then changes only. An instance whose content changes is inserted anew;
/// one that the registry takes for unusable (critical, in maintenance) is removed until it is usable again. A registry
/// that cannot be heard changes nothing. There is never an error, and never an end, either of which would stop tower's
/// `Balance`.
pub struct Discover<S> {
    changes: BoxStream<'static, Change>,
    make: Make<S>,
    ended: bool,
}

type Make<S> = Box<dyn FnMut(&Arc<Instance>) -> S + Send>;

impl<S> Discover<S> {
    /// Follows `view`; `make` gives the service for an instance.
    pub fn new(view: &View, make: impl FnMut(&Arc<Instance>) -> S + Send + 'static) -> Self {
        Self { changes: view.changes().boxed(), make: Box::new(make), ended: false }
    }

    fn translate(&mut self, change: &Change) -> Option<discover::Change<InstanceId, S>> {
        let usable = |instance: &Arc<Instance>| instance.effective_weight() > 0;
        let (old, new) = match change {
            Change::Added(new) => (None, Some(new)),
            Change::Updated { old, new } => (Some(old), Some(new)),
            Change::Removed(old) => (Some(old), None),
        };
        let (old, new) = (old.filter(|old| usable(old)), new.filter(|new| usable(new)));
        match (old, new) {
            (Some(old), Some(new)) if same_target(old, new) => None,
            (_, Some(new)) => Some(discover::Change::Insert(new.id().clone(), (self.make)(new))),
            (Some(old), None) => Some(discover::Change::Remove(old.id().clone())),
            (None, None) => None,
        }
    }
}

impl<S> Stream for Discover<S> {
    type Item = Result<discover::Change<InstanceId, S>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended {
            match self.changes.poll_next_unpin(cx) {
                Poll::Ready(Some(change)) => {
                    if let Some(change) = self.translate(&change) {
                        return Poll::Ready(Some(Ok(change)));
                    }
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return Poll::Pending,
            }
        }
        // The directory was closed: what is known stays.
        Poll::Pending
    }
}

impl<S> Unpin for Discover<S> {}

impl<S> fmt::Debug for Discover<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discover").field("ended", &self.ended).finish_non_exhaustive()
    }
}
