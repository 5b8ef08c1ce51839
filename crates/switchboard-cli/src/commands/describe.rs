//! `describe`: everything about a service, or about one of its instances.

use std::process::ExitCode;

use minijinja::value::{Serde, Value};
use serde::Serialize;
use switchboard::Snapshot;

use crate::args::{self, Format};
use crate::failure::Failure;
use crate::origin::Origins;
use crate::output::{self, InstanceJson, Look};
use crate::session::Session;
use crate::template::EachItem;
use crate::{details, listing};

#[derive(Serialize)]
struct Description<'a> {
    service: &'a str,
    registry: String,
    healthy: usize,
    instances: Vec<InstanceJson<'a>>,
}

/// Fails when there is nothing to describe: who asks for one thing has been told of it.
pub(crate) async fn run(session: &Session, args: &args::Describe) -> Result<ExitCode, Failure> {
    let format = listing::format(args.output.as_ref(), session)?;
    if let Some(other @ (Format::Wide | Format::Name)) = format {
        return Err(Failure::usage(format!(
            "-o {}: is for lists; describe has json, yaml, template",
            other.name()
        )));
    }
    let registry = session.connect().await?;
    let found = session.limited("lookup", registry.lookup(&args.service)).await?;
    output::warn_of_part(&registry, std::slice::from_ref(&found));
    let chosen = match &args.id {
        None if found.is_empty() => {
            let service = args.service.as_str();
            return Err(Failure::failed(format!("service {service:?}: no instance at {registry}")));
        }
        None => found.clone(),
        Some(id) => match found.get(id) {
            Some(instance) => Snapshot::new(args.service.clone(), [instance.clone()]),
            None => return Err(unknown(&found, id.as_str(), &registry.to_string())),
        },
    };
    let origins = Origins::of(session, &registry, Some(&args.service)).await;
    let known = chosen.all().iter().map(|instance| (&**instance, origins.get(&instance.key())));
    let description = Description {
        service: args.service.as_str(),
        registry: registry.to_string(),
        healthy: chosen.healthy().count(),
        instances: known
            .map(|(instance, registries)| InstanceJson::from(instance).known_at(registries))
            .collect(),
    };
    match format {
        None | Some(Format::Wide | Format::Name) => text(&description, &chosen, &origins)?,
        Some(Format::Template(template)) => {
            let text = EachItem::new(template)?.render(&Value::from(Serde(&description)))?;
            output::text(&format!("{text}\n"))?;
        }
        Some(structured) => listing::write(structured, &description)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// That there is no instance of this id, and which there are.
pub(crate) fn unknown(found: &Snapshot, id: &str, registry: &str) -> Failure {
    const SHOWN: usize = 5;
    let known: Vec<String> = found.all().iter().take(SHOWN).map(|known| known.id().to_string()).collect();
    let more = if found.len() > SHOWN { ", …" } else { "" };
    let known = if known.is_empty() {
        "there is none of it".into()
    } else {
        format!("there are: {}{more}", known.join(", "))
    };
    Failure::failed(format!("no {}/{id} at {registry}; {known}", found.service()))
}

fn text(description: &Description<'_>, chosen: &Snapshot, origins: &Origins) -> Result<(), Failure> {
    let of = match chosen.len() {
        1 => "1 instance".into(),
        several => format!("{several} instances"),
    };
    let Description { service, registry, healthy, .. } = description;
    output::line(Look::Plain, &output::clean(&format!("{service} at {registry}: {of}, {healthy} healthy")))?;
    for instance in chosen.all() {
        output::line(Look::Plain, "")?;
        output::line(Look::Heading, &output::clean(&instance.key().to_string()))?;
        for (look, line) in details::lines(instance) {
            output::line(look, &line)?;
        }
        if let Some(registries) = origins.get(&instance.key()) {
            let line = format!("{:<10} {}", "registry", output::clean(&registries.join(" and ")));
            output::line(Look::Plain, &line)?;
        }
    }
    Ok(())
}
