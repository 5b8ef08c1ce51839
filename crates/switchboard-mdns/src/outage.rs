//! Outages, told on streams that know of none.

use futures::stream::{BoxStream, StreamExt, unfold};
use switchboard_core::{Error, Result};
use tokio::sync::watch;

/// The stream that `open` gives, interrupted by outages: the error of each is told, nothing while it lasts, and after it
/// what `open` gives then, which begins with the current state.
pub(crate) fn told<T: Send + 'static>(
    outage: watch::Receiver<Option<Error>>,
    open: impl Fn() -> BoxStream<'static, Result<T>> + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    let stream = Some(open());
    unfold((outage, open, stream), |(mut outage, open, mut stream)| async move {
        loop {
            let error = outage.borrow_and_update().clone();
            if let Some(error) = error {
                if stream.take().is_some() {
                    return Some((Err(error), (outage, open, None)));
                }
                outage.changed().await.ok()?;
                continue;
            }
            tokio::select! {
                biased;
                changed = outage.changed() => changed.ok()?,
                item = stream.get_or_insert_with(&open).next() => {
                    return item.map(|item| (item, (outage, open, stream)));
                }
            }
        }
    })
    .boxed()
}
