//! Bodies on their way through: piece by piece, and never more than one held.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use switchboard::client::InFlight;
use switchboard::selector::FailureKind;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::connection::Busy;
use super::http2::Stream;
use super::quiet::{Moved, Quiet};
use super::upstream::{chain, judge};

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// The body of a response.
pub(crate) enum Body {
    Empty,
    Own(Bytes),
    Forwarded(Box<Download>),
}

impl From<Bytes> for Body {
    fn from(text: Bytes) -> Self {
        Self::Own(text)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Own(text) => {
                let text = std::mem::take(text);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(text))))
            }
            Self::Forwarded(download) => download.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Own(text) => text.is_empty(),
            Self::Forwarded(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Own(text) => SizeHint::with_exact(text.len() as u64),
            Self::Forwarded(download) => download.size_hint(),
        }
    }
}

/// What an instance answers. The call is in flight, and the connection busy, until it has ended.
pub(crate) struct Download {
    answer: Arc<Mutex<Option<Answer>>>,
    quiet: Quiet,
    /// Of a client that may not ask for more.
    _watch: Option<JoinSet<()>>,
    _busy: Busy,
}

/// What comes from an instance.
pub(crate) struct Received {
    pub(crate) incoming: Incoming,
    /// Held as long as it comes.
    pub(crate) _stream: Option<Stream>,
}

/// What keeps an instance at work.
pub(crate) struct Answer {
    pub(crate) received: Received,
    pub(crate) in_flight: Option<InFlight>,
    /// gRPC's status comes at the end.
    pub(crate) is_grpc: bool,
    /// The request's own body, which may break off.
    pub(crate) upload: Option<Arc<Upload>>,
}

impl Download {
    /// Ends when nothing moves for so long. A client of HTTP/2 that takes nothing is not asked whether it would, so then the
    /// instance is let go of from elsewhere.
    pub(crate) fn new(answer: Answer, quiet: Quiet, is_http2: bool, busy: Busy) -> Self {
        let answer = Arc::new(Mutex::new(Some(answer)));
        let watch = is_http2.then(|| {
            let (answer, mut quiet) = (answer.clone(), Quiet::new(quiet.moved.clone(), quiet.limit));
            let mut watch = JoinSet::new();
            watch.spawn(async move {
                quiet.over().await;
                drop(lock(&answer).take());
            });
            watch
        });
        Self { answer, quiet, _watch: watch, _busy: busy }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut answer = lock(&self.answer);
        let frame = answer.as_mut().map(|answer| answer.poll_frame(cx));
        match frame {
            Some(Poll::Ready(frame)) => {
                self.quiet.moved.again();
                Poll::Ready(frame)
            }
            Some(Poll::Pending) if self.quiet.poll_over(cx).is_pending() => Poll::Pending,
            None | Some(Poll::Pending) => {
                let limit = humantime::format_duration(self.quiet.limit);
                Poll::Ready(Some(Err(format!("nothing has moved for {limit}").into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.answer).as_ref().is_some_and(|answer| answer.received.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.answer).as_ref().map(|answer| answer.received.incoming.size_hint()).unwrap_or_default()
    }
}

impl Answer {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.received.incoming).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => match frame.trailers_ref() {
                Some(trailers) if self.is_grpc => self.finish(judge(trailers).unwrap_or(Ok(()))),
                _ if self.received.incoming.is_end_stream() && !self.is_grpc => self.finish(Ok(())),
                _ => {}
            },
            Poll::Ready(Some(Err(_))) => self.finish(Err(FailureKind::Connection)),
            // A gRPC call that ends without a status has not ended well.
            Poll::Ready(None) if self.is_grpc => self.finish(Err(FailureKind::Response)),
            Poll::Ready(None) => self.finish(Ok(())),
            Poll::Pending => {}
        }
        frame.map_err(Into::into)
    }

    fn finish(&mut self, outcome: Result<(), FailureKind>) {
        let broken = self.upload.as_ref().is_some_and(|upload| upload.broken().is_some());
        match self.in_flight.take() {
            Some(in_flight) if !broken => in_flight.finish(outcome),
            // The client's own fault.
            _ => {}
        }
    }
}

pub(crate) fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a client's body broke off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    /// Its chunks are none (RFC 9112, section 7.1).
    Malformed,
    /// It did not go on.
    Ended,
}

/// So much of a body is kept until the answer begins, so that a request which an instance has refused goes to another: what may wait on a
/// stream anyway.
const KEPT: usize = 64 * 1024;

/// A client's body, for one attempt after the other.
pub(crate) struct Upload {
    source: Mutex<Source>,
    hint: SizeHint,
    /// How it broke off.
    broken: OnceLock<Broken>,
    moved: Moved,
    limit: Duration,
}

