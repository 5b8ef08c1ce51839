//! The world as it changes, as server-sent events: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream::unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::board::States;
use super::told;
use crate::world::World;

/// So often there is an event, if only to say that the connection still stands. The page gives it up after three times that.
const ALIVE: Duration = Duration::from_secs(10);

/// One reader. It knows what it was told, and is told what is missing when there is room for it on its connection: a slow one
/// keeps one old state alive, and no queue.
struct Reader {
    states: States,
    told: Option<Arc<World>>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

/// The events for one reader, from the whole state on; they end with the board.
pub(crate) fn stream(states: States, place: OwnedSemaphorePermit) -> Body {
    let reader = Reader { states, told: None, ended: false, _place: place };
    Body::from_stream(unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    }))
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if self.told.is_some() {
            match timeout(ALIVE, self.states.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => {
                    self.ended = true;
                    return Some(event("end", "1"));
                }
                Err(_) => return Some(event("alive", "1")),
            }
        }
        let now = self.states.borrow_and_update().clone();
        // What cannot be written as JSON is not in the world; were it, the reader would begin anew.
        let update = told::update(self.told.as_deref(), &now).ok()?;
        self.told = Some(now);
        Some(event("state", &update))
    }
}

/// JSON has no line breaks of its own.
fn event(name: &str, data: &str) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}
