//! Connections of HTTP/2 to instances. One carries many requests at a time, whatever host they ask for; when it is full there is
//! another, and one that is not used any more ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use switchboard::Address;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower_service::Service as _;

use super::body::{RequestBody, lock};
use super::connection::{HEADERS, STREAMS, WRITE};
use super::quiet::{Moved, Watched};
use super::upstream::{Unanswered, root};

/// Connections to one instance. More requests wait for one of these.
const CONNECTIONS: usize = 64;

/// A connection that is found unused twice, after so long each, ends.
const IDLE: Duration = Duration::from_secs(1800);

/// The same of those beyond the first to an instance.
const IDLE_SPARE: Duration = Duration::from_secs(4);

/// When nothing at all has come for so long, and somebody gives up waiting for an answer, the connection is taken for dead: nothing
/// more is begun on it.
const DEAF: Duration = Duration::from_secs(1);

/// What a slow reader may have waiting for it. Its connection has room for as many slow readers as it has streams, so that none
/// waits for another.
const STREAM_WINDOW: u32 = 256 * 1024;

/// gRPC's servers close a connection that pings more often than every 5 min (gRPC A8).
const PING: Duration = Duration::from_secs(310);
const PONG: Duration = Duration::from_secs(20);

/// A request whose connection ends before it is sent goes to another one so often.
const TRIES: usize = 3;

/// All of them.
pub(crate) struct Connections {
    connector: HttpConnector,
    /// How long an instance may take to say what it allows.
    limit: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    places: HashMap<Address, Place>,
    driving: JoinSet<()>,
}

/// Those to one address.
#[derive(Default)]
struct Place {
    open: Vec<Open>,
    coming: Option<WeakShared<Connecting>>,
}

/// A connection that comes about. All who need it wait for the same.
type Connecting = BoxFuture<'static, Result<(), Unanswered>>;
type Coming = Shared<Connecting>;

type Driven = Connection<TokioIo<Watched<TcpStream>>, RequestBody, TokioExecutor>;

struct Open {
    sender: SendRequest<RequestBody>,
    streams: Arc<Streams>,
}

struct Streams {
    /// How many the instance allows at a time.
    most: AtomicUsize,
    now: AtomicUsize,
    ever: AtomicUsize,
    /// When something has come last.
    came: Moved,
    /// Nothing more is begun on it.
    retired: AtomicBool,
    told: Notify,
}

/// A stream, in use until this is dropped.
pub(crate) struct Stream(Arc<Streams>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Relaxed);
    }
}

impl Connections {
    pub(crate) fn new(connector: HttpConnector, limit: Duration) -> Self {
        Self { connector, limit, state: Arc::default() }
    }

    /// Sends a request to an instance at `place`, which is `address` as a URI, and waits for the head of its answer.
    pub(crate) async fn send(
        &self,
        mut request: Request<RequestBody>,
        address: &Address,
        place: &Uri,
    ) -> Result<(Response<Incoming>, Stream), Unanswered> {
        let mut tries = 1;
        loop {
            let (mut sender, stream) = self.stream(address, place).await?;
            let waiting = Waiting { streams: &stream.0, since: Instant::now() };
            let answer = sender.try_send_request(request).await;
            std::mem::forget(waiting);
            match answer {
                Ok(response) => return Ok((response, stream)),
                Err(mut failed) => match failed.take_message() {
                    // The connection had ended, perhaps just now.
                    Some(unsent) if tries < TRIES => request = unsent,
                    unsent => return Err(Unanswered::of(failed.error(), unsent.is_some())),
                },
            }
            tries += 1;
        }
    }

    async fn stream(
        &self,
        address: &Address,
        place: &Uri,
    ) -> Result<(SendRequest<RequestBody>, Stream), Unanswered> {
        loop {
            let coming = {
                let mut state = lock(&self.state);
                if !state.places.contains_key(address) {
                    state.places.retain(|_, place| !place.is_gone());
                }
                let here = state.places.entry(address.clone()).or_default();
                if let Some(stream) = here.stream() {
                    return Ok(stream);
                }
                here.coming(|| self.connect(address, place))
            };
            coming.await?;
        }
    }

