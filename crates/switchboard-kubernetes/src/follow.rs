//! Following slices for as long as somebody wants them: a list, then a watch, and both again after whatever ends them.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use switchboard_core::{Error, ErrorKind, Result, Store};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::BACKEND;
use crate::client::{Client, LIMIT, PODS, Right, SLICES, is_gone, late};
use crate::record::SERVICE;
use crate::world::{Scope, World};

/// How long the server is asked to keep a watch. A connection that died in silence is noticed 5 s after.
const WATCH_SECONDS: u32 = 55;

/// The longest pause before it is tried again: what is back is fresh within a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// Where only a person can mend it.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// Slices that are followed for as long as somebody holds this.
pub(crate) struct Followed {
    pub(crate) store: Store,
    /// Whether anything was heard, or found not to be.
    begun: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Followed {
    pub(crate) fn new(client: Arc<Client>, scope: Scope) -> Self {
        let store = Store::new(BACKEND);
        let (begin, begun) = watch::channel(false);
        let task = tokio::spawn(follow(client, scope, store.clone(), begin));
        Self { store, begun, task }
    }

    /// When there is a first state, or the first error.
    pub(crate) async fn begun(&self) {
        // An error means that the task has ended, which closing does: the store says so.
        let _ = self.begun.clone().wait_for(|begun| *begun).await;
    }

    /// Ends all readers' streams, and following.
    pub(crate) fn close(&self) {
        self.task.abort();
        self.store.close();
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .build()
}

/// Follows for ever.
async fn follow(client: Arc<Client>, scope: Scope, store: Store, begin: watch::Sender<bool>) {
    let mut world = World::new(scope.clone(), client.settings.clone());
    let mut waits = pauses();
    loop {
        let longest = match once(&client, &scope, &mut world, &store, &begin, &mut waits).await {
            // The server has forgotten where to go on from: all is listed again.
            Ok(()) => continue,
            Err(error) => {
                tracing::debug!(%error, ?scope, "not heard");
                let is_transient = error.is_transient();
                // Told once; what is new is that it is of another kind.
                if store.failure().is_none_or(|told| told.kind() != error.kind()) {
                    store.fail(error);
                }
                begin.send_replace(true);
                if is_transient { LONGEST_PAUSE } else { LONG_PAUSE }
            }
        };
        let wait = waits.next().unwrap_or(LONGEST_PAUSE);
        // Everybody else has lost the server at the same time.
        let wait = if longest > LONGEST_PAUSE { longest } else { wait }.mul_f64(0.5 + 0.5 * fastrand::f64());
        sleep(wait).await;
    }
}

/// What one of the watches tells.
enum News {
    Slice(Event<EndpointSlice>),
    Pod(Event<PartialObjectMeta<Pod>>),
}

/// Lists and watches until something ends that: `Ok` where the server's history does.
async fn once(
    client: &Client,
    scope: &Scope,
    world: &mut World,
    store: &Store,
    begin: &watch::Sender<bool>,
    waits: &mut ExponentialBackoff,
) -> Result<()> {
    let made = client.get("watch").await?;
    let (namespace, selector) = match scope {
        Scope::Service(name) => {
            let place =
                client.settings.place(name).map_err(|invalid| Error::invalid(BACKEND, "watch", &invalid))?;
            (place.namespace, format!("{SERVICE}={}", place.service))
        }
        Scope::Namespace(namespace) => (namespace.clone(), SERVICE.to_owned()),
    };
    let namespace = namespace.unwrap_or_else(|| made.namespace.clone());
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let slices: Api<EndpointSlice> = Api::namespaced(made.kube.clone(), &namespace);
    let slices = watcher::watcher(slices, config.clone().labels(&selector));
    let slices = slices.map(|event| (SLICES, event.map(News::Slice)));
    let pods: futures::stream::BoxStream<'_, _> = if client.settings.labels.is_some() {
        let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(made.kube, &namespace);
        watcher::watcher(pods, config).map(|event| (PODS, event.map(News::Pod))).boxed()
    } else {
        futures::stream::pending().boxed()
    };
    let mut news = pin!(futures::stream::select(slices, pods));
    let mut unlisted = Unlisted { slices: true, pods: client.settings.labels.is_some() };
    let mut deadline = Instant::now() + LIMIT;
    let mut next = None;
    loop {
        let whole = !unlisted.slices && !unlisted.pods;
        let wake = async {
            match if whole { next } else { Some(deadline) } {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = news.next() => {
                let Some(event) = event else { return Err(ended()) };
                if !take(event, client, world, &mut unlisted, &namespace)? {
                    return Ok(());
                }
                deadline = Instant::now() + LIMIT;
                // What has come with it is told with it.
                if !drain(&mut news, client, world, &mut unlisted, &namespace)? {
                    return Ok(());
                }
            }
            () = wake => if !whole {
                return Err(late("watch"));
            },
        }
        if !unlisted.slices && !unlisted.pods {
            next = world.publish(store, Instant::now(), Timestamp::now());
            store.heal();
            begin.send_replace(true);
            *waits = pauses();
        }
    }
}

/// The first lists that are not whole yet.
struct Unlisted {
    slices: bool,
    pods: bool,
}

type Told = (Right, Result<News, watcher::Error>);

/// Takes in what there is already; false where the server's history has ended.
fn drain(
    news: &mut (impl Stream<Item = Told> + Unpin),
    client: &Client,
    world: &mut World,
    unlisted: &mut Unlisted,
    namespace: &str,
) -> Result<bool> {
    // Bounded, so that a flood does not keep readers waiting.
    for _ in 0..10_000 {
        match news.next().now_or_never() {
            None => return Ok(true),
            Some(None) => return Err(ended()),
            Some(Some(event)) => {
                if !take(event, client, world, unlisted, namespace)? {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

/// Takes in an event; false where the server's history has ended.
fn take(
    (right, event): Told,
    client: &Client,
    world: &mut World,
    unlisted: &mut Unlisted,
    namespace: &str,
) -> Result<bool> {
    let now = Instant::now();
    match event {
        Ok(News::Slice(event)) => match event {
            Event::Init => world.list(),
            Event::InitApply(slice) => world.listed(&slice),
            Event::InitDone => {
                world.list_done(now);
                unlisted.slices = false;
            }
            Event::Apply(slice) => world.apply(&slice, now),
            Event::Delete(slice) => world.remove(&slice.name_any(), now),
        },
        Ok(News::Pod(event)) => {
            let labels = |pod: &PartialObjectMeta<Pod>| pod.labels().clone();
            match event {
                Event::Init => world.list_pods(),
                Event::InitApply(pod) => world.pod_listed(pod.name_any(), labels(&pod)),
                Event::InitDone => {
                    world.list_pods_done(now);
                    unlisted.pods = false;
                }
                Event::Apply(pod) => world.pod(pod.name_any(), Some(labels(&pod)), now),
                Event::Delete(pod) => world.pod(pod.name_any(), None, now),
            }
        }
        Err(watcher::Error::WatchError(status)) if status.code == 410 => return Ok(false),
        Err(watcher::Error::WatchError(status)) => {
            return Err(client.refused("watch", right, namespace, &status));
        }
        Err(
            watcher::Error::InitialListFailed(failure)
            | watcher::Error::WatchStartFailed(failure)
            | watcher::Error::WatchFailed(failure),
        ) => {
            if is_gone(&failure) {
                return Ok(false);
            }
            return Err(client.failed("watch", right, namespace, failure));
        }
        Err(error @ watcher::Error::NoResourceVersion) => {
            let message = "the API server's list says no resource version";
            return Err(Error::new(ErrorKind::Protocol, BACKEND, "watch", message).with_source(error));
        }
    }
    Ok(true)
}

fn ended() -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, "watch", "the watch has ended")
}
