//! Whether the caller's own body broke off, which says nothing of the instance, and whether it has been sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::Request;

use crate::sent::Sent;

/// A body that is there as a whole and no longer than this counts as sent at once.
const SHORT: usize = 64 * 1024;

/// Watches the body of one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upload {
    broken: Arc<AtomicBool>,
    sent: Sent,
}

impl Upload {
    /// Watches the body of `request` if it is a stream; others are there as a whole.
    pub(crate) fn watch(request: &mut Request) -> Self {
        let upload = Self::default();
        match request.body_mut() {
            Some(body) if body.as_bytes().is_none() => {
                let body = std::mem::take(body);
                let watched = Watched { body, upload: upload.clone() };
                *request.body_mut() = Some(reqwest::Body::wrap(watched));
            }
            // Nobody tells how far it has been sent.
            Some(body) if body.as_bytes().is_some_and(|bytes| bytes.len() > SHORT) => {}
            _ => upload.sent.done(),
        }
        upload
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    pub(crate) fn sent(&self) -> &Sent {
        &self.sent
    }
}

struct Watched {
    body: reqwest::Body,
    upload: Upload,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, reqwest::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Err(_))) => self.upload.broken.store(true, Relaxed),
            Poll::Ready(None) => self.upload.sent.done(),
            _ if self.body.is_end_stream() => self.upload.sent.done(),
            _ => {}
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
