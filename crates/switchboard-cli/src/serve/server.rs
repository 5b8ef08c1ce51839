//! Connections: so many at once, each with limits of its own.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// More wait until others are closed.
const CONNECTIONS: usize = 256;

/// For the head of a request, also the next one on a connection that is kept: as long as those who ask for nothing can keep the
/// others waiting.
const HEAD: Duration = Duration::from_secs(10);

/// For a reader who takes nothing.
#[cfg(target_os = "linux")]
const STALL: Duration = Duration::from_secs(60);

/// For what is under way at the end.
const GRACE: Duration = Duration::from_secs(2);

/// Answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    task: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Server {
    pub(crate) fn start(listener: TcpListener, app: Router) -> Self {
        let (stop, stopped) = oneshot::channel();
        // An error is that the sender was dropped, which means the same.
        let task = tokio::spawn(serve(listener, app, async { drop(stopped.await) }));
        Self { task, stop: Some(stop) }
    }

    /// Takes no more requests, and ends those under way, within a bound.
    pub(crate) async fn end(mut self) {
        drop(self.stop.take());
        // It has ended either way.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, app: Router, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    // What is left of them ends with this.
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let (stream, place) = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut stop => break,
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app.clone()));
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            // Why a connection broke concerns nobody but its reader.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let _ = timeout(GRACE, graceful.shutdown()).await;
}

/// The next connection for which there is a place.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let place = places.clone().acquire_owned().await;
        match (listener.accept().await, place) {
            (Ok((stream, _)), Ok(place)) => {
                // What the system does not grant is no reason to turn the reader away.
                let _ = limit(&stream);
                return (stream, place);
            }
            // Such as too many open files: some may be closed by then.
            _ => sleep(Duration::from_secs(1)).await,
        }
    }
}

fn limit(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Elsewhere it keeps its place until the system gives the connection up.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(STALL))?;
    Ok(())
}
