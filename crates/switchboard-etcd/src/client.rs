//! Requests: one member after the other within one limit, with a token where there is a user, and errors as the contract has them.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use http::uri::PathAndQuery;
use switchboard_core::Result;
use tokio::time::{Instant, sleep, timeout};
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::config::Settings;
use crate::failure::Failure;
use crate::scope::Notices;
use crate::stream::{Stream, Watch};
use crate::wire::{
    self, AuthenticateRequest, Header, KeyValue, LeaseKeepAliveRequest, LeaseKeepAliveResponse, Method,
    RangeRequest, WatchRequest, WatchResponse,
};

/// So many keys are asked for at a time, and fewer if they are too large for one answer.
const PAGE: i64 = 1000;

/// The largest answer that is taken: ten of the largest values that etcd takes by default.
const MAX_ANSWER: usize = 16 << 20;

/// How long an election is waited for. etcd's members hold one after 1 to 2 s without a leader by default.
const ELECTION: Duration = Duration::from_secs(3);

/// How messages go to and fro.
type Messages<S> = tonic::Streaming<S>;

/// What etcd knows a user by after the password was right.
pub(crate) type Token = MetadataValue<Ascii>;

/// A cluster, connected when first needed.
pub(crate) struct Client {
    pub(crate) settings: Settings,
    line: Mutex<Line>,
    /// Held while asking for one, so that one is asked for at a time.
    pass: tokio::sync::Mutex<Pass>,
    pub(crate) notices: Arc<Notices>,
    /// What carries the watches.
    stream: Mutex<Weak<Stream>>,
}

/// What requests are let in by.
#[derive(Default)]
struct Pass {
    /// Whether etcd was asked, or has to be.
    is_known: bool,
    token: Option<Token>,
}

/// The connection to the member that is spoken to.
#[derive(Clone)]
pub(crate) struct Line {
    member: usize,
    /// Counts connections, so that each is given up only once.
    number: u64,
    channel: Option<Channel>,
}

impl Client {
    pub(crate) fn new(settings: Settings) -> Self {
        // Any of them, so that not all programs ask the first.
        let line = Line { member: fastrand::usize(..settings.members.len()), number: 0, channel: None };
        Self {
            settings,
            line: Mutex::new(line),
            pass: tokio::sync::Mutex::default(),
            notices: Arc::default(),
            stream: Mutex::default(),
        }
    }

    pub(crate) fn line(&self) -> Line {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.channel.is_none() {
            line.channel = Some(self.settings.members[line.member].endpoint.connect_lazy());
        }
        line.clone()
    }

