//! What the proxy counts of itself, beside what the libraries do; `docs/cli.md` tells of it.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use switchboard::ServiceName;
use switchboard::metrics::{Counter, Durations, Level, Metric};
use tokio::time::Instant;

use crate::failure::Failure;

const REQUESTS: Metric = Metric::new("switchboard.proxy.requests", "Requests, by the class of the answer.");
const DURATION: Metric = Metric::new(
    "switchboard.proxy.request.duration",
    "Time from a request's head to the head of its answer.",
);
const REFUSED: Metric = Metric::new("switchboard.proxy.refused", "Requests for no known service.");
const CONNECTIONS: Metric = Metric::new("switchboard.proxy.connections", "Connections of clients.");
const TUNNELS: Metric = Metric::new(
    "switchboard.proxy.tunnels",
    "Connections that are passed through: upgraded ones, and those of --tcp.",
);

/// As OpenTelemetry advises for durations of HTTP, in seconds.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Histograms hold samples until then when nobody reads them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Has to be first: what is made before it is not measured.
pub(crate) fn install() -> Result<PrometheusHandle, Failure> {
    let builder = PrometheusBuilder::new().with_recommended_naming(true).set_buckets(&BUCKETS);
    let handle = builder.and_then(PrometheusBuilder::install_recorder);
    handle.map_err(|error| Failure::failed("cannot measure").because(&error))
}

pub(crate) async fn keep_up(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        handle.run_upkeep();
    }
}

/// Of one service.
#[derive(Debug)]
pub(crate) struct Measures {
    /// By the hundreds of the status, from 1xx on.
    answers: [Counter; 5],
    duration: Durations,
    tunnels: Arc<Gauge>,
}

impl Measures {
    pub(crate) fn new(service: &ServiceName) -> Self {
        let service = ("service", service.as_str());
        let answers =
            ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|code| REQUESTS.counter(&[service, ("code", code)]));
        let tunnels = Arc::new(Gauge(TUNNELS.level(&[service])));
        Self { answers, duration: DURATION.durations(&[service]), tunnels }
    }

    pub(crate) fn answered(&self, status: StatusCode, began: Instant) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        self.answers[class.min(4)].count();
        self.duration.took(began.elapsed().as_secs_f64());
    }

    pub(crate) fn tunnel(&self) -> OneOf {
        self.tunnels.clone().one_more()
    }
}

pub(crate) fn refused() -> Counter {
    REFUSED.counter(&[])
}

pub(crate) fn connections() -> Arc<Gauge> {
    Arc::new(Gauge(CONNECTIONS.level(&[])))
}

/// How many there are of something.
#[derive(Debug)]
pub(crate) struct Gauge(Level);

impl Gauge {
    pub(crate) fn one_more(self: Arc<Self>) -> OneOf {
        self.0.add(1);
        OneOf(self)
    }
}

/// One of what a gauge counts, until it is dropped.
#[derive(Debug)]
pub(crate) struct OneOf(Arc<Gauge>);

impl Drop for OneOf {
    fn drop(&mut self) {
        self.0.0.add(-1);
    }
}
