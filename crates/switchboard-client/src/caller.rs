use std::fmt;
use std::sync::Arc;

use switchboard_core::{Address, Instance, InstanceId, Invalid, Result, ServiceName};
use switchboard_selector::{Balancer, FailureKind, Pick, PickError, Selector};
use tokio::time::Instant;
use tracing::Span;

use crate::limits::Limits;
use crate::pick::{Verdict, address, finish, pick};
use crate::retry::Attempts;
use crate::{Options, Retry, TimedOut, span};

/// Calls services by whatever means there are: what the other adapters know of picking, trying again, time limits and verdicts,
/// for programs that speak to the instance themselves, such as proxies and clients of other protocols.
///
/// A call is a loop: [`attempt`](Call::attempt) picks, [`Attempt::wait`] keeps to the limits, and then either
/// [`answered`](Call::answered) ends it, or [`fail`](Call::fail) tells of the failure and [`again`](Call::again) whether to go on.
/// What may be sent twice only the program knows.
///
/// ```
/// use switchboard_client::{Caller, Options};
/// use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
/// use switchboard_selector::{FailureKind, Selector};
/// use switchboard_watcher::Directory;
/// use tokio::net::{TcpListener, TcpStream};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let registry = MemoryRegistry::new();
/// let store = Instance::builder("store").address(listener.local_addr()?.to_string()).build()?;
/// registry.register(&store, &RegisterOptions::default()).await?;
///
/// let caller = Caller::new(Selector::new(Directory::new(registry)));
/// let mut call = caller.begin("store", Options::new())?;
/// let (stream, in_flight) = loop {
///     let attempt = call.attempt(true).await?;
///     let connect = TcpStream::connect(attempt.address().to_string());
///     let (kind, why) = match attempt.wait(async {}, connect).await {
///         Ok(Ok(stream)) => break (stream, call.answered(attempt)),
///         Ok(Err(error)) => (Some(FailureKind::Connection), error.to_string()),
///         Err(over) => (attempt.timeout(), over.to_string()),
///     };
///     call.fail(attempt, kind, why);
///     // Nobody was reached, so it may go on whatever it is.
///     if !call.again(false).await {
///         return Err(call.to_string().into());
///     }
/// };
/// drop(stream);
/// in_flight.finish(Ok(()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Caller {
    selector: Selector,
    retry: Retry,
    options: Options,
}

impl Caller {
    /// Picks by `selector`, with the defaults.
    pub fn new(selector: Selector) -> Self {
        Self { selector, retry: Retry::default(), options: Options::new() }
    }

    /// Replaces how often is tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Replaces what all calls want, where a call's own options say nothing. Default: nothing.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Begins a call to `service`; its time counts from now. Returns at once; the service need not exist (yet).
    ///
    /// # Errors
    ///
    /// Those of [`Selector::service`].
    pub fn begin<S>(&self, service: S, options: Options) -> Result<Call>
    where
        S: TryInto<ServiceName, Error: Into<Invalid>>,
    {
        let balancer = self.selector.service(service)?;
        let options = options.or(&self.options);
        let limits = options.limits(None);
        let balancer = options.balancer(&balancer);
        let attempts = self.retry.begin(balancer.service(), &options);
        let span = span::Call::new(balancer.service());
        Ok(Call { balancer, options, limits, attempts, span, failed: None })
    }
}

/// One call, which goes to one instance after the other until one answers. Displays why its attempts have failed, in a line.
pub struct Call {
    balancer: Balancer,
    options: Options,
    limits: Limits,
    attempts: Attempts,
    span: span::Call,
    /// Who failed last, and why.
    failed: Option<(InstanceId, String)>,
}

impl Call {
    /// The span of the call, to run it in.
    pub fn span(&self) -> Span {
        self.span.span()
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        self.balancer.service()
    }

