//! Requests: each with a limit, and errors as the contract has them.

use std::future::Future;

use etcd_client::{Client as Etcd, GetOptions, KeyValue};
use futures::FutureExt;
use futures::future::BoxFuture;
use switchboard_core::{Error, ErrorKind, Result};
use tokio::sync::Mutex;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tonic::Code;

use crate::BACKEND;
use crate::config::Settings;

/// So many keys are asked for at a time: an answer is to stay well below the 4 MB that a client takes.
const PAGE: i64 = 1000;

/// etcd, connected when first needed.
pub(crate) struct Client {
    pub(crate) settings: Settings,
    connected: Mutex<Option<Etcd>>,
}

impl Client {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, connected: Mutex::default() }
    }

    /// A client to make a call with.
    pub(crate) async fn get(&self, operation: &'static str) -> Result<Etcd> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::no_runtime(BACKEND, operation));
        }
        let mut connected = self.connected.lock().await;
        if let Some(client) = &*connected {
            return Ok(client.clone());
        }
        // With a user this asks for a token.
        let connecting = Etcd::connect(&self.settings.endpoints, Some(self.settings.options.clone()));
        let client = self.bounded(operation, connecting).await?;
        *connected = Some(client.clone());
        Ok(client)
    }

    /// Waits for what a call comes to, as long as one may take.
    pub(crate) fn bounded<'a, T: 'a>(
        &'a self,
        operation: &'static str,
        call: impl Future<Output = Result<T, etcd_client::Error>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        // Those of etcd-client take 16 KiB.
        let call = timeout(self.settings.timeout, Box::pin(call));
        async move { self.answer(operation, call.await) }.boxed()
    }

    fn answer<T>(
        &self,
        operation: &'static str,
        answer: Result<Result<T, etcd_client::Error>, Elapsed>,
    ) -> Result<T> {
        let limit = self.settings.timeout;
        match answer {
            Ok(answer) => answer.map_err(|error| self.failed(operation, error)),
            Err(_) => {
                Err(unavailable(operation, format!("no answer from {} within {limit:?}", self.settings)))
            }
        }
    }

    /// All keys that begin with `from`, and the revision of that.
    pub(crate) async fn range(
        &self,
        operation: &'static str,
        from: &str,
        keys_only: bool,
    ) -> Result<(Vec<KeyValue>, i64)> {
        let mut etcd = self.get(operation).await?;
        let end = end_of(from.as_bytes());
        let (mut all, mut start, mut revision) = (Vec::new(), from.as_bytes().to_vec(), 0);
        if start.is_empty() {
            start.push(0);
        }
        loop {
            let mut options =
                GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            if keys_only {
                options = options.with_keys_only();
            }
            let mut answer = self.bounded(operation, etcd.get(start, Some(options))).await?;
            if revision == 0 {
                revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            let more = answer.more();
            all.append(&mut answer.take_kvs());
            match all.last() {
                Some(last) if more => start = [last.key(), &[0]].concat(),
                _ => return Ok((all, revision)),
            }
        }
    }

    /// An error of etcd's as ours.
    pub(crate) fn failed(&self, operation: &'static str, error: etcd_client::Error) -> Error {
        use etcd_client::Error as E;
        let kind = match &error {
            E::GRpcStatus(status) => match status.code() {
                Code::PermissionDenied | Code::Unauthenticated => ErrorKind::PermissionDenied,
                Code::InvalidArgument if status.message().contains("authentication failed") => {
                    ErrorKind::PermissionDenied
                }
                Code::InvalidArgument | Code::Unimplemented | Code::DataLoss => ErrorKind::Protocol,
                _ => ErrorKind::Unavailable,
            },
            E::InvalidArgs(_) | E::InvalidUri(_) | E::InvalidMetadataValue(_) | E::Utf8Error(_) => {
                ErrorKind::Protocol
            }
            _ => ErrorKind::Unavailable,
        };
        let said = match &error {
            E::GRpcStatus(status) => status.message().to_owned(),
            other => other.to_string(),
        };
        Error::new(kind, BACKEND, operation, format!("{}: {said}", self.settings)).with_source(error)
    }
}

pub(crate) fn unavailable(operation: &'static str, why: String) -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, operation, why)
}

/// The first key behind all that begin with this.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // All keys there are.
    vec![0]
}
