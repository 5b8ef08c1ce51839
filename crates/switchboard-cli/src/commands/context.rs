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

pub(crate) async fn run(global: &Global, args: &args::Context) -> Result<ExitCode, Failure> {
    let mut contexts = Contexts::load()?;
    match &args.action {
        ContextAction::List => list(global, &contexts)?,
        ContextAction::Current => current(global, &contexts)?,
        ContextAction::Use { name } => {
            contexts.make_current(name)?;
            done(global, "current", name, &format!("switched to context {name:?}"))?;
        }
        ContextAction::Set { name, url } => {
            // What is wrong with it shows now, and not when it is needed.
            check(url).await?;
            contexts.set(name, url)?;
            done(global, "set", name, &format!("set context {name:?} to {}", without_credentials(url)))?;
        }
        ContextAction::Rename { old, new } => {
            contexts.rename(old, new)?;
            done(global, "renamed", new, &format!("renamed context {old:?} to {new:?}"))?;
        }
        ContextAction::Delete { name } => {
            let was_current = contexts.current() == Some(name);
            contexts.delete(name)?;
            let none = if was_current { ", and no context is the current one now" } else { "" };
            done(global, "deleted", name, &format!("deleted context {name:?}{none}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What was done to a context.
#[derive(Serialize)]
struct Done<'a> {
    status: &'a str,
    name: &'a str,
}

fn done(global: &Global, status: &str, name: &str, text: &str) -> Result<(), Failure> {
    if global.json {
        output::json(&Done { status, name })?;
    } else {
        output::line(Look::Good, &output::clean(text))?;
    }
    Ok(())
}

fn rows(contexts: &Contexts) -> impl Iterator<Item = Row> {
    contexts.all().map(|(name, url)| Row {
        name: name.into(),
        registry: url.map(without_credentials),
        current: contexts.current() == Some(name),
    })
}

fn current(global: &Global, contexts: &Contexts) -> Result<(), Failure> {
    let Some(name) = contexts.current() else {
        return Err(Failure::failed("there is no current context; `switchboard context use NAME`"));
    };
    if global.json {
        let row = rows(contexts).find(|row| row.current);
        output::json(&row.unwrap_or_else(|| Row { name: name.into(), registry: None, current: true }))?;
    } else {
        output::line(Look::Plain, &output::clean(name))?;
    }
    Ok(())
}

fn list(global: &Global, contexts: &Contexts) -> Result<(), Failure> {
    let rows: Vec<Row> = rows(contexts).collect();
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
