//! `context`: names for registries.

use std::process::ExitCode;

use serde::Serialize;

use crate::args::{self, ContextAction, Global};
use crate::contexts::{Contexts, check, without_credentials};
use crate::failure::Failure;
use crate::output::{self, Listing, Look};

#[derive(Serialize)]
struct Row {
    name: String,
    registry: Option<String>,
    current: bool,
}

pub(crate) fn run(global: &Global, args: &args::Context) -> Result<ExitCode, Failure> {
    let mut contexts = Contexts::load()?;
    match &args.action {
        ContextAction::List => list(global, &contexts)?,
        ContextAction::Current => match contexts.current() {
            Some(name) => output::line(Look::Plain, &output::clean(name))?,
            None => {
                return Err(Failure::failed("there is no current context; `switchboard context use NAME`"));
            }
        },
        ContextAction::Use { name } => contexts.make_current(name)?,
        ContextAction::Set { name, url } => {
            // What is wrong with it shows now, and not when it is needed.
            check(url)?;
            contexts.set(name, url)?;
        }
        ContextAction::Delete { name } => contexts.delete(name)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(global: &Global, contexts: &Contexts) -> Result<(), Failure> {
    let row = |(name, url): (&str, Option<&str>)| Row {
        name: name.into(),
        registry: url.map(without_credentials),
        current: contexts.current() == Some(name),
    };
    let rows: Vec<Row> = contexts.all().map(row).collect();
    if global.json {
        output::json(&rows)?;
    } else if rows.is_empty() {
        output::note("no contexts; `switchboard context set NAME URL` makes one");
    } else {
        let mut listing = Listing::new(&["NAME", "REGISTRY", "CURRENT"]);
        for Row { name, registry, current } in rows {
            let current = if current { "yes" } else { "" };
            listing.row(Look::Plain, vec![name, registry.unwrap_or_default(), current.into()]);
        }
        listing.print()?;
    }
    Ok(())
}
