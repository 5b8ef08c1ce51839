//! The watches of several registries, and what each has said last.

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, once, select_all};
use switchboard_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::merged::Merged;

/// What one registry has said.
pub(crate) struct Heard<T> {
    /// Its last state, which stands also while it is not heard.
    pub(crate) last: Option<T>,
    /// Why it is not heard.
    pub(crate) error: Option<Error>,
    /// Since when it is heard, or not.
    pub(crate) since: Instant,
}

impl<T> Heard<T> {
    pub(crate) fn is_heard(&self) -> bool {
        self.last.is_some() && self.error.is_none()
    }

    /// Whether it has said nothing at all.
    pub(crate) fn is_silent(&self) -> bool {
        self.last.is_none() && self.error.is_none()
    }

    /// Why it is not heard, unless it was closed: that is told when all have been.
    pub(crate) fn outage(&self) -> Option<&Error> {
        self.error.as_ref().filter(|error| error.kind() != ErrorKind::Closed)
    }
}

/// The watches of several registries.
pub(crate) struct Watches<T> {
    events: SelectAll<BoxStream<'static, (usize, Option<Result<T>>)>>,
    pub(crate) parts: Vec<Heard<T>>,
    open: usize,
}

impl<T: Merged> Watches<T> {
    pub(crate) fn new(streams: impl IntoIterator<Item = BoxStream<'static, Result<T>>>) -> Self {
        let events: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|(at, stream)| {
                let ends = once(async { None });
                stream.map(Some).chain(ends).map(move |said| (at, said)).boxed()
            })
            .collect();
        let (open, now) = (events.len(), Instant::now());
        let parts = (0..open).map(|_| Heard { last: None, error: None, since: now }).collect();
        Self { events: select_all(events), parts, open }
    }

    /// Takes in what one of them says next. For ever if all have ended.
    pub(crate) async fn next(&mut self) {
        let Some((at, said)) = self.events.next().await else { return std::future::pending().await };
        let part = &mut self.parts[at];
        let was_heard = part.is_heard();
        match said {
            Some(Ok(state)) => (part.last, part.error) = (Some(state), None),
            Some(Err(error)) => part.error = Some(error),
            // With the error that it was closed.
            None => self.open -= 1,
        }
        if was_heard != part.is_heard() {
            part.since = Instant::now();
        }
    }

    /// Whether all have ended, as they do when they are closed.
    pub(crate) fn have_ended(&self) -> bool {
        self.open == 0
    }
}

/// What a reader was told last.
pub(crate) enum Told<T> {
    Nothing,
    State(T),
    /// That nothing is heard: once, and then the state again, equal or not.
    Outage,
}

impl<T: Merged> Told<T> {
    /// What to tell of this, if it is news.
    pub(crate) fn news(&mut self, now: Result<T, Error>) -> Option<Result<T>> {
        let is_news = match (&*self, &now) {
            (Self::State(last), Ok(state)) => last != state,
            (Self::Outage, Err(_)) => false,
            _ => true,
        };
        *self = match &now {
            Ok(state) => Self::State(state.clone()),
            Err(_) => Self::Outage,
        };
        is_news.then_some(now)
    }
}
