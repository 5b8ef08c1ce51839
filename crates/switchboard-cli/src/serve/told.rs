//! What is told of the world, in JSON.

use std::sync::Arc;

use serde::Serialize;
use switchboard::selector::Standing;
use switchboard::{Instance, InstanceId, ServiceName};
use tokio::time::Instant;

use crate::commands::watch::{about, sign};
use crate::output::{InstanceJson, Look, clean};
use crate::world::{Instances, News, World};

/// How the registry is heard, with everything.
#[derive(Serialize)]
pub(crate) struct Hearing<'a> {
    registry: &'a str,
    /// Set while something is not heard; what is told was told before.
    outage: Option<Outage<'a>>,
    /// Why nothing of others can be heard, though nothing fails.
    alone: Option<&'static str>,
}

#[derive(Serialize)]
struct Outage<'a> {
    for_seconds: u64,
    why: &'a str,
}

impl<'a> From<&'a World> for Hearing<'a> {
    fn from(world: &'a World) -> Self {
        let outage =
            world.trouble().map(|(since, why)| Outage { for_seconds: since.elapsed().as_secs(), why });
        Self { registry: &world.registry, outage, alone: world.alone }
    }
}

/// All services, with counts as `switchboard services` has them.
#[derive(Serialize)]
pub(crate) struct ServicesJson<'a> {
    #[serde(flatten)]
    hearing: Hearing<'a>,
    services: Vec<Count<'a>>,
}

#[derive(Serialize)]
struct Count<'a> {
    name: &'a str,
    instances: usize,
    healthy: usize,
}

impl<'a> From<&'a World> for ServicesJson<'a> {
    fn from(world: &'a World) -> Self {
        let count = |(name, instances): (&'a ServiceName, &Instances)| Count {
            name: name.as_str(),
            instances: instances.len(),
            healthy: instances.values().filter(|instance| instance.health().is_healthy()).count(),
        };
        Self { hearing: world.into(), services: world.services.iter().map(count).collect() }
    }
}

/// One service.
#[derive(Serialize)]
pub(crate) struct ServiceJson<'a> {
    #[serde(flatten)]
    hearing: Hearing<'a>,
    service: &'a str,
    instances: Vec<Standings<'a>>,
}

impl<'a> ServiceJson<'a> {
    /// Nothing where there is no such service.
    pub(crate) fn of(world: &'a World, service: &str) -> Option<Self> {
        let (name, instances) = world.services.get_key_value(service)?;
        let instances = instances.values().map(|instance| (&**instance).into()).collect();
        Some(Self { hearing: world.into(), service: name.as_str(), instances })
    }
}

/// An instance, and whether a selector picks it.
#[derive(Serialize)]
struct Standings<'a> {
    #[serde(flatten)]
    instance: InstanceJson<'a>,
    /// Why not; `None` for one that is picked.
    not_picked: Option<String>,
}

impl<'a> From<&'a Instance> for Standings<'a> {
    fn from(instance: &'a Instance) -> Self {
        // As a selector without filters has it that has made no calls.
        let unused = instance.effective_weight() == 0;
        let not_picked = unused.then(|| Standing::Unhealthy(instance.health()).to_string());
        Self { instance: instance.into(), not_picked }
    }
}

/// What one state of the world lacks, and the next one has.
#[derive(Serialize)]
struct Update<'a> {
    /// Whether it is all there is, and all that was told before counts no more.
    whole: bool,
    heard: bool,
    #[serde(flatten)]
    hearing: Hearing<'a>,
    /// Those that are new or another.
    instances: Vec<Standings<'a>>,
    /// Service and id of those that are gone.
    gone: Vec<(&'a ServiceName, &'a InstanceId)>,
    /// What happened, the latest first.
    news: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    time: String,
    look: &'static str,
    text: String,
}

/// What a reader who knows `old` has to be told of `new`; all of it for a reader who knows nothing.
pub(crate) fn update(old: Option<&World>, new: &World) -> serde_json::Result<String> {
    let told = old.map_or(0, |old| old.told);
    let untold = usize::try_from(new.told - told).unwrap_or(usize::MAX);
    serde_json::to_string(&Update {
        whole: old.is_none(),
        heard: new.heard,
        hearing: new.into(),
        instances: differing(new, old).map(|instance| (&**instance).into()).collect(),
        gone: old.map_or_else(Vec::new, |old| gone(old, new)),
        news: new.news.iter().take(untold).map(line).collect(),
    })
}

