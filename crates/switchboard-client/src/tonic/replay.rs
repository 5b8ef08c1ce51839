//! A request's body that can be sent again.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::Status;

use crate::sent::Sent;

/// More than this is not kept; a request with a longer body is sent once.
const LIMIT: usize = 64 * 1024;

/// The body and what was already read of it, so that another attempt can begin at the start.
#[derive(Clone)]
pub(crate) struct Replay {
    recording: Arc<Mutex<Recording>>,
    broken: Broken,
    sent: Sent,
}

/// How the caller's own body broke off, if it did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broken(Arc<OnceLock<Status>>);

impl Broken {
    pub(crate) fn status(&self) -> Option<&Status> {
        self.0.get()
    }
}

struct Recording {
    rest: tonic::body::Body,
    read: Vec<Bytes>,
    size: usize,
    too_long: bool,
    /// Which attempt the body belongs to; earlier ones get nothing more.
    attempt: usize,
}

impl Replay {
    pub(crate) fn new(body: tonic::body::Body) -> Self {
        let recording = Recording { rest: body, read: Vec::new(), size: 0, too_long: false, attempt: 0 };
        Self { recording: Arc::new(Mutex::new(recording)), broken: Broken::default(), sent: Sent::default() }
    }

    /// Whether, and how, the body broke off.
    pub(crate) fn broken(&self) -> &Broken {
        &self.broken
    }

    /// Whether all of the body has been sent, by any attempt: it is there for each that follows.
    pub(crate) fn sent(&self) -> &Sent {
        &self.sent
    }

    /// The body from its start; `None` if that is too long ago. Ends the attempt before.
    pub(crate) fn body(&self) -> Option<tonic::body::Body> {
        let mut recording = self.lock();
        if recording.too_long {
            return None;
        }
        recording.attempt += 1;
        let number = recording.attempt;
        drop(recording);
        Some(tonic::body::Body::new(Attempt { replay: self.clone(), number, at: 0 }))
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Attempt {
    replay: Replay,
    number: usize,
    at: usize,
}

impl Body for Attempt {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let mut recording = this.replay.lock();
        if recording.attempt != this.number {
            return Poll::Ready(Some(Err(Status::cancelled("tried again on another instance"))));
        }
        if let Some(data) = recording.read.get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        let frame = Pin::new(&mut recording.rest).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref().filter(|_| !recording.too_long) {
                    recording.keep(data);
                    this.at = recording.read.len();
                }
            }
            Poll::Ready(Some(Err(status))) => {
                // The first one says it.
                let _ = this.replay.broken.0.set(status.clone());
            }
            Poll::Ready(None) => this.replay.sent.done(),
            Poll::Pending => {}
        }
        if recording.rest.is_end_stream() {
            this.replay.sent.done();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        let recording = self.replay.lock();
        self.at >= recording.read.len() && recording.rest.is_end_stream()
    }
}

impl Recording {
    fn keep(&mut self, data: &Bytes) {
        self.size += data.len();
        if self.size > LIMIT {
            self.too_long = true;
            self.read = Vec::new();
        } else {
            self.read.push(data.clone());
        }
    }
}
