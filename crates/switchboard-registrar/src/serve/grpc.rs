use std::future::pending;
use std::pin::pin;

use bytes::Bytes;
use futures::future::{Either, select};
use switchboard_core::Result;
use tokio::sync::watch;
use tokio::time::sleep_until;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::{Router, TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::{Layer, Service};

use super::Serve;
use crate::Status;

type Anything = Box<dyn std::error::Error + Send + Sync>;

impl Serve {
    /// Serves what `Server::builder().add_service(…)` of [tonic](https://docs.rs/tonic) has made, until the process is asked to
    /// end; see [`Serve`].
    ///
    /// Beside it is gRPC's health service: the whole server (`""`) and the service under its name in the registry are `SERVING`
    /// while the instance is registered or, where the platform registers, while its check passes, else `NOT_SERVING`.
    ///
    /// # Errors
    ///
    /// Those of [`Registrar::start`](crate::Registrar::start), and when the server ends by itself; else why the instance could
    /// not be deregistered.
    ///
    /// # Panics
    ///
    /// If the router has a health service already: tonic refuses a second one so.
    pub async fn tonic<L, B>(self, router: Router<L>) -> Result<()>
    where
        L: Layer<Routes>,
        L::Service: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        <L::Service as Service<http::Request<Body>>>::Future: Send,
        <L::Service as Service<http::Request<Body>>>::Error: Into<Anything> + Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Anything>,
    {
        let name = self.instance.service().to_string();
        let (reporter, health) = tonic_health::server::health_reporter();
        tell(&reporter, &name, false).await;
        self.run(|listener, status, stop| async move {
            let router = router.add_service(health);
            let serving = router.serve_with_incoming_shutdown(TcpIncoming::from(listener), stop);
            match select(pin!(serving), pin!(follow(reporter, name, status))).await {
                Either::Left((served, _)) => served,
                Either::Right((never, _)) => never,
            }
        })
        .await
    }
}

/// Tells for ever whether the instance is registered.
async fn follow<T>(reporter: HealthReporter, name: String, mut status: watch::Receiver<Status>) -> T {
    loop {
        let now = status.borrow_and_update().clone();
        tell(&reporter, &name, now.is_ready()).await;
        let lapses = async {
            match &now {
                Status::Registered { lapses: Some(lapses), .. }
                | Status::Failing { lapses: Some(lapses), .. }
                    if now.is_ready() =>
                {
                    sleep_until(*lapses).await;
                }
                _ => pending().await,
            }
        };
        if let Either::Left((Err(_), _)) = select(pin!(status.changed()), pin!(lapses)).await {
            return pending().await;
        }
    }
}

async fn tell(reporter: &HealthReporter, name: &str, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in ["", name] {
        reporter.set_service_status(name, status).await;
    }
}