/// The instances of `new` that `old` does not have just so.
fn differing<'a>(new: &'a World, old: Option<&'a World>) -> impl Iterator<Item = &'a Arc<Instance>> {
    let services = new.services.iter().filter_map(move |(service, instances)| {
        let before = old.and_then(|old| old.services.get(service));
        let same = before.is_some_and(|before| Arc::ptr_eq(before, instances));
        (!same).then_some((instances, before))
    });
    services.flat_map(|(instances, before)| {
        let is_known = move |instance: &&Arc<Instance>| {
            let before = before.and_then(|before| before.get(instance.id()));
            !before.is_some_and(|before| Arc::ptr_eq(before, instance))
        };
        instances.values().filter(is_known)
    })
}

/// Those of `old` that are not in `new`.
fn gone<'a>(old: &'a World, new: &World) -> Vec<(&'a ServiceName, &'a InstanceId)> {
    let services = old.services.iter().filter_map(|(service, instances)| {
        let now = new.services.get(service);
        let same = now.is_some_and(|now| Arc::ptr_eq(now, instances));
        (!same).then_some((service, instances, now))
    });
    let ids = services.flat_map(|(service, instances, now)| {
        let is_gone = move |id: &&InstanceId| !now.is_some_and(|now| now.contains_key(*id));
        instances.keys().filter(is_gone).map(move |id| (service, id))
    });
    ids.collect()
}

fn line((at, news): &(Instant, Arc<News>)) -> Line {
    let (text, look) = match &**news {
        News::Change(change) => {
            let (sign, look) = sign(change);
            (format!("{sign} {}{}", change.instance().key(), about(change)), look)
        }
        News::Outage(why) => (format!("! not heard: {why}"), Look::Bad),
        News::Recovery(lasted) => (format!("* heard again, after {}s", lasted.as_secs()), Look::Good),
    };
    let look = match look {
        Look::Good => "good",
        Look::Doubtful => "doubtful",
        Look::Bad => "bad",
        Look::Plain | Look::Heading | Look::Faint => "plain",
    };
    Line { time: time(*at), look, text: clean(&text) }
}

/// The time of an event: in UTC, as RFC 3339 has it.
#[allow(clippy::disallowed_types, reason = "a time for people, from which nothing is reckoned")]
fn time(at: Instant) -> String {
    let now = std::time::SystemTime::now();
    humantime::format_rfc3339_seconds(now.checked_sub(at.elapsed()).unwrap_or(now)).to_string()
}

/// A target of Prometheus' HTTP service discovery, with what there is to know of it in labels as its own discoveries have
/// them: <https://prometheus.io/docs/prometheus/latest/http_sd/>.
#[derive(Serialize)]
pub(crate) struct Target<'a> {
    targets: [String; 1],
    labels: std::collections::BTreeMap<String, std::borrow::Cow<'a, str>>,
}

impl<'a> From<&'a Instance> for Target<'a> {
    fn from(instance: &'a Instance) -> Self {
        let mut labels = std::collections::BTreeMap::new();
        let mut label = |name: &str, value: std::borrow::Cow<'a, str>| {
            labels.insert(format!("__meta_switchboard_{name}"), value);
        };
        label("service", instance.service().as_str().into());
        label("id", instance.id().as_str().into());
        label("health", instance.health().to_string().into());
        if let Some(version) = instance.version() {
            label("version", version.into());
        }
        if !instance.tags().is_empty() {
            // With a comma around each, so that a pattern finds a whole one.
            let tags: Vec<&str> = instance.tags().iter().map(String::as_str).collect();
            label("tags", format!(",{},", tags.join(",")).into());
        }
        for (key, value) in instance.metadata() {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
            label(&format!("metadata_{}", key.chars().map(plain).collect::<String>()), value.into());
        }
        Self { targets: [instance.address().to_string()], labels }
    }
}
