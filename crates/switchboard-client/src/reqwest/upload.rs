//! Whether the caller's own body broke off, which says nothing of the instance.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::Request;

/// Watches the body of one request.
#[derive(Debug, Default)]
pub(crate) struct Upload(Arc<AtomicBool>);

impl Upload {
    /// Watches the body of `request` if it is a stream; others are there as a whole.
    pub(crate) fn watch(request: &mut Request) -> Self {
        let upload = Self::default();
        if let Some(body) = request.body_mut().take_if(|body| body.as_bytes().is_none()) {
            let watched = Watched { body, broken: upload.0.clone() };
            *request.body_mut() = Some(reqwest::Body::wrap(watched));
        }
        upload
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.0.load(Relaxed)
    }
}

struct Watched {
    body: reqwest::Body,
    broken: Arc<AtomicBool>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, reqwest::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = &frame {
            self.broken.store(true, Relaxed);
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
