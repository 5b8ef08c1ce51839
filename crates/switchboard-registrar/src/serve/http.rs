use std::net::SocketAddr;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use switchboard_core::Result;
use tokio::sync::watch;

use super::Serve;
use crate::Status;

impl Serve {
    /// Serves `app` with [axum](https://docs.rs/axum) until the process is asked to end; see [`Serve`].
    ///
    /// `GET /ready` answers 200 while the instance is registered or, where the platform registers, while its check passes, else
    /// 503, with the [`Status`] in words; a route of the app's own at this path is not reached. Handlers can extract the caller's `ConnectInfo<SocketAddr>`.
    ///
    /// # Errors
    ///
    /// Those of [`Registrar::start`](crate::Registrar::start), and when the server ends by itself; else why the instance could
    /// not be deregistered.
    pub async fn axum(self, app: Router) -> Result<()> {
        self.run(|listener, status, stop| {
            let answer = move |request: Request, next: Next| ready(status.clone(), request, next);
            let app = app.layer(from_fn(answer)).into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener, app).with_graceful_shutdown(stop).into_future()
        })
        .await
    }
}

async fn ready(status: watch::Receiver<Status>, request: Request, next: Next) -> Response {
    if request.uri().path() != "/ready" {
        return next.run(request).await;
    }
    let status = status.borrow().clone();
    let code = if status.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{status}\n")).into_response()
}
