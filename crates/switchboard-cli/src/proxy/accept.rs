//! Taking connections, no more than there may be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::measures::Gauge;
use crate::output;

/// When no connection can be taken, as without a free file, it is tried again after this.
const PAUSE: Duration = Duration::from_millis(100);

/// How many connections there may be, and how many there are.
#[derive(Clone)]
pub(crate) struct Room {
    pub(crate) places: Arc<Semaphore>,
    pub(crate) taken: Arc<Gauge>,
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
            Ok((accepted, room.places.clone().acquire_owned().await))
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
