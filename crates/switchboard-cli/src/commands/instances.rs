//! `instances`: the instances of one service, healthy first.

use std::process::ExitCode;
use std::sync::Arc;

use switchboard::Instance;

use crate::args;
use crate::failure::Failure;
use crate::output::{self, InstanceJson, Listing, Look};
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

pub(crate) async fn run(session: &Session, args: &args::Instances) -> Result<ExitCode, Failure> {
    let registry = session.connect().await?;
    let snapshot = session.limited("lookup", registry.lookup(&args.service)).await?;
    output::warn_of_part(&registry, std::slice::from_ref(&snapshot));
    let wanted = |instance: &&Arc<Instance>| {
        args.filter.accepts(instance) && (!args.healthy || instance.health().is_healthy())
    };
    let mut found: Vec<&Arc<Instance>> = snapshot.all().iter().filter(wanted).collect();
    // The sort is stable: those of one health stay sorted by id.
    found.sort_by_key(|instance| instance.health());
    if session.json {
        let json: Vec<InstanceJson<'_>> = found.iter().map(|instance| (&***instance).into()).collect();
        output::json(&json)?;
    } else if found.is_empty() {
        let known = match snapshot.len() {
            0 => "no instance".into(),
            known => format!("none of the {known} instances matches"),
        };
        output::note(&format!("service {:?}: {known} at {registry}", args.service.as_str()));
    } else {
        let wide = args.output == Some(args::Format::Wide);
        list(&found, wide).print()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(instances: &[&Arc<Instance>], wide: bool) -> Listing {
    let several = |text: String| if wide { text } else { output::cut(text, WIDEST) };
    let heads = ["ID", "HEALTH", "ADDRESS", "VERSION", "WEIGHT", "TAGS", "METADATA", "ENDPOINTS", "WHY"];
    let mut listing = Listing::new(&heads);
    let weighted = instances.iter().any(|instance| instance.weight().get() != 1);
    for instance in instances {
        let metadata = instance.metadata().iter().map(|(key, value)| format!("{key}={value}"));
        let cells = vec![
            instance.id().to_string(),
            instance.health().to_string(),
            output::list(instance.addresses()),
            instance.version().unwrap_or_default().to_owned(),
            if weighted { instance.weight().to_string() } else { String::new() },
            several(output::list(instance.tags())),
            several(output::list(metadata)),
            several(output::list(instance.endpoints().iter().map(|endpoint| &endpoint.name))),
            output::why(instance),
        ];
        listing.row(Look::of(instance.health()), cells);
    }
    listing
}
