//! The wire: requests to agents and their answers, checked before anything is read from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, Response, StatusCode};
use switchboard_core::{Error, ErrorKind, Invalid, Result};
use tokio::time::{sleep, timeout};

use crate::BACKEND;
use crate::agent::Agent;
use crate::answer::{Answer, Failure};
use crate::budget::Budget;
use crate::token::Token;

const TOKEN_HEADER: &str = "x-consul-token";
/// Ten thousand instances are about 26 MB.
const MAX_ANSWER: usize = 512 * 1024 * 1024;

/// How long a write is waited for at the longest, from an agent that lives. Without a leader Consul 1.22 takes 45 s for
/// one registration of its own accord, and more for each that it could not pass on before.
pub(crate) const LONGEST_WRITE: Duration = Duration::from_secs(300);

/// The agents, and how they are spoken to.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) agents: Vec<Agent>,
    /// The agent that last answered a read.
    preferred: AtomicUsize,
    token: Option<Token>,
    /// Parameters of every request: namespace and partition.
    scope: Vec<(&'static str, String)>,
    pub(crate) timeout: Duration,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    /// The time it may take beyond the client's timeout.
    patience: Duration,
}

impl Request {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path.into())
    }

    pub(crate) fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path.into())
    }

    fn new(method: Method, path: String) -> Self {
        Self { method, path, query: Vec::new(), body: None, patience: Duration::ZERO }
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// To the datacenter that the other one is to.
    pub(crate) fn in_datacenter_of(mut self, other: &Self) -> Self {
        self.query.extend(other.query.iter().filter(|(name, _)| *name == "dc").cloned());
        self
    }

    pub(crate) fn body(mut self, json: Vec<u8>) -> Self {
        self.body = Some(json);
        self
    }

    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

impl Client {
    pub(crate) fn new(
        agents: Vec<Agent>,
        token: Option<Token>,
        scope: Vec<(&'static str, String)>,
        timeout: Duration,
    ) -> Self {
        Self { agents, preferred: AtomicUsize::new(0), token, scope, timeout }
    }

    /// Asks one agent after the other until one answers with success, beginning with the one that last did.
    pub(crate) async fn read(&self, operation: &'static str, request: &Request) -> Result<Answer, Failure> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failed: Option<Failure> = None;
        for turn in 0..self.agents.len() {
            let agent = (first + turn) % self.agents.len();
            let failure = match self.send_for_success(operation, agent, request).await {
                Ok(answer) => {
                    self.preferred.store(agent, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let settled = !matches!(failure.error.kind(), ErrorKind::Unavailable | ErrorKind::Protocol);
            // An agent that is down says less than one that answered with an error.
            let keep = settled || failed.as_ref().is_none_or(|first| !first.answered && failure.answered);
            if keep {
                failed = Some(failure);
            }
            if settled {
                break;
            }
        }
        Err(failed.unwrap_or_else(|| Failure {
            error: Error::new(ErrorKind::Unavailable, BACKEND, operation, "there is no agent to ask"),
            untouched: true,
            answered: false,
        }))
    }

    /// What watches may hold of the agent that last answered.
    pub(crate) fn budget(&self) -> Arc<Budget> {
        self.agents[self.preferred.load(Ordering::Relaxed)].budget.clone()
    }

    /// Asks the agent that last answered, and no other.
    pub(crate) async fn read_preferred(
        &self,
        operation: &'static str,
        request: &Request,
    ) -> Result<Answer, Failure> {
        let agent = self.preferred.load(Ordering::Relaxed);
        self.send_for_success(operation, agent, request).await
    }

    /// Asks the agent that last answered; an answer of any status is an answer.
    pub(crate) async fn send_preferred(
        &self,
        operation: &'static str,
        request: &Request,
    ) -> Result<Answer, Failure> {
        self.send(operation, self.preferred.load(Ordering::Relaxed), request).await
    }

    /// Has one agent do something with what is registered there, and waits for it for as long as the agent lives.
    ///
    /// Given up earlier, it would be done all the same, and what is tried again would wait behind it.
    pub(crate) async fn write(
        &self,
        operation: &'static str,
        agent: usize,
        request: Request,
    ) -> Result<Answer, Failure> {
        let request = request.patience(LONGEST_WRITE);
        tokio::select! {
            answer = self.send(operation, agent, &request) => answer,
            failure = self.until_silent(operation, agent) => Err(failure),
        }
    }

    /// Waits until an agent gives no sign of life within the timeout.
    async fn until_silent(&self, operation: &'static str, agent: usize) -> Failure {
        let half = self.timeout / 2;
        // Answered without asking anybody, and to everybody.
        let request = Request::get("/");
        loop {
            sleep(half).await;
            match timeout(half, self.send(operation, agent, &request)).await {
                Ok(Ok(_)) => {}
                Ok(Err(failure)) => return Failure { untouched: false, ..failure },
                Err(_) => {
                    let message =
                        format!("no answer from {} within {:?}", self.agents[agent].name, self.timeout);
                    let error = Error::new(ErrorKind::Unavailable, BACKEND, operation, message);
                    return Failure { error, untouched: false, answered: false };
                }
            }
        }
    }

    async fn send_for_success(
        &self,
        operation: &'static str,
        agent: usize,
        request: &Request,
    ) -> Result<Answer, Failure> {
        let answer = self.send(operation, agent, request).await?;
        answer.success(operation).map_err(|error| Failure { error, untouched: false, answered: true })
    }

    /// Asks one agent; an answer of any status is an answer.
    pub(crate) async fn send(
        &self,
        operation: &'static str,
        agent: usize,
        request: &Request,
    ) -> Result<Answer, Failure> {
        let sent = match self.send_once(operation, agent, request).await {
            // A pooled connection may have died while it lay idle, which only shows when it is used. Every request can
            // safely be made twice.
            Err((failure, true)) => {
                tracing::debug!(error = %failure.error, "asking once more on a new connection");
                self.send_once(operation, agent, request).await
            }
            sent => sent,
        };
        let sent = sent.map_err(|(failure, _)| failure);
        self.agents[agent].metrics.answered(&sent);
        sent
    }

    /// An answer, or a failure and whether it may be the pooled connection's.
    async fn send_once(
        &self,
        operation: &'static str,
        agent: usize,
        request: &Request,
    ) -> Result<Answer, (Failure, bool)> {
        let agent = &self.agents[agent];
        let limit = self.timeout + request.patience;
        let failed = |error: reqwest::Error| {
            let (unheard, broken) = (error.is_connect(), !error.is_connect() && !error.is_timeout());
            let message = if error.is_timeout() && !unheard {
                format!("no answer from {} within {limit:?}", agent.name)
            } else if unheard {
                format!("cannot connect to {}", agent.name)
            } else {
                format!("the connection to {} broke", agent.name)
            };
            // The URL is left out: it says nothing that is not said, at length.
            let error = Error::new(ErrorKind::Unavailable, BACKEND, operation, message)
                .with_source(error.without_url());
            (Failure { error, untouched: unheard, answered: false }, broken)
        };
        let (mut response, token) = self.exchange(agent, request, limit).await.map_err(failed)?;
        if response.status() == StatusCode::FORBIDDEN {
            if let Some((fresh, sent)) = self.token.as_ref().zip(token) {
                if fresh.replaced(&sent) {
                    (response, _) = self.exchange(agent, request, limit).await.map_err(failed)?;
                }
            }
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let mut answer = Answer {
            status: response.status(),
            index: header("x-consul-index").and_then(|text| text.parse().ok()),
            filtered: header("x-consul-results-filtered-by-acls") == Some("true"),
            body: Vec::new(),
            agent: agent.name.clone(),
        };
        // An answer that breaks off is not tried again here: it may be long.
        while let Some(chunk) = response.chunk().await.map_err(|error| (failed(error).0, false))? {
            if answer.body.len() + chunk.len() > MAX_ANSWER {
                let message = format!("the answer of {} is longer than {MAX_ANSWER} bytes", agent.name);
                let error = Error::new(ErrorKind::Protocol, BACKEND, operation, message);
                return Err((Failure { error, untouched: false, answered: true }, false));
            }
            answer.body.extend_from_slice(&chunk);
        }
        Ok(answer)
    }

    async fn exchange(
        &self,
        agent: &Agent,
        request: &Request,
        limit: Duration,
    ) -> reqwest::Result<(Response, Option<reqwest::header::HeaderValue>)> {
        let mut builder = agent
            .http
            .request(request.method.clone(), format!("{}{}", agent.base, request.path))
            .timeout(limit);
        if !request.query.is_empty() {
            builder = builder.query(&request.query);
        }
        if !self.scope.is_empty() {
            builder = builder.query(&self.scope);
        }
        let token = self.token.as_ref().map(Token::header);
        if let Some(token) = &token {
            builder = builder.header(TOKEN_HEADER, token.clone());
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        Ok((builder.send().await?, token))
    }
}

/// `name` as a segment of a path.
pub(crate) fn segment(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// Whether Consul's HTTP API can be asked about `name`: its router rewrites some paths, encoded or not.
pub(crate) fn check_addressable(what: &str, name: &str) -> Result<(), Invalid> {
    let mut segments: Vec<_> = name.split('/').collect();
    // One slash at the end stays.
    if segments.len() > 1 && segments.last() == Some(&"") {
        segments.pop();
    }
    if segments.iter().any(|segment| matches!(*segment, "" | "." | "..")) {
        let why = "has an empty, '.' or '..' part between slashes, which Consul's HTTP API cannot address";
        return Err(Invalid::quoting(what, name, why));
    }
    Ok(())
}
