use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use switchboard_selector::{FailureKind, Pick};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::transport::Channel;

use super::outcome;
use super::replay::Broken;
use super::status::timed_out;
use crate::TimedOut;
use crate::failures::Failures;
use crate::limits::Limits;
use crate::pick::{Verdict, finish};
use crate::span::Call;

/// The body of a response, and the call in flight: it ends, and is judged, with the body, and no later than its deadline.
pub struct ResponseBody {
    body: tonic::body::Body,
    /// While the end of the response is open.
    open: Option<(Pick, Call)>,
    /// A connection that nobody holds sends no pings any more, though there is a stream on it.
    connection: Option<Channel>,
    /// The caller's own body.
    upload: Broken,
    limits: Limits,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    pub(crate) fn new(
        body: tonic::body::Body,
        open: Option<(Pick, Call)>,
        upload: Broken,
        limits: Limits,
    ) -> Self {
        let deadline =
            open.as_ref().and(limits.until()).map(|until| Box::pin(tokio::time::sleep_until(until)));
        Self { body, open, connection: None, upload, limits, deadline }
    }

    /// Holds the connection while the response goes on.
    pub(crate) fn on(mut self, connection: Channel) -> Self {
        self.connection = self.open.is_some().then_some(connection);
        self
    }

    fn finish(&mut self, verdict: Verdict) {
        (self.deadline, self.connection) = (None, None);
        if let Some((pick, mut call)) = self.open.take() {
            let verdict = verdict.filter(|_| self.upload.status().is_none());
            finish(pick, verdict);
            call.judged(verdict);
        }
    }

    /// That the call's time is over, once.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        deadline.as_mut().poll(cx).map(|()| Some(Err(self.over())))
    }

    /// Ends the call since its time is over.
    fn over(&mut self) -> Status {
        let over = self.limits.over();
        let mut line = over.to_string();
        if let Some((pick, mut call)) = self.open.take() {
            line = Failures::of(pick.instance(), line).to_string();
            // The instance has answered; how long a stream lasts is no fault of its own.
            finish(pick, None);
            call.timed_out();
        }
        self.finish(None);
        self.body = tonic::body::Body::empty();
        timed_out(over, line)
    }

    /// Whether the server gives the call up in `frame` because its time is over: it may notice that first.
    fn is_over(&self, frame: &Result<Frame<Bytes>, Status>) -> bool {
        let code = match frame {
            Ok(frame) => frame.trailers_ref().and_then(outcome::code),
            Err(status) => Some(status.code()),
        };
        let given_up = self.deadline.is_some() && code.is_some_and(outcome::gives_up);
        // Only the time of the call still counts: an attempt is over when the response begins.
        given_up && matches!(self.limits.spent(Instant::now()), Some(TimedOut::Call(_)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // First, or a stream that never pauses would never end.
        if let Poll::Ready(over) = self.poll_deadline(cx) {
            return Poll::Ready(over);
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(frame)) if self.is_over(frame) => return Poll::Ready(Some(Err(self.over()))),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    // Trailers without a status are against the protocol; tonic makes UNKNOWN of them.
                    let code = outcome::code(trailers).unwrap_or(tonic::Code::Unknown);
                    self.finish(Some(outcome::judge(code)));
                }
            }
            Poll::Ready(Some(Err(status))) => {
                let timeout = status.code() == tonic::Code::DeadlineExceeded;
                let kind = if timeout { FailureKind::Timeout } else { FailureKind::Connection };
                self.finish(Some(Err(kind)));
            }
            // It ended before its status.
            Poll::Ready(None) => self.finish(Some(Err(FailureKind::Response))),
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("in_flight", &self.open.as_ref().map(|(pick, _)| pick))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;
    use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
    use switchboard_selector::Selector;
    use switchboard_watcher::Directory;
    use tonic::Code;

    use super::*;

    /// There is always one more.
    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"more")))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_never_pauses_ends_at_its_deadline() {
        let registry = MemoryRegistry::new();
        let one = Instance::builder("hello").id("1").address("127.0.0.1:1").build().unwrap();
        registry.register(&one, &RegisterOptions::new()).await.unwrap();
        let balancer = Selector::new(Directory::new(registry)).service("hello").unwrap();
        balancer.ready().await.unwrap();
        let limits = Limits::new(Some(Duration::from_secs(1)), None);
        let pick = balancer.pick().unwrap();
        let call = Call::new(balancer.service());
        let body =
            ResponseBody::new(tonic::body::Body::new(Endless), Some((pick, call)), Broken::default(), limits);
        let mut frames = Box::pin(futures::stream::unfold(body, |mut body| async {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await?;
            Some((frame, body))
        }));
        assert!(frames.next().await.unwrap().is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut ended = None;
        for _ in 0..1000 {
            match frames.next().await {
                Some(Ok(_)) => {}
                other => {
                    ended = other;
                    break;
                }
            }
        }
        let status = ended.expect("it ends").unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(balancer.report()[0].consecutive_failures, 0);
        assert_eq!(balancer.report()[0].in_flight, 0);
        assert!(frames.next().await.is_none());
    }
}
