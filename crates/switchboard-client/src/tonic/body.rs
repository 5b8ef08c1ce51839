use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use switchboard_selector::{FailureKind, Pick};
use tokio::time::Sleep;
use tonic::Status;

use super::outcome;
use super::replay::Broken;
use super::status::timed_out;
use crate::limits::Limits;
use crate::pick::{Verdict, finish};

/// The body of a response, and the call in flight: it ends, and is judged, with the body, and no later than its deadline.
pub struct ResponseBody {
    body: tonic::body::Body,
    pick: Option<Pick>,
    /// The caller's own body.
    upload: Broken,
    limits: Limits,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    pub(crate) fn new(body: tonic::body::Body, pick: Option<Pick>, upload: Broken, limits: Limits) -> Self {
        let deadline =
            pick.as_ref().and(limits.until()).map(|until| Box::pin(tokio::time::sleep_until(until)));
        Self { body, pick, upload, limits, deadline }
    }

    fn finish(&mut self, verdict: Verdict) {
        self.deadline = None;
        if let Some(pick) = self.pick.take() {
            finish(pick, verdict.filter(|_| self.upload.status().is_none()));
        }
    }

    /// That the call's time is over, once.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        deadline.as_mut().poll(cx).map(|()| {
            // The instance has answered; how long a stream lasts is no fault of its own.
            self.finish(None);
            self.body = tonic::body::Body::empty();
            Some(Err(timed_out(self.limits.over())))
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
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
            Poll::Pending => return self.poll_deadline(cx),
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
        f.debug_struct("ResponseBody").field("in_flight", &self.pick).finish_non_exhaustive()
    }
}
