use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use switchboard_core::Instance;
use switchboard_selector::{Balancer, FailureKind, Request};
use tower::{Service, ServiceExt};

use crate::connections::Connections;
use crate::pick::pick;
use crate::tower::CallError;

/// A service that picks an instance for each request and passes the request to the service for that instance.
///
/// The services are made by a function, kept while their instance is listed, and cloned for each request; so they should
/// be cheap to clone and connect when first used.
///
/// A request counts as in flight until its future is done or dropped. What came of it is told to the balancer: a response
/// is a success and an error a [`FailureKind::Connection`], unless [`classify`](Self::classify) says otherwise. A future
/// dropped early says nothing of the instance.
///
/// It is always ready: waiting for one instance would be waiting for the wrong one. A service that nothing has been heard
/// of yet is waited for in the call, at most the directory's `ready_timeout`.
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
pub struct Balance<S, C = ErrorsFail> {
    balancer: Balancer,
    connections: Connections<S>,
    make: Arc<dyn Fn(&Instance) -> S + Send + Sync>,
    classify: C,
}

/// Says of a finished call what the balancer should learn: the instance works, or how it failed.
///
/// Closures `Fn(&Result<T, E>) -> Result<(), FailureKind>` do.
pub trait Classify<T, E> {
    /// The verdict on `result`.
    ///
    /// # Errors
    ///
    /// How the instance failed.
    fn classify(&self, result: &Result<T, E>) -> Result<(), FailureKind>;
}

/// Every response is a success, every error a [`FailureKind::Connection`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorsFail;

impl<T, E> Classify<T, E> for ErrorsFail {
    fn classify(&self, result: &Result<T, E>) -> Result<(), FailureKind> {
        result.as_ref().map(drop).map_err(|_| FailureKind::Connection)
    }
}

impl<T, E, F: Fn(&Result<T, E>) -> Result<(), FailureKind>> Classify<T, E> for F {
    fn classify(&self, result: &Result<T, E>) -> Result<(), FailureKind> {
        self(result)
    }
}

impl<S: Clone + Send + Sync + 'static> Balance<S> {
    /// Balances by `balancer`; `make` gives the service for an instance.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn new(balancer: Balancer, make: impl Fn(&Instance) -> S + Send + Sync + 'static) -> Self {
        let connections = Connections::new(balancer.view());
        Self { balancer, connections, make: Arc::new(make), classify: ErrorsFail }
    }
}

impl<S, C> Balance<S, C> {
    /// Replaces what is learned of a result.
    pub fn classify<D>(self, classify: D) -> Balance<S, D> {
        let Self { balancer, connections, make, classify: _ } = self;
        Balance { balancer, connections, make, classify }
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

impl<S, C, R> Service<R> for Balance<S, C>
where
    S: Service<R> + Clone + Send + Sync + 'static,
    S::Error: Send,
    S::Response: Send,
    S::Future: Send,
    C: Classify<S::Response, S::Error> + Clone + Send + Sync + 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = CallError<S::Error>;
    type Future = BoxFuture<'static, Result<S::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let Self { balancer, connections, make, classify } = self.clone();
        Box::pin(async move {
            let picked = pick(&balancer, &Request::new()).await.map_err(CallError::Pick)?;
            let service = connections.get(picked.instance(), |instance| make(instance));
            let result = service.oneshot(request).await;
            picked.finish(classify.classify(&result));
            result.map_err(CallError::Call)
        })
    }
}

impl<S, C: fmt::Debug> fmt::Debug for Balance<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance")
            .field("balancer", &self.balancer)
            .field("connections", &self.connections)
            .field("classify", &self.classify)
            .finish_non_exhaustive()
    }
}
