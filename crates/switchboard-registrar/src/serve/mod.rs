//! A server in one call: bound, advertised, registered, asked for its readiness, and ended in the right order.

use std::fmt;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use switchboard_core::{
    Error, ErrorKind, Instance, InstanceBuilder, IntoRegistry, Invalid, Registry, Result, ServiceName,
};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::{Registrar, Status, advertise_on, shutdown_signal};

#[cfg(feature = "tonic")]
mod grpc;
#[cfg(feature = "axum")]
mod http;

/// Clients hear of a registration that has gone within this time: a blocking query of Consul's answers at once, and a goodbye
/// on mDNS counts after a second (RFC 6762, section 10.1).
const DRAIN: Duration = Duration::from_secs(1);

/// As Kubernetes' `terminationGracePeriodSeconds`, less what may have gone before.
const GRACE: Duration = Duration::from_secs(15);

/// Nobody presses Ctrl-C twice as fast.
const AT_ONCE: Duration = Duration::from_millis(200);

/// A server with a name: bound to an address, and registered for as long as it serves.
///
/// ```no_run
/// # #[cfg(feature = "axum")]
/// # mod hidden {
/// # use std::sync::Arc;
/// use axum::{Router, routing::get};
/// # use switchboard_core::Registry;
/// use switchboard_registrar::Serve;
///
/// # async fn example(registry: Arc<dyn Registry>) -> switchboard_core::Result<()> {
/// let app = Router::new().route("/", get(|| async { "hello" }));
/// Serve::bind(&registry, "hello", "0.0.0.0:0").await?.axum(app).await?;
/// registry.close().await
/// # }
/// # }
/// ```
///
/// [`axum`](Self::axum) and [`tonic`](Self::tonic) then
///
/// 1. take requests, and register when the check passes, if there is one;
/// 2. say whether the instance is ready ([`Status::is_ready`]): at `/ready`, or by gRPC's health service;
/// 3. on the [signal](shutdown_signal) to end are not ready any more, deregister, and serve on for the drain time;
/// 4. take no more requests, and finish those in flight.
///
/// At a second signal they return at once, whatever is in flight. One within 200 ms of the first is the same: coreutils' `timeout` sends
/// both to a program and to the group that it is in.
///
/// Dropping the future ends all at once; the instance is deregistered in the background.
#[must_use = "nothing is served until `axum` or `tonic` is called"]
pub struct Serve {
    listener: TcpListener,
    registry: Arc<dyn Registry>,
    instance: Instance,
    registrar: Box<dyn FnOnce(Registrar) -> Registrar + Send>,
    stop: BoxFuture<'static, io::Result<()>>,
    /// Ends what `stop` has begun.
    halt: BoxFuture<'static, io::Result<()>>,
    grace: Duration,
}

impl Serve {
    /// Listens on `address`, such as `0.0.0.0:0` or `127.0.0.1:8080`, for `service`. Port 0 is a free one.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it cannot listen there, `Invalid` for the name of the service and as [`advertise_on`] has it.
    pub async fn bind<S>(registry: impl IntoRegistry, service: S, address: impl ToString) -> Result<Self>
    where
        S: TryInto<ServiceName>,
        Invalid: From<S::Error>,
    {
        let address = address.to_string();
        if !address.contains(':') {
            let message = format!(
                "address {address:?} has no port; write {address}:8080, or {address}:0 for a free one"
            );
            return Err(Error::new(ErrorKind::Invalid, "registrar", "serve", message));
        }
        let listener = TcpListener::bind(&address).await;
        let listener =
            listener.map_err(|error| failed(format!("cannot listen on {address}: {error}"), error))?;
        Self::on(registry, service, listener).await
    }

    /// Takes over a socket that listens.
    ///
    /// # Errors
    ///
    /// `Invalid` for the name of the service and as [`advertise_on`] has it.
    pub async fn on<S>(registry: impl IntoRegistry, service: S, listener: TcpListener) -> Result<Self>
    where
        S: TryInto<ServiceName>,
        Invalid: From<S::Error>,
    {
        let service = service.try_into().map_err(|error| invalid(&error.into()))?;
        Self::new(registry.into_registry(), service, listener).await
    }

    async fn new(registry: Arc<dyn Registry>, service: ServiceName, listener: TcpListener) -> Result<Self> {
        let bound = listener.local_addr().map_err(|error| failed("the socket has no address", error))?;
        let address = advertise_on(&*registry, bound).await.map_err(|error| invalid(&error))?;
        let instance =
            Instance::builder(service).address(&address).build().map_err(|error| invalid(&error))?;
        Ok(Self {
            listener,
            registry,
            instance,
            registrar: Box::new(|registrar| registrar.drain(DRAIN)),
            stop: shutdown_signal().boxed(),
            halt: second_signal().boxed(),
            grace: GRACE,
        })
    }

