use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use switchboard_core::Instance;
use switchboard_selector::{Balancer, FailureKind};
use tokio::time::Instant;
use tower::{Service, ServiceExt};
use tracing::Instrument;

use crate::Options;
use crate::connections::Connections;
use crate::pick::{finish, pick};
use crate::span::Call;
use crate::tower::CallError;

/// A service that picks an instance for each request and passes the request to the service for that instance.
///
/// The services are made by a function, kept while their instance is listed, and cloned for each request; so they should
/// be cheap to clone and connect when first used.
///
/// A request counts as in flight until its future is done or dropped. What came of it is told to the balancer: a response
/// is a success and an error a [`FailureKind::Connection`], unless [`classify`](Self::classify) says otherwise. A future
/// dropped early says something of the instance only after longer than usual, as a dropped
/// [`Pick`](switchboard_selector::Pick) does.
///
/// It is always ready: waiting for one instance would be waiting for the wrong one. A service that nothing has been heard
/// of yet is waited for in the call, at most the directory's `ready_timeout`.
///
/// What a request wants otherwise, such as its hash key or a time-out, is said by [`options`](Self::options). A request is
/// sent once, since it cannot be known whether it may be sent twice: tower's `retry` goes around this, and
/// [`Options::retries`] and [`Options::idempotent`] mean nothing here.
///
/// ```
/// use switchboard_client::tower::Balance;
/// use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
/// use switchboard_selector::Selector;
/// use switchboard_watcher::Directory;
/// use tower::{ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = MemoryRegistry::new();
/// let greeter = Instance::builder("greeter").address("127.0.0.1:8080").build()?;
/// registry.register(&greeter, &RegisterOptions::default()).await?;
///
/// let selector = Selector::new(Directory::new(registry));
/// let greeters = Balance::new(selector.service("greeter")?, |instance: &Instance| {
///     let address = instance.address().clone();
///     service_fn(move |name: &'static str| {
///         let answer = format!("{name} greeted by {address}");
///         async move { Ok::<_, std::io::Error>(answer) }
///     })
/// });
/// assert_eq!(greeters.oneshot("Ada").await?, "Ada greeted by 127.0.0.1:8080");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Balance<S, C = ErrorsFail, O = NoOptions> {
    balancer: Balancer,
    connections: Connections<S>,
    make: Arc<dyn Fn(&Instance) -> S + Send + Sync>,
    classify: C,
    options: O,
}

/// Says of a finished call what the balancer should learn.
///
/// Closures `Fn(&Result<T, E>) -> Option<Result<(), FailureKind>>` do.
pub trait Classify<T, E> {
    /// The verdict on `result`: the instance works, or how it failed; `None` if it says nothing of the instance, as when
    /// the caller's own body broke off.
    fn classify(&self, result: &Result<T, E>) -> Option<Result<(), FailureKind>>;

    /// Gets each response of `instance` before the caller does. Default: does nothing.
    fn answered(&self, response: &mut T, instance: &Arc<Instance>) {
        let _ = (response, instance);
    }
}

/// Puts the instance that has answered, an `Arc<Instance>`, into the extensions of HTTP responses, and classifies as `C`
/// does. Made by [`Balance::instance_in_extensions`].
#[derive(Clone, Copy, Debug, Default)]
pub struct InExtensions<C>(C);

impl<B, E, C: Classify<http::Response<B>, E>> Classify<http::Response<B>, E> for InExtensions<C> {
    fn classify(&self, result: &Result<http::Response<B>, E>) -> Option<Result<(), FailureKind>> {
        self.0.classify(result)
    }

    fn answered(&self, response: &mut http::Response<B>, instance: &Arc<Instance>) {
        response.extensions_mut().insert(instance.clone());
    }
}

/// Every response is a success, every error a [`FailureKind::Connection`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorsFail;

impl<T, E> Classify<T, E> for ErrorsFail {
    fn classify(&self, result: &Result<T, E>) -> Option<Result<(), FailureKind>> {
        Some(result.as_ref().map(drop).map_err(|_| FailureKind::Connection))
    }
}

impl<T, E, F: Fn(&Result<T, E>) -> Option<Result<(), FailureKind>>> Classify<T, E> for F {
    fn classify(&self, result: &Result<T, E>) -> Option<Result<(), FailureKind>> {
        self(result)
    }
}

/// Says what a request wants otherwise.
///
/// Closures `Fn(&R) -> Options` do.
pub trait OptionsOf<R> {
    /// The options of `request`.
    fn options(&self, request: &R) -> Options;
}

/// No request wants anything otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOptions;

impl<R> OptionsOf<R> for NoOptions {
    fn options(&self, _: &R) -> Options {
        Options::new()
    }
}

