//! What `/metrics` says; docs/cli.md tells of it.

use metrics::{Unit, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use switchboard::Health;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::world::World;

const SERVICES: &str = "switchboard.serve.services";
const INSTANCES: &str = "switchboard.serve.instances";
const OUTAGE: &str = "switchboard.serve.stale_since";
const STREAMS: &str = "switchboard.serve.event_streams";

/// What the libraries of this process count, and how the world is.
#[derive(Clone)]
pub(crate) struct Measured {
    libraries: PrometheusHandle,
}

impl Measured {
    /// From now on the libraries are listened to.
    pub(crate) fn install() -> Result<Self, Failure> {
        let recorder = recorder();
        let libraries = recorder.handle();
        metrics::set_global_recorder(recorder)
            .map_err(|error| Failure::failed("cannot measure").because(&error))?;
        Ok(Self { libraries })
    }

    /// Of the world only.
    #[cfg(test)]
    pub(crate) fn alone() -> Self {
        Self { libraries: recorder().handle() }
    }

    /// In Prometheus' text format. The world is told anew each time, so that what has gone leaves nothing behind.
    pub(crate) fn render(&self, world: &World, streams: usize) -> String {
        let recorder = recorder();
        metrics::with_local_recorder(&recorder, || tell(world, streams));
        recorder.handle().render() + &self.libraries.render()
    }
}

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new().with_recommended_naming(true).build_recorder()
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn tell(world: &World, streams: usize) {
    describe_gauge!(SERVICES, Unit::Count, "Services that have instances.");
    gauge!(SERVICES).set(world.services.len() as f64);
    describe_gauge!(INSTANCES, Unit::Count, "Instances by what the registry says of their health.");
    for (service, instances) in &world.services {
        for health in [Health::Passing, Health::Warning, Health::Critical, Health::Maintenance] {
            let count = instances.values().filter(|instance| instance.health() == health).count();
            let labels = [("service", service.to_string()), ("health", health.to_string())];
            gauge!(INSTANCES, &labels).set(count as f64);
        }
    }
    describe_gauge!(OUTAGE, Unit::Seconds, "When the registry ceased to be heard; 0 while it is heard.");
    gauge!(OUTAGE).set(world.trouble().map_or(0.0, |(since, _)| moment(*since)));
    describe_gauge!(STREAMS, Unit::Count, "Pages and others that follow the changes.");
    gauge!(STREAMS).set(streams as f64);
}

/// In seconds since 1970.
#[allow(clippy::disallowed_types, reason = "a moment that others are told is one of the calendar's")]
fn moment(at: Instant) -> f64 {
    let ago = std::time::SystemTime::now().checked_sub(at.elapsed());
    let since = ago.and_then(|moment| moment.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0.0, |since| since.as_secs_f64())
}
