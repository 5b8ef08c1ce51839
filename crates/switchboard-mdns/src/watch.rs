//! Reading: how long to listen before an answer counts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use switchboard_core::{Result, ServiceName, Snapshot};
use tokio::time::{sleep, timeout};

use crate::browse::Browse;

/// How long a service that is there may stay silent: a responder that has just multicast a record may not do so again
/// within a second (RFC 6762 §6), and may then take 120 ms; the rest is for a busy machine.
const SILENCE: Duration = Duration::from_millis(1500);

/// The current snapshot of `service`.
///
/// A browse that has listened long enough answers at once. A younger one waits out the settle window, and for a service
/// not heard of by then, until silence means absence.
pub(crate) async fn lookup(browse: &Browse, service: &ServiceName, settle: Duration) -> Snapshot {
    let read = || browse.store().snapshot(service);
    listen(browse, settle, || !read().is_empty()).await;
    read()
}

/// The names heard of, after listening as long as for a lookup.
pub(crate) async fn services(browse: &Browse, settle: Duration) -> BTreeSet<ServiceName> {
    let read = || browse.store().services();
    listen(browse, settle, || !read().is_empty()).await;
    read()
}

async fn listen(browse: &Browse, settle: Duration, found: impl Fn() -> bool) {
    let settling = settle.saturating_sub(browse.age());
    // Even a sleep of nothing waits for the next tick of the timer.
    if !settling.is_zero() {
        sleep(settling).await;
    }
    let left = SILENCE.max(settle).saturating_sub(browse.age());
    if found() || left.is_zero() {
        return;
    }
    let mut names = browse.store().watch_services();
    let heard = async {
        while !found() && names.next().await.is_some_and(|names| names.is_ok()) {}
        // Others that were held back as long answer now.
        sleep(settle).await;
    };
    // Running out of time is the answer "nothing there".
    let _ = timeout(left, heard).await;
}

/// `stream` without the empty state it begins with while silence does not mean absence yet.
pub(crate) fn settled<T, E>(
    browse: Arc<Browse>,
    stream: BoxStream<'static, Result<T>>,
    settle: Duration,
    is_empty: E,
) -> BoxStream<'static, Result<T>>
where
    T: Send + 'static,
    E: Fn(&T) -> bool + Send + 'static,
{
    let first = async move {
        let mut stream = stream;
        let mut first = stream.next().await;
        if first.as_ref().is_some_and(|first| first.as_ref().is_ok_and(is_empty)) {
            let left = SILENCE.max(settle).saturating_sub(browse.age());
            if let Ok(filled) = timeout(left, stream.next()).await {
                first = filled;
            }
        }
        // The browse goes on for as long as the stream is held.
        let rest = stream.map(move |item| {
            let _ = &browse;
            item
        });
        futures::stream::iter(first).chain(rest)
    };
    futures::stream::once(first).flatten().boxed()
}