    /// Connects, and waits until the instance has said how many requests it takes at a time (RFC 9113, section 3.4).
    fn connect(&self, address: &Address, place: &Uri) -> Coming {
        let (mut connector, place, address) = (self.connector.clone(), place.clone(), address.clone());
        let (limit, state) = (self.limit, self.state.clone());
        let connecting = async move {
            let stream = connector.call(place).await.map_err(|error| Unanswered::unconnected(&error))?;
            let came = Moved::now();
            let io = TokioIo::new(Watched::new(stream.into_inner(), WRITE).telling_reads(came.clone()));
            let handshake = builder().handshake(io).await;
            let (sender, mut connection) = handshake.map_err(|error| Unanswered::of(&error, true))?;
            timeout(limit, allows(&mut connection)).await.unwrap_or_else(|_| {
                let limit = humantime::format_duration(limit);
                Err(Unanswered::speechless(format!(
                    "it did not say within {limit} how many requests of HTTP/2 it takes at a time"
                )))
            })?;
            lock(&state).add(&address, sender, connection, came, &state);
            Ok(())
        };
        connecting.boxed().shared()
    }
}

/// Waits until something is allowed. hyper does not tell when that is.
async fn allows(connection: &mut Driven) -> Result<(), Unanswered> {
    let mut pause = Duration::from_millis(1);
    while connection.current_max_send_streams() == 0 {
        if let Ok(ended) = timeout(pause, &mut *connection).await {
            let why = ended.err().map(|error| root(&error).to_string());
            return Err(Unanswered::speechless(why.unwrap_or_else(|| "it said goodbye at once".into())));
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(())
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
    builder.max_header_list_size(u32::try_from(HEADERS).unwrap_or(u32::MAX));
    builder.initial_max_send_streams(0);
    builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(STREAM_WINDOW * STREAMS);
    builder
}

impl State {
    fn add(
        &mut self,
        address: &Address,
        sender: SendRequest<RequestBody>,
        connection: Driven,
        came: Moved,
        state: &Arc<Mutex<Self>>,
    ) {
        let streams = Arc::new(Streams::new(came));
        streams.allow(connection.current_max_send_streams());
        let (state, here, used) = (Arc::downgrade(state), address.clone(), streams.clone());
        self.places.entry(address.clone()).or_default().open.push(Open { sender, streams });
        while self.driving.try_join_next().is_some() {}
        self.driving.spawn(async move {
            tokio::select! {
                () = drive(connection, &used) => {}
                () = unused(&state, &here, &used) => {}
            }
            let Some(state) = state.upgrade() else { return };
            if let Some(place) = lock(&state).places.get_mut(&here) {
                place.open.retain(|open| !Arc::ptr_eq(&open.streams, &used));
            }
        });
    }

    /// Whether there is another connection, which is used before this one.
    fn is_spare(&self, address: &Address, streams: &Arc<Streams>) -> bool {
        let mut usable = self
            .places
            .get(address)
            .into_iter()
            .flat_map(|place| &place.open)
            .filter(|open| open.is_usable());
        usable.next().is_none_or(|first| !Arc::ptr_eq(&first.streams, streams))
    }
}

impl Place {
    /// A stream of the first connection that has one left: so those that are not needed any more are found unused.
    fn stream(&self) -> Option<(SendRequest<RequestBody>, Stream)> {
        let usable = || self.open.iter().filter(|open| open.is_usable());
        let free = usable().find(|open| open.streams.now.load(Relaxed) < open.streams.most.load(Relaxed));
        let open = free.or_else(|| {
            let all = usable().count() >= CONNECTIONS;
            usable().min_by_key(|open| open.streams.now.load(Relaxed)).filter(|_| all)
        })?;
        Some((open.sender.clone(), open.streams.begin()))
    }

    /// The connection that comes about, which is begun if there is none.
    fn coming(&mut self, begin: impl FnOnce() -> Coming) -> Coming {
        let coming = self.coming.as_ref().and_then(WeakShared::upgrade);
        coming.filter(|coming| coming.peek().is_none()).unwrap_or_else(|| {
            let coming = begin();
            self.coming = coming.downgrade();
            coming
        })
    }

    fn is_gone(&self) -> bool {
        self.open.is_empty() && self.coming.as_ref().and_then(WeakShared::upgrade).is_none()
    }
}

impl Open {
    fn is_usable(&self) -> bool {
        let Streams { most, retired, .. } = &*self.streams;
        !self.sender.is_closed() && most.load(Relaxed) > 0 && !retired.load(Relaxed)
    }
}

impl Streams {
    fn new(came: Moved) -> Self {
        let (most, now, ever, retired, told) = Default::default();
        Self { most, now, ever, came, retired, told }
    }

    /// Nothing more is begun, and it ends when those that are have ended.
    fn retire(&self) {
        self.retired.store(true, Relaxed);
        self.told.notify_one();
    }

    fn allow(&self, most: usize) {
        self.most.store(most.min(STREAMS as usize), Relaxed);
    }

    fn begin(self: &Arc<Self>) -> Stream {
        self.now.fetch_add(1, Relaxed);
        self.ever.fetch_add(1, Relaxed);
        Stream(self.clone())
    }
}

async fn drive(mut connection: Driven, streams: &Streams) {
    std::future::poll_fn(|cx| {
        let ended = connection.poll_unpin(cx);
        streams.allow(connection.current_max_send_streams());
        ended.map(drop)
    })
    .await;
}

/// Ends when nobody uses them any more, and nobody will.
async fn unused(state: &Weak<Mutex<State>>, address: &Address, streams: &Arc<Streams>) {
    let mut before = None;
    loop {
        let Some(is_spare) = state.upgrade().map(|state| lock(&state).is_spare(address, streams)) else {
            return;
        };
        let pause = if is_spare { IDLE_SPARE } else { IDLE };
        tokio::select! {
            () = sleep(pause) => {}
            () = streams.told.notified() => {}
        }
        let Some(state) = state.upgrade() else { return };
        // Streams begin while it is held.
        let _held = lock(&state);
        let unused = (streams.now.load(Relaxed) == 0).then(|| streams.ever.load(Relaxed));
        let is_over = unused == before || streams.retired.load(Relaxed);
        if unused.is_some() && is_over {
            streams.retired.store(true, Relaxed);
            return;
        }
        before = unused;
    }
}

/// Waits for an answer; who gives up may have found out that the connection is dead.
struct Waiting<'a> {
    streams: &'a Streams,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.since.elapsed() >= DEAF && self.streams.came.is_quiet_for(DEAF) {
            self.streams.retire();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_spare_connection_ends_when_it_was_not_used_for_so_long() {
        let (held, streams) = (Arc::<Mutex<State>>::default(), Arc::new(Streams::new(Moved::now())));
        let (state, began) = (Arc::downgrade(&held), Instant::now());
        let stream = streams.begin();
        let using = async {
            sleep(IDLE_SPARE * 5 / 2).await;
            drop(stream);
            sleep(IDLE_SPARE).await;
            drop(streams.begin());
        };
        let address = "h:1".parse().unwrap();
        tokio::join!(using, unused(&state, &address, &streams));
        assert_eq!(began.elapsed(), IDLE_SPARE * 5, "used in the fourth, found unused in the fifth");
        assert!(streams.retired.load(Relaxed), "nobody begins a stream");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_on_what_says_nothing_at_all_retires_it() {
        let streams = Streams::new(Moved::now());
        let give_up = async |after: Duration| {
            let waiting = Waiting { streams: &streams, since: Instant::now() };
            sleep(after).await;
            drop(waiting);
            streams.retired.load(Relaxed)
        };
        assert!(!give_up(DEAF / 2).await, "it may be slow");
        sleep(DEAF * 10).await;
        assert!(!give_up(DEAF / 2).await, "nothing was waited for before");
        let said = async {
            sleep(DEAF).await;
            streams.came.again();
        };
        assert!(!tokio::join!(give_up(DEAF * 3 / 2), said).0, "it says something");
        assert!(give_up(DEAF * 2).await);
    }
}
