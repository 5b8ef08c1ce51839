//! `services`: names with instance counts.

use std::process::ExitCode;

use serde::Serialize;
use switchboard::Snapshot;

use crate::failure::Failure;
use crate::output::{self, Listing, Look};
use crate::session::Session;

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    instances: usize,
    healthy: usize,
}

impl<'a> From<&'a Snapshot> for Row<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        let healthy = snapshot.healthy().count();
        Self { name: snapshot.service().as_str(), instances: snapshot.len(), healthy }
    }
}

pub(crate) async fn run(session: &Session) -> Result<ExitCode, Failure> {
    let registry = session.connect().await?;
    let found = session.limited("services", registry.snapshots()).await?;
    output::warn_of_part(&registry, &found);
    if session.json {
        let rows: Vec<Row<'_>> = found.iter().map(Row::from).collect();
        output::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    if found.is_empty() {
        output::note(&format!("no services at {registry}; `switchboard doctor` may know why"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut listing = Listing::new(&["SERVICE", "INSTANCES", "HEALTHY"]);
    for snapshot in &found {
        let healthy = snapshot.healthy().count();
        let look = match healthy {
            0 => Look::Bad,
            some if some < snapshot.len() => Look::Doubtful,
            _ => Look::Plain,
        };
        listing
            .row(look, vec![snapshot.service().to_string(), snapshot.len().to_string(), healthy.to_string()]);
    }
    listing.print()?;
    Ok(ExitCode::SUCCESS)
}
