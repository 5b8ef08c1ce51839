//! `services`: names with instance counts.

use std::process::ExitCode;

use serde::Serialize;
use switchboard::Snapshot;

use crate::args::{self, Format};
use crate::failure::Failure;
use crate::listing::Item;
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

impl Item for Row<'_> {
    const FIELDS: &'static str = "name, instances, healthy";

    fn name(&self) -> String {
        self.name.into()
    }

    fn field(&self, field: &str) -> Option<String> {
        match field {
            "name" => Some(self.name.into()),
            "instances" => Some(self.instances.to_string()),
            "healthy" => Some(self.healthy.to_string()),
            _ => None,
        }
    }
}

pub(crate) async fn run(session: &Session, args: &args::Services) -> Result<ExitCode, Failure> {
    let format = args.list.format(session)?;
    let registry = session.connect().await?;
    let found = session.limited("services", registry.snapshots()).await?;
    output::warn_of_part(&registry, &found);
    let mut rows: Vec<Row<'_>> = found.iter().map(Row::from).collect();
    args.list.sort(&mut rows)?;
    if found.is_empty() && Format::is_for_people(format) {
        output::note(&format!("no services at {registry}; `switchboard doctor` may know why"));
    }
    args.list.print(format, &rows, |rows, _| table(rows))?;
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row<'_>]) -> Listing {
    let mut listing = Listing::new(&["SERVICE", "INSTANCES", "HEALTHY"]);
    for row in rows {
        let look = match row.healthy {
            0 => Look::Bad,
            some if some < row.instances => Look::Doubtful,
            _ => Look::Plain,
        };
        listing.row(look, vec![row.name.into(), row.instances.to_string(), row.healthy.to_string()]);
    }
    listing
}