    /// Picks an instance that was not tried, if there is one, and waits for the registry if nothing has been heard of the
    /// service, at most the directory's `ready_timeout`. `may_repeat` says whether the call may be sent twice: then one that finds
    /// out how an ejected instance is leaves half of its time to another.
    ///
    /// # Errors
    ///
    /// [`NotCalled`]: nobody can be picked, or the call's time is over.
    pub async fn attempt(&mut self, may_repeat: bool) -> std::result::Result<Attempt, NotCalled> {
        let tried = self.attempts.tried();
        match self.limits.wait(pick(&self.balancer, &self.options, tried)).await {
            Ok(Ok(pick)) => {
                self.span.attempt(pick.instance());
                let may_move = may_repeat && self.attempts.has_more() && pick.is_trial();
                let limits = if may_move { self.limits.of_trial() } else { self.limits };
                Ok(Attempt { pick, limits, began: Instant::now() })
            }
            Ok(Err(error)) => {
                self.span.not_picked();
                // It names the service.
                let is_first = self.attempts.failures.is_empty();
                let line = if is_first { error.to_string() } else { self.attempts.failures.line_and(&error) };
                Err(NotCalled::Pick { line, source: error })
            }
            Err(over) => {
                self.span.timed_out();
                Err(NotCalled::TimedOut { line: self.attempts.failures.line_and(&over), source: over })
            }
        }
    }

    /// Ends an attempt that has failed, for a reason of the instance's (`Some`) or another (`None`); `why` is for people.
    pub fn fail(&mut self, attempt: Attempt, kind: Option<FailureKind>, why: impl Into<String>) {
        let why = why.into();
        let instance = attempt.pick.instance();
        self.attempts.failures.note(instance, why.clone());
        self.failed = Some((instance.id().clone(), why));
        self.judge(attempt.pick, kind.map(Err));
    }

    /// After a failure on a call that may be sent again: whether it should be, within the limits of [`Retry`]. Waits for the pause
    /// that comes before it. `reached` says whether there was a connection; without one nothing was sent.
    pub async fn again(&mut self, reached: bool) -> bool {
        let Some((id, why)) = self.failed.take() else { return false };
        let Self { balancer, options, limits, attempts, .. } = self;
        let has_other = |tried: &[InstanceId]| balancer.has_other(&options.request(tried));
        let again = attempts.again(&id, limits, reached, has_other).await;
        if again {
            tracing::debug!(service = %balancer.service(), instance = %id, why, "failed; trying another instance");
        }
        again
    }

    /// The instance has begun to answer, which is how long it takes: the attempt was the last.
    pub fn answered(self, attempt: Attempt) -> InFlight {
        let Attempt { mut pick, .. } = attempt;
        pick.responded();
        InFlight { pick, span: self.span }
    }

    fn judge(&mut self, pick: Pick, verdict: Verdict) {
        finish(pick, verdict);
        self.span.judged(verdict);
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attempts.failures.fmt(f)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("balancer", &self.balancer)
            .field("tried", &self.attempts.tried())
            .finish_non_exhaustive()
    }
}

/// An instance to call. Dropped without a word it is a call given up, as a dropped [`Pick`] is.
#[derive(Debug)]
pub struct Attempt {
    pick: Pick,
    limits: Limits,
    began: Instant,
}

impl Attempt {
    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        self.pick.instance()
    }

    /// Where to connect to: its first address without a scope, as URLs cannot say one, or else the first.
    pub fn address(&self) -> &Address {
        address(self.pick.instance())
    }

    /// Waits for `answer`: while the call lasts, and as long as an attempt may take ([`Options::per_try_timeout`]), by default
    /// 15 s from when the request was `sent`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`]: which of the two is over.
    pub async fn wait<F: Future>(
        &self,
        sent: impl Future<Output = ()>,
        answer: F,
    ) -> std::result::Result<F::Output, TimedOut> {
        self.limits.attempt(std::time::Duration::ZERO, sent, answer).await
    }

    /// What a time that is over says of the instance: nothing if most of the call's time had gone before this attempt.
    pub fn timeout(&self) -> Option<FailureKind> {
        self.limits.blames(self.began).then_some(FailureKind::Timeout)
    }
}

/// A call that is being answered: in flight until this is dropped, which says nothing more of the instance.
#[derive(Debug)]
pub struct InFlight {
    pick: Pick,
    span: span::Call,
}

impl InFlight {
    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        self.pick.instance()
    }

    /// Ends the call, and tells what came of it.
    pub fn finish(mut self, outcome: std::result::Result<(), FailureKind>) {
        self.pick.finish(outcome);
        self.span.judged(Some(outcome));
    }
}

/// Why no instance was called, in a line with those that were tried before and why each failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotCalled {
    /// None could be picked.
    #[error("{line}")]
    Pick {
        /// What is displayed.
        line: String,
        /// Why none could.
        source: PickError,
    },
    /// The call's time is over.
    #[error("{line}")]
    TimedOut {
        /// What is displayed.
        line: String,
        /// Which time it was.
        source: TimedOut,
    },
}
