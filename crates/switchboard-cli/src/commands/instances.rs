//! `instances`: the instances of one service or of all, healthy first.

use std::process::ExitCode;
use std::sync::Arc;

use minijinja::value::{Serde, Value};
use serde::Serialize;
use switchboard::{Instance, Snapshot};

use crate::args::{self, Format};
use crate::failure::Failure;
use crate::listing::Item;
use crate::origin::Origins;
use crate::output::{self, InstanceItem, InstanceJson, Listing, Look};
use crate::session::Session;

/// One instance with many tags must not pad the rows of all.
const WIDEST: usize = 40;

impl args::InstanceFilter {
    pub(crate) fn accepts(&self, instance: &Instance) -> bool {
        self.version.as_deref().is_none_or(|version| instance.version() == Some(version))
            && self.tag.iter().all(|tag| instance.tags().contains(tag))
            && self.meta.iter().all(|(key, value)| instance.metadata().get(key) == Some(value))
    }
}

/// One instance in the list, and where it is known if there are several registries.
struct Row<'a> {
    instance: &'a Instance,
    registries: Option<&'a [String]>,
}

impl Serialize for Row<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        InstanceJson::from(self.instance).known_at(self.registries).serialize(serializer)
    }
}

/// What the list can be sorted by.
pub(crate) const FIELDS: &str = "service, id, health, address, version, weight, metadata.KEY";

impl Item for Row<'_> {
    const FIELDS: &'static str = FIELDS;

    fn name(&self) -> String {
        self.instance.key().to_string()
    }

    fn field(&self, field: &str) -> Option<String> {
        let instance = self.instance;
        Some(match field {
            "service" => instance.service().to_string(),
            "id" => instance.id().to_string(),
            // As good as it is, and not by the alphabet.
            "health" => (instance.health() as u8).to_string(),
            "address" => instance.address().to_string(),
            "version" => instance.version().unwrap_or_default().into(),
            "weight" => instance.weight().to_string(),
            _ => instance.metadata().get(field.strip_prefix("metadata.")?).cloned().unwrap_or_default(),
        })
    }

    fn value(&self) -> Value {
        Value::from(Serde(InstanceItem::from(self.instance).known_at(self.registries)))
    }
}

pub(crate) async fn run(session: &Session, args: &args::Instances) -> Result<ExitCode, Failure> {
    let format = args.list.format(session)?;
    let registry = session.connect().await?;
    let snapshots = match &args.service {
        Some(service) => vec![session.limited("lookup", registry.lookup(service)).await?],
        None => session.limited("instances", registry.snapshots()).await?,
    };
    output::warn_of_part(&registry, &snapshots);
    let wanted = |instance: &&Arc<Instance>| {
        args.filter.accepts(instance) && (!args.healthy || instance.health().is_healthy())
    };
    let origins = Origins::of(session, &registry, args.service.as_ref()).await;
    let mut found: Vec<Row<'_>> = snapshots
        .iter()
        .flat_map(Snapshot::all)
        .filter(wanted)
        .map(|instance| Row { instance, registries: origins.get(&instance.key()) })
        .collect();
    // The sort is stable: those of one health stay sorted by id.
    found.sort_by_key(|Row { instance, .. }| (instance.service(), instance.health()));
    args.list.sort(&mut found)?;
    if found.is_empty() && Format::is_for_people(format) {
        let known = match snapshots.iter().map(Snapshot::len).sum() {
            0 => "no instance".into(),
            1 => "the one instance does not match".into(),
            known => format!("none of the {known} instances matches"),
        };
        let of = args.service.as_ref().map(|service| format!("service {:?}: ", service.as_str()));
        output::note(&format!("{}{known} at {registry}", of.unwrap_or_default()));
    }
    args.list.print(format, &found, |rows, wide| table(rows, args.all, wide))?;
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row<'_>], all: bool, wide: bool) -> Listing {
    let several = |text: String| if wide { text } else { output::cut(text, WIDEST) };
    let heads = [
        "SERVICE",
        "ID",
        "HEALTH",
        "ADDRESS",
        "VERSION",
        "WEIGHT",
        "TAGS",
        "METADATA",
        "ENDPOINTS",
        "REGISTRY",
        "WHY",
    ];
    let mut listing = Listing::new(&heads);
    let weighted = rows.iter().any(|Row { instance, .. }| instance.weight().get() != 1);
    for Row { instance, registries } in rows {
        let metadata = instance.metadata().iter().map(|(key, value)| format!("{key}={value}"));
        let cells = vec![
            if all { instance.service().to_string() } else { String::new() },
            instance.id().to_string(),
            instance.health().to_string(),
            output::list(instance.addresses()),
            instance.version().unwrap_or_default().to_owned(),
            if weighted { instance.weight().to_string() } else { String::new() },
            several(output::list(instance.tags())),
            several(output::list(metadata)),
            several(output::list(instance.endpoints().iter().map(|endpoint| &endpoint.name))),
            registries.map(output::list).unwrap_or_default(),
            output::why(instance),
        ];
        listing.row(Look::of(instance.health()), cells);
    }
    listing
}
