//! `watch`: each change as it happens.

use std::collections::BTreeMap;
use std::process::ExitCode;

use futures::StreamExt;
use serde::Serialize;
use switchboard::{Change, Error, ErrorKind, Instance, ServiceName};

use crate::args;
use crate::failure::{Failure, chain};
use crate::network::{Event, Network};
use crate::output::{self, InstanceJson, Look};
use crate::session::Session;

#[derive(Serialize)]
struct Line<'a> {
    change: &'static str,
    service: &'a str,
    id: &'a str,
    /// As it is now, or was last.
    instance: InstanceJson<'a>,
}

pub(crate) async fn run(session: &Session, args: &args::Watch) -> Result<ExitCode, Failure> {
    let registry = session.connect().await?;
    let mut network = match &args.service {
        Some(service) => Network::one(&registry, service.clone()),
        None => Network::all(&registry),
    };
    let mut outages = Outages::default();
    // Ends with the process: Ctrl-C leaves nothing behind that is not ended with it.
    while let Some(event) = network.next().await {
        match event {
            Event::Changed(change) => show(session, &change)?,
            Event::Heard(of) => outages.over(of.as_ref()),
            Event::Failed(of, error) => outages.begun(of, error)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(session: &Session, change: &Change) -> Result<(), Failure> {
    let instance: &Instance = change.instance();
    let (word, sign, look) = match change {
        Change::Added(_) => ("added", '+', Look::Good),
        Change::Updated { .. } => ("updated", '~', Look::Doubtful),
        Change::Removed(_) => ("removed", '-', Look::Bad),
    };
    let key = instance.key();
    if session.json {
        let (service, id) = (key.service().as_str(), key.id().as_str());
        output::json_line(&Line { change: word, service, id, instance: instance.into() })?;
        return Ok(());
    }
    output::line(look, &output::clean(&format!("{sign} {key}{}", about(change))))?;
    Ok(())
}

/// What there is to know of a change in the rest of a line.
pub(crate) fn about(change: &Change) -> String {
    let state = |instance: &Instance| {
        let version = instance.version().map(|version| format!(" version {version}")).unwrap_or_default();
        let why = output::why(instance);
        let why = if why.is_empty() { why } else { format!(", {why}") };
        format!(" at {}{version} {}{why}", output::list(instance.addresses()), instance.health())
    };
    match change {
        Change::Added(instance) => state(instance),
        Change::Removed(_) => String::new(),
        Change::Updated { old, new } if old.health() != new.health() => {
            format!("{} (was {})", state(new), old.health())
        }
        Change::Updated { new, .. } => state(new),
    }
}

/// Tells of each outage once, and when it is over.
#[derive(Debug, Default)]
struct Outages {
    now: BTreeMap<Option<ServiceName>, String>,
}

impl Outages {
    fn begun(&mut self, of: Option<ServiceName>, error: Error) -> Result<(), Failure> {
        if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Closed) {
            // Waiting does not cure these.
            return Err(error.into());
        }
        let said = chain(&error);
        if !self.now.values().any(|other| *other == said) {
            output::complain(&format!("{said} (what was heard last still stands)"));
        }
        self.now.insert(of, said);
        Ok(())
    }

    fn over(&mut self, of: Option<&ServiceName>) {
        let was = self.now.remove(&of.cloned());
        if was.is_some() && self.now.is_empty() {
            output::note("the registry is heard again");
        }
    }
}