    /// Gives a connection up: the next request goes to another member. Also with one member there is another connection, as this
    /// one may be of a runtime that has ended.
    pub(crate) fn leave(&self, left: &Line) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.number == left.number {
            let member = (line.member + 1) % self.settings.members.len();
            *line = Line { member, number: line.number + 1, channel: None };
        }
    }

    pub(crate) fn failed(&self, operation: &'static str, line: &Line, status: Status) -> Failure {
        Failure {
            operation,
            at: self.settings.to_string(),
            host: self.settings.members[line.member].host.clone(),
            status,
        }
    }

    /// Sends a request, and gives its answer.
    pub(crate) async fn call<M: Method>(
        &self,
        operation: &'static str,
        request: M,
    ) -> Result<M::Answer, Failure> {
        self.anywhere(operation, |line, token| unary(line, token, request.clone())).await
    }

    /// Sends a request to one member, and gives its answer.
    pub(crate) async fn call_member<M: Method>(
        &self,
        operation: &'static str,
        member: usize,
        request: M,
    ) -> Result<M::Answer, Failure> {
        let channel = Some(self.settings.members[member].endpoint.connect_lazy());
        let line = Line { member, number: u64::MAX, channel };
        let call = self.with_token(&line, |line, token| unary(line, token, request.clone()));
        let answer = timeout(self.settings.timeout, Box::pin(call)).await;
        answer
            .unwrap_or_else(|_| Err(late(self.settings.timeout)))
            .map_err(|status| self.failed(operation, &line, status))
    }

    /// Renews a lease; whether it was still there.
    pub(crate) async fn keep_alive(&self, operation: &'static str, lease: i64) -> Result<bool, Failure> {
        let renew = |line, token| async move {
            let one = futures::stream::iter([LeaseKeepAliveRequest { id: lease }]);
            let mut answers: Messages<LeaseKeepAliveResponse> =
                streaming(line, token, one, wire::KEEP_ALIVE).await?;
            answers.message().await
        };
        match self.anywhere(operation, renew).await {
            Ok(Some(answer)) => Ok(answer.ttl > 0),
            Ok(None) => Ok(false),
            Err(failure) if failure.lost_lease() => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// All keys that begin with `from`, and where the cluster was then.
    pub(crate) async fn range(
        &self,
        operation: &'static str,
        from: &str,
        keys_only: bool,
    ) -> Result<(Vec<KeyValue>, Header), Failure> {
        let (mut key, range_end) = keys_of(from);
        let (mut all, mut header, mut limit) = (Vec::new(), None, PAGE);
        loop {
            let revision = header.map_or(0, |header: Header| header.revision);
            let request =
                RangeRequest { key: key.clone(), range_end: range_end.clone(), limit, revision, keys_only };
            let mut answer = match self.call(operation, request).await {
                Err(failure) if failure.was_too_large() && limit > 1 => {
                    limit /= 8;
                    continue;
                }
                answer => answer?,
            };
            // The first page's; the others are of the same revision.
            header = header.or(answer.header);
            all.append(&mut answer.kvs);
            match all.last() {
                Some(last) if answer.more => key = [&last.key[..], &[0]].concat(),
                _ => return Ok((all, header.unwrap_or_default())),
            }
        }
    }

    /// Follows all keys that begin with `from`, from a revision on.
    pub(crate) async fn watch(
        self: &Arc<Self>,
        operation: &'static str,
        from: &str,
        revision: i64,
    ) -> Result<Watch, Failure> {
        let token = self.pass.lock().await.token.clone();
        let stream = {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            // etcd looks at the token a stream was opened with for each watch on it.
            let open = stream.upgrade().filter(|stream| stream.is_usable(token.as_ref()));
            open.unwrap_or_else(|| {
                let opened = Arc::new(Stream::open(self.clone(), token));
                *stream = Arc::downgrade(&opened);
                opened
            })
        };
        stream.watch(operation, from, revision).await
    }

    /// Opens what carries watches.
    pub(crate) async fn open_watches(
        &self,
        line: Line,
        token: Option<Token>,
        requests: impl futures::Stream<Item = WatchRequest> + Send + 'static,
    ) -> Result<Messages<WatchResponse>, Status> {
        streaming(line, token, requests, wire::WATCH).await
    }

    /// Asks one member after the other until one answers, within the time that one request has.
    async fn anywhere<T, F>(
        &self,
        operation: &'static str,
        attempt: impl Fn(Line, Option<Token>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let members = self.settings.members.len();
        let begun = Instant::now();
        let deadline = begun + self.settings.timeout;
        let mut pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(25))
            .with_max_delay(Duration::from_millis(500))
            .with_jitter()
            .without_max_times()
            .build();
        // Once more if there is but one: a connection that was idle may have been closed.
        let (mut attempts, enough) = (0, members.max(2));
        let mut left = u32::try_from(members).unwrap_or(u32::MAX);
        loop {
            let line = self.line();
            // One that hangs leaves time for the others.
            let limit = deadline.saturating_duration_since(Instant::now()) / left.max(1);
            let answer = timeout(limit, Box::pin(self.with_token(&line, &attempt)))
                .await
                .unwrap_or_else(|_| Err(late(limit)));
            let failure = match answer {
                Ok(answer) => return Ok(answer),
                Err(status) => self.failed(operation, &line, status),
            };
            if !failure.may_pass_elsewhere() {
                return Err(failure);
            }
            self.leave(&line);
            left = left.saturating_sub(1);
            attempts += 1;
            let waits_for_leader = failure.is_of_an_election() && begun.elapsed() < ELECTION;
            match pauses.next() {
                Some(pause)
                    if Instant::now() + pause < deadline && (attempts < enough || waits_for_leader) =>
                {
                    sleep(pause).await;
                }
                _ => return Err(failure),
            }
        }
    }

    /// Does it with the token there is, and once more with a new one if that is no longer known.
    async fn with_token<T, F>(
        &self,
        line: &Line,
        attempt: impl Fn(Line, Option<Token>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let token = self.token(line).await?;
        match attempt(line.clone(), token.clone()).await {
            Err(status) if self.settings.user.is_some() && is_stale(&status) => {
                let token = self.token_after(line, token.as_ref()).await?;
                attempt(line.clone(), token).await
            }
            answer => answer,
        }
    }

    /// The token; none without a user, or if etcd asks for none.
    async fn token(&self, line: &Line) -> Result<Option<Token>, Status> {
        let mut pass = self.pass.lock().await;
        self.get_pass(line, &mut pass).await
    }

    /// The token that comes after the one that is no longer known.
    async fn token_after(&self, line: &Line, stale: Option<&Token>) -> Result<Option<Token>, Status> {
        let mut pass = self.pass.lock().await;
        if pass.token.as_ref() == stale {
            *pass = Pass::default();
        }
        self.get_pass(line, &mut pass).await
    }

    async fn get_pass(&self, line: &Line, pass: &mut Pass) -> Result<Option<Token>, Status> {
        let Some(user) = self.settings.user.as_ref().filter(|_| !pass.is_known) else {
            return Ok(pass.token.clone());
        };
        let request = AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
        let token = match unary(line.clone(), None, request).await {
            Ok(answer) => {
                let mut value = Token::try_from(answer.token)
                    .map_err(|_| Status::data_loss("the token is no header's value"))?;
                value.set_sensitive(true);
                Some(value)
            }
            // "authentication is not enabled"
            Err(status) if status.code() == Code::FailedPrecondition => None,
            Err(status) => return Err(status),
        };
        *pass = Pass { is_known: true, token };
        Ok(pass.token.clone())
    }
}

/// Whether another token may help.
fn is_stale(status: &Status) -> bool {
    let said = status.message();
    status.code() == Code::Unauthenticated
        || said.contains("invalid auth token")
        || said.contains("user name is empty")
        || said.contains("revision of auth store is old")
}

fn late(limit: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {limit:.1?}"))
}

/// A request as etcd wants it.
fn asked<T>(message: T, token: Option<Token>) -> Request<T> {
    let mut request = Request::new(message);
    // A member that is cut off from its leader is an error, not silence.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request
}

async fn ready(line: Line) -> Result<Grpc<Channel>, Status> {
    let channel = line.channel.ok_or_else(|| Status::internal("not connected"))?;
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    Ok(grpc)
}

async fn unary<M: Method>(line: Line, token: Option<Token>, request: M) -> Result<M::Answer, Status> {
    let codec = ProstCodec::<M, M::Answer>::default();
    let mut grpc = ready(line).await?;
    let answer = grpc.unary(asked(request, token), PathAndQuery::from_static(M::PATH), codec);
    Ok(answer.await?.into_inner())
}

async fn streaming<Q, S>(
    line: Line,
    token: Option<Token>,
    requests: impl futures::Stream<Item = Q> + Send + 'static,
    path: &'static str,
) -> Result<Messages<S>, Status>
where
    Q: prost::Message + 'static,
    S: prost::Message + Default + 'static,
{
    let codec = ProstCodec::<Q, S>::default();
    let mut grpc = ready(line).await?;
    let answers = grpc.streaming(asked(requests, token), PathAndQuery::from_static(path), codec);
    Ok(answers.await?.into_inner())
}

/// The first key of all that begin with this, and the first behind them.
pub(crate) fn keys_of(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let start = if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() };
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return (start, end);
        }
    }
    // All keys there are.
    (start, vec![0])
}
