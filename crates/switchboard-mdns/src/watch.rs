//! Reading: how long to listen before an answer counts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt, once};
use switchboard_core::{Error, Result, ServiceName, Snapshot, Store};
use tokio::time::timeout;

use crate::BACKEND;
use crate::browse::Browse;
use crate::heard::Standing;

/// How long a service that is there may stay silent: a responder that has just multicast a record may not do so again
/// within a second (RFC 6762 §6), and may then take 120 ms; the rest is for a busy machine.
const SILENCE: Duration = Duration::from_millis(1500);

/// The same where somebody is heard and not everybody has answered by unicast: who has many instances takes longer, and longest on
/// a machine that is busy.
const CROWD: Duration = Duration::from_secs(2);

/// The most that is listened while answers still arrive, or twice the settle window where that is longer.
const LISTEN_AT_MOST: Duration = Duration::from_secs(3);

/// How often to look whether what was heard settles it.
const LOOK: Duration = Duration::from_millis(20);

/// The current snapshot of `service`.
///
/// A browse that has listened long enough answers at once. A younger one goes on until nothing has arrived for the settle
/// window, and where not everybody has answered by unicast, or for a service not heard of by then, until silence means
/// absence.
pub(crate) async fn lookup(browse: &Browse, service: &ServiceName, settle: Duration) -> Result<Snapshot> {
    let whole = listen(browse, settle, |store| !store.snapshot(service).is_empty()).await;
    check(browse, "lookup", browse.store().failure_of(service))?;
    Ok(mark(browse.store().snapshot(service), whole))
}

/// The names heard of, after listening as long as for a lookup.
pub(crate) async fn services(browse: &Browse, settle: Duration) -> Result<BTreeSet<ServiceName>> {
    let whole = listen(browse, settle, any).await;
    check(browse, "services", browse.store().failure_of_names())?;
    if !whole {
        tracing::warn!("there may be more services than were heard of in time");
    }
    Ok(browse.store().services())
}

/// The snapshots of `service`, of which the first is as whole as that of a lookup.
pub(crate) fn snapshots(
    browse: Arc<Browse>,
    service: &ServiceName,
    settle: Duration,
) -> BoxStream<'static, Result<Snapshot>> {
    let (stream, service) = (browse.store().watch(service), service.clone());
    settled(browse, stream, settle, move |store| !store.snapshot(&service).is_empty(), mark)
}

/// The names heard of, beginning with those of [`services`].
pub(crate) fn names(
    browse: Arc<Browse>,
    settle: Duration,
) -> BoxStream<'static, Result<BTreeSet<ServiceName>>> {
    let stream = browse.store().watch_services();
    settled(browse, stream, settle, any, |names, _| names)
}

fn any(store: &Store) -> bool {
    !store.services().is_empty()
}

fn mark(snapshot: Snapshot, whole: bool) -> Snapshot {
    if whole { snapshot } else { snapshot.incomplete() }
}

/// An error if the registry was closed, or cannot hear now what is asked for.
fn check(browse: &Browse, operation: &'static str, failure: Option<Error>) -> Result<()> {
    if browse.store().is_closed() {
        return Err(Error::closed(BACKEND, operation));
    }
    failure.map_or(Ok(()), |why| Err(Error::new(why.kind(), BACKEND, operation, why.message())))
}

fn settled<T: Send + 'static>(
    browse: Arc<Browse>,
    stream: BoxStream<'static, Result<T>>,
    settle: Duration,
    found: impl Fn(&Store) -> bool + Send + Sync + 'static,
    mark: impl Fn(T, bool) -> T + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    let stream = async move {
        listen(&browse, settle, &found).await;
        // The browse goes on for as long as the stream is held.
        stream.map(move |item| {
            let whole = is_whole(settle, &browse.standing(), found(browse.store()));
            item.map(|item| mark(item, whole))
        })
    };
    once(stream).flatten().boxed()
}

/// Listens until what is asked for was `found` whole, or silence means absence, or there is nothing to listen to; whether
/// what is known then is the whole.
async fn listen(browse: &Browse, settle: Duration, found: impl Fn(&Store) -> bool) -> bool {
    let mut changed = browse.changed();
    loop {
        changed.mark_unchanged();
        let standing = browse.standing();
        let left = left(settle, &standing, found(browse.store()));
        // Even a sleep of nothing waits for the next tick of the timer.
        if left.is_zero() || browse.store().is_closed() || browse.is_deaf() {
            let whole = is_whole(settle, &standing, found(browse.store()));
            tracing::debug!(whole, ?standing, "listened");
            return whole;
        }
        // Time that runs out and a change are both a reason to look again, and so is what is heard and changes nothing.
        let _ = timeout(left.min(LOOK), changed.changed()).await;
    }
}

/// How long to listen on.
pub(crate) fn left(settle: Duration, standing: &Standing, found: bool) -> Duration {
    let sure = found && standing.vouched;
    let silence =
        if sure { Duration::ZERO } else { absence(found).max(settle).saturating_sub(standing.silence) };
    let at_most = at_most(settle).saturating_sub(standing.age);
    unsettled(settle, standing).max(silence).min(at_most)
}