struct Source {
    incoming: Incoming,
    /// What has been read, while it can be said again.
    kept: Option<Vec<Piece>>,
    size: usize,
    /// Whose it is.
    attempt: usize,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Upload {
    /// It breaks off when nothing comes for so long.
    pub(crate) fn new(body: Incoming, moved: Moved, limit: Duration) -> Arc<Self> {
        let hint = body.size_hint();
        let source = Source { incoming: body, kept: Some(Vec::new()), size: 0, attempt: 0 };
        Arc::new(Self { source: Mutex::new(source), hint, broken: OnceLock::new(), moved, limit })
    }

    /// Whether all that has been read of it is kept, so that another attempt may have it.
    pub(crate) fn is_whole(&self) -> bool {
        lock(&self.source).kept.is_some()
    }

    /// There will be no other attempt.
    pub(crate) fn keep_no_more(&self) {
        lock(&self.source).kept = None;
    }

    /// How it broke off, if it did.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.broken.get().copied()
    }
}

impl Source {
    /// Whether nothing follows the first `said` pieces.
    fn is_end(&self, said: usize) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.len() <= said) && self.incoming.is_end_stream()
    }

    /// Keeps a piece, unless they become too large.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(kept) = &mut self.kept else { return };
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (_, Some(trailers)) => Piece::Trailers(trailers.clone()),
            _ => return,
        };
        self.size += frame.data_ref().map_or(0, Bytes::len);
        kept.push(piece);
        if self.size > KEPT {
            self.kept = None;
        }
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("hint", &self.hint).finish_non_exhaustive()
    }
}

/// The body of one attempt.
pub(crate) enum RequestBody {
    Empty,
    Upload(Box<Part>),
}

/// An attempt's hold on the client's body.
pub(crate) struct Part {
    upload: Arc<Upload>,
    attempt: usize,
    /// How many of the pieces that were kept it has had.
    said: usize,
    /// Told, or dropped, when all has been sent.
    sent: Option<oneshot::Sender<()>>,
    quiet: Quiet,
}

impl RequestBody {
    /// The body for an attempt, which takes it from the one before, and what ends when it has been sent.
    pub(crate) fn of(upload: Option<&Arc<Upload>>) -> (Self, impl Future<Output = ()> + use<>) {
        let (sender, sent) = oneshot::channel();
        let body = upload.map(|upload| {
            // The attempts before have had their time.
            upload.moved.again();
            let mut source = lock(&upload.source);
            source.attempt += 1;
            let quiet = Quiet::new(upload.moved.clone(), upload.limit);
            let (upload, attempt) = (upload.clone(), source.attempt);
            Box::new(Part { upload, attempt, said: 0, sent: Some(sender), quiet })
        });
        (body.map_or(Self::Empty, Self::Upload), async { drop(sent.await) })
    }
}

impl Part {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut source = lock(&self.upload.source);
        if source.attempt != self.attempt {
            return Poll::Ready(Some(Err("the body belongs to another attempt".into())));
        }
        let piece = source.kept.as_ref().and_then(|kept| kept.get(self.said)).cloned();
        let mut frame = match piece {
            Some(Piece::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Piece::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None => {
                let frame = Pin::new(&mut source.incoming).poll_frame(cx).map_err(BoxError::from);
                if let Poll::Ready(Some(Ok(frame))) = &frame {
                    source.keep(frame);
                }
                frame
            }
        };
        let is_end = source.is_end(self.said + 1);
        match &frame {
            Poll::Ready(Some(Ok(_))) => {
                self.said += 1;
                self.upload.moved.again();
            }
            Poll::Pending if self.quiet.poll_over(cx).is_ready() => {
                let limit = humantime::format_duration(self.quiet.limit);
                frame = Poll::Ready(Some(Err(format!("nothing came for {limit}").into())));
            }
            Poll::Pending | Poll::Ready(_) => {}
        }
        if let Poll::Ready(Some(Err(error))) = &frame {
            let _ = self.upload.broken.set(broken(&**error));
        }
        if is_end || matches!(frame, Poll::Ready(None)) {
            self.sent = None;
        }
        frame
    }
}

fn broken(error: &(dyn StdError + 'static)) -> Broken {
    let malformed = [io::ErrorKind::InvalidInput, io::ErrorKind::InvalidData];
    let is_malformed = chain(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| malformed.contains(&error.kind()))
    });
    if is_malformed { Broken::Malformed } else { Broken::Ended }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Upload(part) => part.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload(part) => lock(&part.upload.source).is_end(part.said),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload(part) if part.said == 0 => part.upload.hint,
            Self::Upload(part) => lock(&part.upload.source).incoming.size_hint(),
        }
    }
}