/// The [`Options`] in an HTTP request's extensions.
#[derive(Clone, Copy, Debug, Default)]
pub struct FromExtensions;

impl<B> OptionsOf<http::Request<B>> for FromExtensions {
    fn options(&self, request: &http::Request<B>) -> Options {
        request.extensions().get().cloned().unwrap_or_default()
    }
}

impl<R, F: Fn(&R) -> Options> OptionsOf<R> for F {
    fn options(&self, request: &R) -> Options {
        self(request)
    }
}

impl<S: Clone + Send + Sync + 'static> Balance<S> {
    /// Balances by `balancer`; `make` gives the service for an instance.
    pub fn new(balancer: Balancer, make: impl Fn(&Instance) -> S + Send + Sync + 'static) -> Self {
        let connections = Connections::new(balancer.view());
        Self { balancer, connections, make: Arc::new(make), classify: ErrorsFail, options: NoOptions }
    }
}

impl<S, C, O> Balance<S, C, O> {
    /// Replaces what is learned of a result.
    pub fn classify<D>(self, classify: D) -> Balance<S, D, O> {
        let Self { balancer, connections, make, classify: _, options } = self;
        Balance { balancer, connections, make, classify, options }
    }

    /// Tells with each HTTP response which instance it is of: `response.extensions().get::<Arc<Instance>>()`. To be said after
    /// [`classify`](Self::classify).
    pub fn instance_in_extensions(self) -> Balance<S, InExtensions<C>, O> {
        let Self { balancer, connections, make, classify, options } = self;
        Balance { balancer, connections, make, classify: InExtensions(classify), options }
    }

    /// Replaces what a request wants otherwise. Default: nothing.
    ///
    /// ```
    /// # use switchboard_client::Options;
    /// # use switchboard_client::tower::Balance;
    /// # async fn example(balancer: switchboard_selector::Balancer) {
    /// # let echo = |_: &switchboard_core::Instance| {
    /// #     tower::service_fn(|user: String| async move { Ok::<_, std::io::Error>(user) })
    /// # };
    /// let by_user = Balance::new(balancer, echo).options(|user: &String| Options::new().key(user));
    /// # let _ = by_user;
    /// # }
    /// ```
    pub fn options<P>(self, options: P) -> Balance<S, C, P> {
        let Self { balancer, connections, make, classify, options: _ } = self;
        Balance { balancer, connections, make, classify, options }
    }

    /// The balancer beneath.
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// How many instances there is a service for now.
    pub fn connected(&self) -> usize {
        self.connections.len()
    }
}

impl<S, C, O, R> Service<R> for Balance<S, C, O>
where
    S: Service<R> + Clone + Send + Sync + 'static,
    S::Error: Send,
    S::Response: Send,
    S::Future: Send,
    C: Classify<S::Response, S::Error> + Clone + Send + Sync + 'static,
    O: OptionsOf<R> + Clone + Send + Sync + 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = CallError<S::Error>;
    type Future = BoxFuture<'static, Result<S::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let Self { balancer, connections, make, classify, options } = self.clone();
        let mut call = Call::new(balancer.service());
        let span = call.span();
        let calling = async move {
            let options = options.options(&request);
            let limits = options.limits(None);
            let picked = match limits.wait(pick(&options.balancer(&balancer), &options, &[])).await {
                Ok(Ok(picked)) => picked,
                Ok(Err(error)) => {
                    call.not_picked();
                    return Err(CallError::Pick(error));
                }
                Err(source) => {
                    call.timed_out();
                    let service = balancer.service().clone();
                    return Err(CallError::TimedOut { service, instance: None, source });
                }
            };
            let instance = picked.instance().clone();
            call.attempt(&instance);
            let Ok(service) = connections.get(&instance, |instance| Ok::<_, Infallible>(make(instance)));
            let began = Instant::now();
            let result = limits.attempt(Duration::ZERO, ready(()), service.oneshot(request)).await;
            let verdict = match &result {
                Ok(result) => classify.classify(result),
                Err(_) => limits.blames(began).then_some(Err(FailureKind::Timeout)),
            };
            finish(picked, verdict);
            call.judged(verdict);
            match result {
                Ok(Ok(mut response)) => {
                    classify.answered(&mut response, &instance);
                    Ok(response)
                }
                Ok(Err(source)) => Err(CallError::Call { instance, source }),
                Err(source) => {
                    let service = balancer.service().clone();
                    Err(CallError::TimedOut { service, instance: Some(instance), source })
                }
            }
        };
        Box::pin(calling.instrument(span))
    }
}

impl<S, C: fmt::Debug, O> fmt::Debug for Balance<S, C, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance")
            .field("balancer", &self.balancer)
            .field("connections", &self.connections)
            .field("classify", &self.classify)
            .finish_non_exhaustive()
    }
}
