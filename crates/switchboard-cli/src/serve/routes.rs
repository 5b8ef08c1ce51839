//! What is answered to what is asked.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde::Serialize;
use switchboard::ServiceName;
use tokio::sync::Semaphore;

use super::access::{self, Access};
use super::board::States;
use super::events;
use super::measured::Measured;
use super::told::{ServiceJson, ServicesJson, Target};
use crate::world::World;

/// So many may follow the changes at once.
pub(crate) const STREAMS: usize = 64;

#[derive(Clone)]
struct App {
    states: States,
    /// One for each event stream.
    places: Arc<Semaphore>,
    measured: Measured,
}

pub(crate) fn app(states: States, access: Access, measured: Measured) -> Router {
    Router::new()
        .route("/", file("text/html", include_str!("page/index.html")))
        .route("/page.css", file("text/css", include_str!("page/page.css")))
        .route("/page.js", file("text/javascript", include_str!("page/page.js")))
        .route("/icon.svg", file("image/svg+xml", include_str!("page/icon.svg")))
        .route("/events", get(stream))
        .route("/api/services", get(services))
        .route("/api/services/{*name}", get(service))
        .route("/http_sd", get(http_sd))
        .route("/metrics", get(metrics))
        .fallback(nothing)
        .with_state(App { states, places: Arc::new(Semaphore::new(STREAMS)), measured })
        .layer(from_fn_with_state(Arc::new(access), access::check))
        .layer(from_fn(access::harden))
}

fn file(kind: &str, text: &'static str) -> MethodRouter<App> {
    let kind = format!("{kind}; charset=utf-8");
    get(async move || ([(CONTENT_TYPE, kind)], text))
}

async fn stream(State(app): State<App>) -> Response {
    let Ok(place) = app.places.try_acquire_owned() else {
        let why = format!("{STREAMS} follow the changes already, which is the limit\n");
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "10")], why).into_response();
    };
    ([(CONTENT_TYPE, "text/event-stream")], events::stream(app.states, place)).into_response()
}

async fn services(State(app): State<App>) -> Result<Response, Refusal> {
    Ok(json(&ServicesJson::from(&*app.known()?)))
}

async fn service(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let world = app.known()?;
    let Path(name) = name.map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.body_text()))?;
    if let Err(invalid) = ServiceName::new(&name) {
        return Err(Refusal(StatusCode::BAD_REQUEST, invalid.to_string()));
    }
    let known = ServiceJson::of(&world, &name);
    let known = known.ok_or_else(|| {
        Refusal(StatusCode::NOT_FOUND, format!("no service {name:?} is known at {}", world.registry))
    })?;
    Ok(json(&known))
}

async fn http_sd(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let world = app.known()?;
    let query = query.unwrap_or_default();
    let pairs = form_urlencoded::parse(query.as_bytes());
    let only: Vec<_> = pairs.filter(|(key, _)| key == "service").map(|(_, name)| name).collect();
    let is_wanted =
        |service: &ServiceName| only.is_empty() || only.iter().any(|name| name == service.as_str());
    let wanted = world.services.iter().filter(|(service, _)| is_wanted(service));
    let instances = wanted.flat_map(|(_, instances)| instances.values());
    Ok(json(&instances.map(|instance| Target::from(&**instance)).collect::<Vec<_>>()))
}

async fn metrics(State(app): State<App>) -> Response {
    let streams = STREAMS - app.places.available_permits();
    let text = app.measured.render(&app.states.borrow(), streams);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn nothing(uri: Uri) -> Response {
    let there = "there are /, /api/services, /api/services/NAME, /http_sd, /metrics and /events";
    (StatusCode::NOT_FOUND, format!("no {}: {there}\n", uri.path())).into_response()
}

impl App {
    /// What is known, if anything was heard: an error is never an empty list.
    fn known(&self) -> Result<Arc<World>, Refusal> {
        let world = self.states.borrow().clone();
        if world.heard {
            return Ok(world);
        }
        let why = world.trouble().map(|(_, why)| format!(": {why}")).unwrap_or_default();
        let why = format!("{} has not been heard yet{why}", world.registry);
        Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, why))
    }
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Why there is no answer, as JSON.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let text = serde_json::json!({ "error": self.1 }).to_string();
        (self.0, [(CONTENT_TYPE, "application/json")], text).into_response()
    }
}
