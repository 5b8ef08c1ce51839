use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use switchboard_selector::{FailureKind, Pick};
use tonic::Status;

use super::outcome;

/// The body of a response, and the call in flight: it ends, and is judged, with the body.
pub struct ResponseBody {
    body: tonic::body::Body,
    pick: Option<Pick>,
}

impl ResponseBody {
    pub(crate) fn new(body: tonic::body::Body, pick: Option<Pick>) -> Self {
        Self { body, pick }
    }

    fn finish(&mut self, outcome: Result<(), FailureKind>) {
        if let Some(pick) = self.pick.take() {
            pick.finish(outcome);
        }
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
                    self.finish(outcome::judge(code));
                }
            }
            Poll::Ready(Some(Err(status))) => {
                let timeout = status.code() == tonic::Code::DeadlineExceeded;
                self.finish(Err(if timeout { FailureKind::Timeout } else { FailureKind::Connection }));
            }
            // It ended before its status.
            Poll::Ready(None) => self.finish(Err(FailureKind::Response)),
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
        f.debug_struct("ResponseBody").field("in_flight", &self.pick).finish_non_exhaustive()
    }
}
