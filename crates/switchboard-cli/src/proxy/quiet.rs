//! How long nothing has moved, and how long that may be.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// When something has moved last. Clones are of one.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    began: Instant,
    /// Milliseconds after that.
    last: Arc<AtomicU64>,
}

impl Moved {
    pub(crate) fn now() -> Self {
        Self { began: Instant::now(), last: Arc::default() }
    }

    pub(crate) fn again(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Relaxed);
    }

    /// Whether nothing has moved for so long.
    pub(crate) fn is_quiet_for(&self, limit: Duration) -> bool {
        self.due(limit).is_some_and(|due| due <= Instant::now())
    }

    /// When it will have been so long; `None` for never.
    fn due(&self, limit: Duration) -> Option<Instant> {
        (self.began + Duration::from_millis(self.last.load(Relaxed))).checked_add(limit)
    }
}

/// A limit on how long nothing may move.
#[derive(Debug)]
pub(crate) struct Quiet {
    pub(crate) moved: Moved,
    pub(crate) limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Quiet {
    pub(crate) fn new(moved: Moved, limit: Duration) -> Self {
        Self { moved, limit, timer: None }
    }

    /// Ready when nothing has moved for so long.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(due) = self.moved.due(self.limit) else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(timer.as_mut().poll(cx));
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }

    pub(crate) async fn over(&mut self) {
        std::future::poll_fn(|cx| self.poll_over(cx)).await;
    }
}

/// A connection that ends when what is to be written is not taken for so long, and tells when something moves.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    limit: Duration,
    /// While something waits to be written.
    stuck: Option<Pin<Box<Sleep>>>,
    moved: Option<Moved>,
    came: Option<Moved>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, stuck: None, moved: None, came: None }
    }

    pub(crate) fn telling(self, moved: Moved) -> Self {
        Self { moved: Some(moved), ..self }
    }

    /// Tells only when something comes.
    pub(crate) fn telling_reads(self, came: Moved) -> Self {
        Self { came: Some(came), ..self }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    fn moved(&mut self) {
        self.stuck = None;
        if let Some(moved) = &self.moved {
            moved.again();
        }
    }

    fn written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.moved();
            return written;
        }
        let Some(due) = Instant::now().checked_add(self.limit) else { return Poll::Pending };
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep_until(due)));
        ready!(stuck.as_mut().poll(cx));
        let why = format!("nothing was taken for {}", humantime::format_duration(self.limit));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.moved.iter().chain(&self.came).for_each(Moved::again);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connection for Watched<TcpStream> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_ends_and_what_is_taken_slowly_does_not() {
        let (near, mut far) = duplex(10);
        let mut near = Watched::new(near, LIMIT);
        let write = async { near.write_all(&[0; 40]).await };
        let read = async {
            for _ in 0..3 {
                tokio::time::sleep(LIMIT / 2).await;
                far.read_exact(&mut [0; 10]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(write, read);
        written.unwrap();
        let began = Instant::now();
        let error = near.write_all(&[0; 40]).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_nothing_has_moved_for_so_long() {
        let (moved, began) = (Moved::now(), Instant::now());
        let mut quiet = Quiet::new(moved.clone(), LIMIT);
        let stir = async {
            for _ in 0..3 {
                tokio::time::sleep(LIMIT / 2).await;
                moved.again();
            }
        };
        tokio::join!(stir, quiet.over());
        assert_eq!(began.elapsed().as_secs(), 150);
        Quiet::new(Moved::now(), Duration::MAX);
        assert!(
            tokio::time::timeout(LIMIT * 1000, Quiet::new(Moved::now(), Duration::MAX).over()).await.is_err()
        );
    }
}