    /// What will be registered: with the address that others reach it by, and an id at random.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Changes what will be registered: id, version, metadata, tags, weight, addresses.
    ///
    /// # Errors
    ///
    /// `Invalid` as [`InstanceBuilder::build`] has it.
    pub fn describe(mut self, by: impl FnOnce(InstanceBuilder) -> InstanceBuilder) -> Result<Self> {
        self.instance = by(self.instance.to_builder()).build().map_err(|error| invalid(&error))?;
        Ok(self)
    }

    /// Sets how it is registered: check, intervals, limits, drain. Default: the registrar's, but a drain time of 1 s.
    pub fn registrar(mut self, by: impl FnOnce(Registrar) -> Registrar + Send + 'static) -> Self {
        let before = self.registrar;
        self.registrar = Box::new(|registrar| by(before(registrar)));
        self
    }

    /// Ends when this does, in place of a [signal](shutdown_signal) to the process, of which then not even a second one counts.
    pub fn until(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        self.stop = stop.map(Ok).boxed();
        self.halt = pending().boxed();
        self
    }

    /// How long requests in flight may take at the end, after the drain time. Default 15 s, so that all of it fits into the 30 s
    /// that Kubernetes waits.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Runs the server that `serve` makes of the listener, the status, and the end of requests.
    async fn run<F, E>(
        self,
        serve: impl FnOnce(TcpListener, watch::Receiver<Status>, BoxFuture<'static, ()>) -> F,
    ) -> Result<()>
    where
        F: Future<Output = std::result::Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self { listener, registry, instance, registrar, mut stop, halt, grace } = self;
        let registrar = registrar(Registrar::new(&registry, instance));
        let limit = registrar.start_limit;
        let running = registrar.start_in_background()?;
        let (tell, told) = oneshot::channel::<()>();
        let mut server = pin!(serve(listener, running.watch_status(), told.map(drop).boxed()));

        // It serves before it is registered, as its check may call it.
        let given_up = {
            let started = pin!(running.started(limit));
            match select(&mut server, select(started, &mut stop)).await {
                Either::Left((served, _)) => Some(over(served)),
                Either::Right((Either::Left((started, _)), _)) => started.err().map(Err),
                Either::Right((Either::Right((asked, _)), _)) => Some(signalled(asked)),
            }
        };
        if let Some(result) = given_up {
            running.give_up().await;
            return result;
        }
        let asked = match select(&mut server, stop).await {
            Either::Left((served, _)) => {
                let left = running.shutdown().await;
                return over(served).and(left);
            }
            Either::Right((asked, _)) => asked,
        };
        let ending = async {
            // Those who have not heard yet are served.
            let (left, served) = match select(&mut server, pin!(running.shutdown())).await {
                Either::Left((served, leaving)) => (leaving.await, Some(served)),
                Either::Right((left, _)) => (left, None),
            };
            drop(tell);
            let served = match served {
                None => timeout(grace, server).await.ok(),
                served => served,
            };
            if served.is_none() {
                tracing::warn!(?grace, "requests are cut off that have not ended in time");
            }
            served.map_or(Ok(()), over).and(signalled(asked)).and(left)
        };
        match select(pin!(ending), halt).await {
            Either::Left((ended, _)) => ended,
            Either::Right((asked, _)) => signalled(asked).and(Err(halted())),
        }
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("instance", &self.instance)
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

fn over<E: Into<Box<dyn std::error::Error + Send + Sync>>>(served: std::result::Result<(), E>) -> Result<()> {
    served.map_err(|error| {
        let error = error.into();
        failed(format!("the server has ended: {error}"), error)
    })
}

/// Begun when the first has come.
async fn second_signal() -> io::Result<()> {
    tokio::time::sleep(AT_ONCE).await;
    shutdown_signal().await
}

fn signalled(asked: io::Result<()>) -> Result<()> {
    asked.map_err(|error| failed(format!("cannot wait for signals: {error}"), error))
}

fn halted() -> Error {
    let message =
        "asked to end a second time, before the instance was deregistered and all requests had ended";
    Error::new(ErrorKind::Unavailable, "registrar", "serve", message)
}

fn failed(message: impl Into<String>, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unavailable, "registrar", "serve", message.into()).with_source(error)
}

fn invalid(invalid: &Invalid) -> Error {
    Error::invalid("registrar", "serve", invalid)
}
