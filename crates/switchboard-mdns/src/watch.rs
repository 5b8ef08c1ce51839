//! Reading: how long to listen before an answer counts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt, once};
use switchboard_core::{Error, Result, ServiceName, Snapshot, Store};
use tokio::time::timeout;

use crate::BACKEND;
use crate::browse::Browse;

/// How long a service that is there may stay silent: a responder that has just multicast a record may not do so again
/// within a second (RFC 6762 §6), and may then take 120 ms; the rest is for a busy machine.
const SILENCE: Duration = Duration::from_millis(1500);

/// The most that is listened while answers still arrive, or twice the settle window where that is longer.
const LISTEN_AT_MOST: Duration = Duration::from_secs(3);

/// The current snapshot of `service`.
///
/// A browse that has listened long enough answers at once. A younger one goes on until nothing has arrived for the settle
/// window, and for a service not heard of by then, until silence means absence.
pub(crate) async fn lookup(browse: &Browse, service: &ServiceName, settle: Duration) -> Result<Snapshot> {
    listen(browse, settle, |store| !store.snapshot(service).is_empty()).await;
    check(browse, "lookup")?;
    Ok(browse.store().snapshot(service))
}

/// The names heard of, after listening as long as for a lookup.
pub(crate) async fn services(browse: &Browse, settle: Duration) -> Result<BTreeSet<ServiceName>> {
    listen(browse, settle, any).await;
    check(browse, "services")?;
    Ok(browse.store().services())
}

/// The snapshots of `service`, of which the first is as whole as that of a lookup.
pub(crate) fn snapshots(
    browse: Arc<Browse>,
    service: &ServiceName,
    settle: Duration,
) -> BoxStream<'static, Result<Snapshot>> {
    let (stream, service) = (browse.store().watch(service), service.clone());
    settled(browse, stream, settle, move |store| !store.snapshot(&service).is_empty())
}

/// The names heard of, beginning with those of [`services`].
pub(crate) fn names(
    browse: Arc<Browse>,
    settle: Duration,
) -> BoxStream<'static, Result<BTreeSet<ServiceName>>> {
    let stream = browse.store().watch_services();
    settled(browse, stream, settle, any)
}

fn any(store: &Store) -> bool {
    !store.services().is_empty()
}

/// An error if the registry was closed, or cannot hear the network now.
fn check(browse: &Browse, operation: &'static str) -> Result<()> {
    if browse.store().is_closed() {
        return Err(Error::closed(BACKEND, operation));
    }
    browse
        .store()
        .failure()
        .map_or(Ok(()), |why| Err(Error::new(why.kind(), BACKEND, operation, why.message())))
}

fn settled<T: Send + 'static>(
    browse: Arc<Browse>,
    stream: BoxStream<'static, Result<T>>,
    settle: Duration,
    found: impl Fn(&Store) -> bool + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    let stream = async move {
        listen(&browse, settle, found).await;
        // The browse goes on for as long as the stream is held.
        stream.map(move |item| {
            let _ = &browse;
            item
        })
    };
    once(stream).flatten().boxed()
}

/// Listens until what is asked for was `found` whole, or silence means absence, or there is nothing to listen to.
async fn listen(browse: &Browse, settle: Duration, found: impl Fn(&Store) -> bool) {
    let mut changed = browse.changed();
    loop {
        let quiet = changed.borrow_and_update().elapsed();
        let left = left(settle, browse.age(), quiet, found(browse.store()));
        // Even a sleep of nothing waits for the next tick of the timer.
        if left.is_zero() || check(browse, "listen").is_err() {
            return;
        }
        // Time that runs out and a change are both a reason to look again.
        let _ = timeout(left, changed.changed()).await;
    }
}

/// How long to listen on, for a browse of this age which has heard nothing new for as long as `quiet`.
pub(crate) fn left(settle: Duration, age: Duration, quiet: Duration, found: bool) -> Duration {
    let settling = settle.saturating_sub(quiet.min(age));
    let silence = if found { Duration::ZERO } else { SILENCE.max(settle).saturating_sub(age) };
    let at_most = LISTEN_AT_MOST.max(settle.saturating_mul(2)).saturating_sub(age);
    settling.max(silence).min(at_most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn listens_until_it_was_quiet_for_the_settle_window() {
        let found = |age, quiet| left(ms(150), ms(age), ms(quiet), true);
        assert_eq!(found(0, 0), ms(150));
        assert_eq!(found(100, 0), ms(150), "something has just arrived");
        assert_eq!(found(200, 100), ms(50));
        assert_eq!(found(250, 150), ms(0));
        assert_eq!(found(10, 5000), ms(140), "what was quiet before it began says nothing");
        assert_eq!(found(2950, 0), ms(50), "a link that is never quiet");
        assert_eq!(found(3000, 0), ms(0));
    }

    #[test]
    fn listens_until_silence_means_absence() {
        let absent = |age, quiet| left(ms(150), ms(age), ms(quiet), false);
        assert_eq!(absent(0, 0), ms(1500));
        assert_eq!(absent(1400, 1400), ms(100));
        assert_eq!(absent(1500, 1500), ms(0));
        assert_eq!(absent(1500, 50), ms(100), "others still arrive");
        assert_eq!(absent(3000, 0), ms(0));
    }

    #[test]
    fn a_long_settle_window_is_kept() {
        assert_eq!(left(ms(10_000), ms(5000), ms(0), true), ms(10_000));
        assert_eq!(left(ms(10_000), ms(5000), ms(5000), false), ms(5000));
        assert_eq!(left(ms(10_000), ms(20_000), ms(0), true), ms(0));
        assert_eq!(left(Duration::MAX, ms(0), ms(0), false), Duration::MAX);
    }
}
