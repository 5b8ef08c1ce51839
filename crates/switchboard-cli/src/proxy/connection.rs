//! One connection of a client: from its first byte to its end, with what it has turned into by an upgrade.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::Proxy;
use super::quiet::Watched;

/// How long a client may take for the head of a request: nginx's `client_header_timeout`. For HTTP/1.1 it begins when the one before
/// has been answered.
const HEAD: Duration = Duration::from_secs(60);

/// How long a connection may be without a request. nginx's `keepalive_timeout` is 75 s, after the time for a head.
const KEEP_ALIVE: Duration = HEAD;

/// As long as others wait for a place: who keeps connections for later gives way to who wants one now.
const KEEP_ALIVE_CROWDED: Duration = Duration::from_secs(1);

/// How long a client may take nothing of what it is sent: nginx's `send_timeout`.
pub(crate) const WRITE: Duration = Duration::from_secs(60);

/// How long a connection that was told to end may take for it, without a request on it.
const GOODBYE: Duration = Duration::from_secs(5);

/// The longest head of a request: Envoy's `max_request_headers_kb`.
pub(crate) const HEADERS: usize = 60 * 1024;

/// Requests at a time on a connection of HTTP/2: what RFC 9113, section 6.5.2, calls a good minimum.
pub(crate) const STREAMS: u32 = 100;

/// What of an upload may wait until its instance takes it. The connection has room for as many as it has streams, so that none
/// waits for another.
const STREAM_WINDOW: u32 = 64 * 1024;

/// When HTTP/2's clients are pinged, and how long they may take to answer: as hyper and gRPC have it for the latter.
const PING: Duration = Duration::from_secs(60);
const PONG: Duration = Duration::from_secs(20);

/// How a kind of connections is spoken with.
pub(crate) fn protocol() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEADERS);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
    http2.max_concurrent_streams(STREAMS);
    http2.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(STREAM_WINDOW * STREAMS);
    http2.max_header_list_size(u32::try_from(HEADERS).unwrap_or(u32::MAX));
    builder
}

/// Serves a connection until it ends, or, once `stop` says so, its requests have.
pub(crate) async fn serve(
    proxy: Arc<Proxy>,
    stream: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<bool>,
    mut waiting: watch::Receiver<usize>,
) {
    // Else small pieces wait for each other.
    let _ = stream.set_nodelay(true);
    let client = Client { peer, requests: Requests::new(), tunnel: Tunnel::default() };
    let Client { requests, tunnel, .. } = client.clone();
    let builder = protocol();
    let answer = service_fn(move |request| {
        let (proxy, client) = (proxy.clone(), client.clone());
        async move { Ok::<_, Infallible>(proxy.answer(request, client).await) }
    });
    let io = TokioIo::new(Watched::new(stream, WRITE));
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, answer));
    let mut ending = false;
    let mut left = pin!(sleep(Duration::MAX));
    loop {
        tokio::select! {
            // What a client does wrong is its own affair.
            _ = connection.as_mut() => break,
            _ = stop.wait_for(|stop| *stop), if !ending => {}
            () = requests.quiet(&mut waiting), if !ending => left.as_mut().reset(Instant::now() + GOODBYE),
            () = left.as_mut() => {
                // One may have come just before the client was told.
                if !requests.is_busy() {
                    break;
                }
                left.as_mut().reset(Instant::now() + GOODBYE);
            }
        }
        ending = true;
        connection.as_mut().graceful_shutdown();
    }
    let tunnel = tunnel.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(tunnel) = tunnel {
        tunnel.await;
    }
}

/// What requests know of their connection.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    pub(crate) requests: Requests,
    pub(crate) tunnel: Tunnel,
}

/// What the connection is to be after its upgrade.
#[derive(Clone, Default)]
pub(crate) struct Tunnel(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl Tunnel {
    pub(crate) fn set(&self, tunnel: BoxFuture<'static, ()>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
    }
}

/// The requests of a connection that have not ended.
#[derive(Clone)]
pub(crate) struct Requests(Arc<Counted>);

struct Counted {
    began: Instant,
    open: AtomicUsize,
    /// When the last one ended, in milliseconds.
    last: AtomicU64,
}

/// One of them.
pub(crate) struct Busy(Arc<Counted>);

impl Requests {
    fn new() -> Self {
        Self(Arc::new(Counted { began: Instant::now(), open: AtomicUsize::new(0), last: AtomicU64::new(0) }))
    }

    pub(crate) fn begin(&self) -> Busy {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        Busy(self.0.clone())
    }

    fn is_busy(&self) -> bool {
        self.0.open.load(Ordering::Acquire) > 0
    }

    /// Ends when there has been none for as long as may be, while so many wait for a place.
    async fn quiet(&self, waiting: &mut watch::Receiver<usize>) {
        loop {
            let limit = if *waiting.borrow_and_update() > 0 { KEEP_ALIVE_CROWDED } else { KEEP_ALIVE };
            let last = self.0.began + Duration::from_millis(self.0.last.load(Ordering::Acquire));
            let due = if self.is_busy() { Instant::now() } else { last } + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(due) => {}
                Ok(()) = waiting.changed() => {}
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(now, Ordering::Release);
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_quiet_when_there_was_no_request_for_so_long() {
        let (requests, began) = (Requests::new(), Instant::now());
        let busy = async {
            sleep(Duration::from_secs(50)).await;
            let busy = requests.begin();
            sleep(Duration::from_secs(1000)).await;
            drop(busy);
        };
        let (_crowd, mut waiting) = watch::channel(0);
        tokio::join!(busy, requests.quiet(&mut waiting));
        assert_eq!(began.elapsed().as_secs(), 1050 + 60);
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_way_to_others_unless_it_is_busy() {
        let (requests, began) = (Requests::new(), Instant::now());
        let (crowd, mut waiting) = watch::channel(0);
        let busy = requests.begin();
        let others = async {
            sleep(Duration::from_secs(10)).await;
            crowd.send_replace(1);
            sleep(Duration::from_secs(20)).await;
            drop(busy);
        };
        tokio::join!(others, requests.quiet(&mut waiting));
        assert_eq!(began.elapsed().as_secs(), 31);
    }
}
