//! Taking connections, no more than there may be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::measures::Gauge;
use crate::output;

/// When no connection can be taken, as without a free file, it is tried again after this.
const PAUSE: Duration = Duration::from_millis(100);

/// How many connections there may be, and how many there are.
#[derive(Clone)]
pub(crate) struct Room {
    places: Arc<Semaphore>,
    /// How many listeners wait for a place.
    waiting: Arc<watch::Sender<usize>>,
    taken: Arc<Gauge>,
}

impl Room {
    pub(crate) fn new(places: usize, taken: Arc<Gauge>) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), waiting: Arc::default(), taken }
    }

    /// How many wait for a place, to leave one to them.
    pub(crate) fn waiting(&self) -> watch::Receiver<usize> {
        self.waiting.subscribe()
    }

    /// A place, as soon as there is one.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(place);
        }
        let _one = Waiting::of(&self.waiting);
        self.places.clone().acquire_owned().await.ok()
    }
}

/// One that waits, until it is dropped.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn of(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

/// Serves what connects until `stop` says so, and then until all of it has ended. Dropped, it ends them at once.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    room: Room,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut told = false;
    loop {
        // The place comes second, or one listener would keep it from the others. Whoever comes meanwhile waits in the system's queue.
        let next = async {
            let accepted = listener.accept().await?;
            Ok((accepted, room.place().await))
        };
        let next: std::io::Result<_> = tokio::select! {
            next = next => next,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match next {
            Ok(((stream, peer), place)) => {
                let (served, taken) = (serve(stream, peer), room.taken.clone().one_more());
                connections.spawn(async move {
                    served.await;
                    drop((place, taken));
                });
            }
            // The client was gone before it was met.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    output::complain(&format!("cannot take connections: {error}; trying again"));
                }
                sleep(PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}
