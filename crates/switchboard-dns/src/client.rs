//! Asking name servers: the wire.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use switchboard_core::{Error, ErrorKind};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::BACKEND;
use crate::config::DnsBuilder;
use crate::servers::{Server, Servers, Source};

/// So many questions are under way at a time; each takes a socket.
const AT_A_TIME: usize = 64;

/// A server without TCP is asked over it again after so long: before anybody goes who was only left out over UDP.
const TCP_AGAIN: Duration = Duration::from_secs(30);

/// Why nothing was found out; the operation is told by whoever asked.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    kind: ErrorKind,
    message: String,
}

impl Failed {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn error(self, operation: &'static str) -> Error {
        Error::new(self.kind, BACKEND, operation, self.message)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What a server answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Message(Box<Message>),
    /// No such record.
    Nothing {
        /// Whether there is such a name.
        exists: bool,
        /// For so many seconds, if it says.
        ttl: Option<u32>,
    },
}

pub(crate) struct Client {
    source: Source,
    timeout: Duration,
    permits: Arc<Semaphore>,
    /// Since when there is no TCP.
    no_tcp: Mutex<Option<Instant>>,
}

impl Client {
    pub(crate) fn new(config: &DnsBuilder) -> Self {
        Self {
            source: Source::new(config),
            timeout: config.timeout,
            permits: Arc::new(Semaphore::new(AT_A_TIME)),
            no_tcp: Mutex::default(),
        }
    }

    pub(crate) fn servers(&self) -> Result<Arc<Servers>, Failed> {
        self.source.servers()
    }

    /// Whether asking over TCP is worth a try.
    pub(crate) fn has_tcp(&self) -> bool {
        let since = self.no_tcp.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_none_or(|since| since.elapsed() >= TCP_AGAIN)
    }

    /// Takes note of whether there is TCP.
    pub(crate) fn note_tcp(&self, works: bool) {
        let mut since = self.no_tcp.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if works { None } else { Some(Instant::now()) };
    }

    /// Asks one server after the other until one gives an answer, the one that did last first.
    pub(crate) async fn ask(
        &self,
        servers: &Arc<Servers>,
        name: &Name,
        kind: RecordType,
        tcp: bool,
    ) -> Result<Answer, Failed> {
        in_runtime()?;
        let first = servers.preferred.load(Relaxed);
        let mut said = Vec::new();
        let mut worst = ErrorKind::Unavailable;
        for at in 0..servers.list.len() {
            let at = (first + at) % servers.list.len();
            let server = &servers.list[at];
            match self.ask_one(server, name, kind, tcp).await {
                Ok(answer) => {
                    servers.preferred.store(at, Relaxed);
                    return Ok(answer);
                }
                Err((kind, why)) => {
                    worst = kind;
                    said.push(format!("{} {why}", server.address));
                }
            }
        }
        let over = if tcp { " over TCP" } else { "" };
        Err(Failed::new(
            worst,
            format!("no answer for {kind} {}{over}: {}", name.to_ascii(), said.join("; ")),
        ))
    }

    pub(crate) async fn ask_one(
        &self,
        server: &Server,
        name: &Name,
        kind: RecordType,
        tcp: bool,
    ) -> Result<Answer, (ErrorKind, String)> {
        let query = Query::query(name.clone(), kind);
        let mut options = DnsRequestOptions::default();
        let mut answer = self.send(server, tcp, query.clone(), options).await;
        // RFC 6891, section 7: a server that knows no EDNS.
        if let Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::FormErr | ResponseCode::NotImp))) =
            &answer
        {
            options.use_edns = false;
            answer = self.send(server, tcp, query, options).await;
        }
        let why = match answer {
            Ok(message) => return Ok(Answer::Message(Box::new(message))),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                if none.ns.is_some() && none.soa.is_none() {
                    let why = "refers to other servers and resolves no names itself".to_owned();
                    return Err((ErrorKind::Unavailable, why));
                }
                let exists = none.response_code != ResponseCode::NXDomain;
                return Ok(Answer::Nothing { exists, ttl: none.negative_ttl });
            }
            Err(why) => why,
        };
        Err(match why {
            NetError::Dns(DnsError::ResponseCode(code @ (ResponseCode::FormErr | ResponseCode::NotImp))) => {
                (ErrorKind::Protocol, format!("answered {}", shown(code)))
            }
            NetError::Dns(DnsError::ResponseCode(code)) => {
                (ErrorKind::Unavailable, format!("answered {}", shown(code)))
            }
            NetError::Timeout => {
                (ErrorKind::Unavailable, format!("did not answer within {:?}", self.timeout))
            }
            NetError::Io(error) => (ErrorKind::Unavailable, format!("could not be asked: {error}")),
            NetError::Truncated => (ErrorKind::Unavailable, "cuts its answer short over TCP too".into()),
            NetError::ForeignClassRecord { .. } | NetError::Proto(_) => {
                (ErrorKind::Protocol, format!("answered nonsense: {why}"))
            }
            why => (ErrorKind::Unavailable, format!("could not be asked: {why}")),
        })
    }

    /// In a task: one that nobody polls must not hold up the others.
    async fn send(
        &self,
        server: &Server,
        tcp: bool,
        query: Query,
        options: DnsRequestOptions,
    ) -> Result<Message, NetError> {
        let (permits, pool) = (self.permits.clone(), server.pool(tcp));
        // What was cut short over UDP is asked for again over TCP.
        let limit = if tcp { self.timeout } else { self.timeout * 2 };
        let asking = Asking(tokio::spawn(async move {
            let _permit = permits.acquire_owned().await;
            let answer = timeout(limit, pool.lookup(query, options).first_answer()).await;
            Ok(answer.unwrap_or(Err(NetError::Timeout))?.into_message())
        }));
        asking.await.unwrap_or(Err(NetError::Message("the runtime is shutting down")))
    }
}

/// Nothing is asked outside of one.
pub(crate) fn in_runtime() -> Result<(), Failed> {
    if Handle::try_current().is_ok() {
        return Ok(());
    }
    let error = Error::no_runtime(BACKEND, "");
    Err(Failed::new(error.kind(), error.message()))
}

/// A question under way, which ends with this.
struct Asking<T>(JoinHandle<T>);

impl<T> Future for Asking<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(context)
    }
}

impl<T> Drop for Asking<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// As everybody calls it.
fn shown(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::Refused => "REFUSED".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::NotAuth => "NOTAUTH".into(),
        code => format!("{code} ({})", u16::from(code)),
    }
}