/// Whether nothing suggests that there is more than is known.
fn is_whole(settle: Duration, standing: &Standing, found: bool) -> bool {
    let heard_out = standing.vouched || standing.silence >= absence(found);
    let settled = heard_out && unsettled(settle, standing).is_zero();
    standing.unheard == 0 && (settled || standing.age > 2 * at_most(settle))
}

/// How long silence takes to mean that there is nobody, or nobody else.
fn absence(found: bool) -> Duration {
    if found { CROWD } else { SILENCE }
}

/// How long it has to be quiet yet until the answers have come. The longer they take to come, the longer may be a pause
/// between two. What has been heard and not been published yet is waited for.
fn unsettled(settle: Duration, standing: &Standing) -> Duration {
    let quiet = standing.quiet.min(standing.age).min(standing.asked);
    let came_for = standing.age.min(at_most(settle)).saturating_sub(quiet);
    let left = settle.max(came_for / 2).saturating_sub(quiet);
    if standing.unpublished { left.max(LOOK) } else { left }
}

fn at_most(settle: Duration) -> Duration {
    LISTEN_AT_MOST.max(settle.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn aged(age: u64) -> Standing {
        Standing {
            age: ms(age),
            silence: ms(age),
            asked: ms(age),
            vouched: true,
            unheard: 0,
            quiet: ms(age),
            unpublished: false,
        }
    }

    /// The same where nothing has been heard for as long as `quiet`.
    fn quiet(age: u64, quiet: u64) -> Standing {
        Standing { quiet: ms(quiet), ..aged(age) }
    }

    #[test]
    fn listens_until_it_was_quiet_for_the_settle_window() {
        let found = |age, quiet_for| left(ms(150), &quiet(age, quiet_for), true);
        assert_eq!(found(0, 0), ms(150));
        assert_eq!(found(100, 0), ms(150), "something has just arrived");
        assert_eq!(found(200, 100), ms(50));
        assert_eq!(found(250, 150), ms(0));
        assert_eq!(found(10, 5000), ms(140), "what was quiet before it began says nothing");
        assert_eq!(found(2950, 0), ms(50), "a link that is never quiet");
        assert_eq!(found(3000, 0), ms(0));
    }

    #[test]
    fn listens_for_longer_pauses_where_answers_take_longer_to_come() {
        let found = |age, quiet_for| left(ms(150), &quiet(age, quiet_for), true);
        assert_eq!(found(950, 150), ms(250), "400 ms, half of the 800 they have come for");
        assert_eq!(found(1200, 400), ms(0));
        let asked = Standing { asked: ms(20), ..quiet(400, 300) };
        assert_eq!(left(ms(150), &asked, true), ms(170), "somebody was asked just now");
    }

    #[test]
    fn what_is_heard_is_waited_for_until_it_is_published() {
        let unpublished = |age, quiet_for| Standing { unpublished: true, ..quiet(age, quiet_for) };
        for found in [true, false] {
            assert_eq!(left(ms(150), &unpublished(1600, 1600), found), LOOK);
            assert!(!is_whole(ms(150), &unpublished(1600, 1600), found));
            assert!(is_whole(ms(150), &quiet(1600, 1600), found));
        }
        assert_eq!(left(ms(150), &unpublished(3000, 2000), true), ms(0), "but not for ever");
        assert!(!is_whole(ms(150), &unpublished(3000, 2000), true));
    }

    #[test]
    fn listens_until_silence_means_absence() {
        let absent = |age, quiet_for| left(ms(150), &quiet(age, quiet_for), false);
        assert_eq!(absent(0, 0), ms(1500));
        assert_eq!(absent(1400, 1400), ms(100));
        assert_eq!(absent(1500, 1500), ms(0));
        assert_eq!(absent(3000, 0), ms(0));
        let unsure = Standing { vouched: false, ..aged(1000) };
        assert_eq!(left(ms(150), &unsure, true), ms(1000), "not everybody has answered by unicast");
    }

    #[test]
    fn a_long_settle_window_is_kept() {
        let left = |settle, age, quiet_for, found| left(settle, &quiet(age, quiet_for), found);
        assert_eq!(left(ms(10_000), 5000, 0, true), ms(10_000));
        assert_eq!(left(ms(10_000), 5000, 5000, false), ms(5000));
        assert_eq!(left(ms(10_000), 20_000, 0, true), ms(0));
        assert_eq!(left(Duration::MAX, 0, 0, false), Duration::MAX);
    }

    #[test]
    fn what_still_comes_or_is_not_described_is_not_the_whole() {
        let whole = |standing, found| is_whole(ms(150), &standing, found);
        assert!(whole(quiet(250, 150), true));
        assert!(!whole(quiet(3000, 100), true), "they still came when there was no more time");
        let unasked =
            |silence| Standing { vouched: false, silence: ms(silence), ..quiet(3000, silence.max(1500)) };
        assert!(!whole(unasked(1000), false), "some may not have been free to answer the first question");
        assert!(whole(unasked(1500), false));
        assert!(!whole(unasked(1999), true), "somebody has many");
        assert!(whole(unasked(2000), true));
        assert!(whole(quiet(60_000, 0), true), "one that has listened for long knows all");
        assert!(!whole(Standing { unheard: 1, ..quiet(60_000, 9000) }, true));
    }
}
