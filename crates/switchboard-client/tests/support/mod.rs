//! What the tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

#[cfg(feature = "tonic")]
pub(crate) mod health;
#[cfg(feature = "reqwest")]
pub(crate) mod http_server;
pub(crate) mod servers;
pub(crate) mod spans;

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::pending;
use http_body::Frame;
use switchboard_core::{
    Instance, InstanceKey, MemoryRegistry, NamesStream, RegisterOptions, Registry, Result, ServiceName,
    Snapshot, SnapshotStream,
};
use switchboard_selector::{Balancer, RoundRobin, Selector};
use switchboard_watcher::Directory;

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn instance(service: &str, id: &str, address: &str) -> Instance {
    Instance::builder(service).id(id).address(address).build().unwrap()
}

pub(crate) async fn register(registry: &MemoryRegistry, instance: &Instance) {
    registry.register(instance, &RegisterOptions::new()).await.unwrap();
}

/// Picks in turn, and whatever has failed or starts, so that tests know who is next.
pub(crate) fn selector(registry: &MemoryRegistry) -> Selector {
    let directory = Directory::new(registry.handle());
    Selector::builder(directory).strategy(RoundRobin).without_slow_start().without_outlier_detection().build()
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, reached).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// Calls in flight and failures in a row, by instance in order of id.
pub(crate) fn standing(balancer: &Balancer) -> Vec<(u32, u32)> {
    balancer.report().iter().map(|report| (report.in_flight, report.consecutive_failures)).collect()
}

/// An address where nobody listens.
pub(crate) async fn nowhere() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A registry that never says anything.
#[derive(Debug)]
pub(crate) struct Silent;

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("silent:")
    }
}

#[async_trait]
impl Registry for Silent {
    async fn register(&self, _: &Instance, _: &RegisterOptions) -> Result<()> {
        Ok(())
    }

    async fn deregister(&self, _: &InstanceKey) -> Result<()> {
        Ok(())
    }

    async fn lookup(&self, _: &ServiceName) -> Result<Snapshot> {
        std::future::pending().await
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        std::future::pending().await
    }

    fn watch(&self, _: &ServiceName) -> SnapshotStream {
        pending().boxed()
    }

    fn watch_services(&self) -> NamesStream {
        pending().boxed()
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A body that gives its frames and then, if there is one, an error; of a length nobody knows.
pub(crate) struct Frames<E> {
    frames: std::vec::IntoIter<Bytes>,
    error: Option<E>,
}

impl<E> Frames<E> {
    pub(crate) fn new(frames: impl IntoIterator<Item = impl Into<Bytes>>, error: Option<E>) -> Self {
        let frames: Vec<Bytes> = frames.into_iter().map(Into::into).collect();
        Self { frames: frames.into_iter(), error }
    }
}

impl<E: Unpin> http_body::Body for Frames<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, E>>> {
        let frame = self.frames.next().map(|data| Ok(Frame::data(data)));
        Poll::Ready(frame.or_else(|| self.error.take().map(Err)))
    }
}
