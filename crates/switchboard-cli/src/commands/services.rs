//! `services`: names with instance counts.

use std::process::ExitCode;

use serde::Serialize;
use switchboard::{Namespace, Snapshot};

use crate::args::{self, Format};
use crate::failure::Failure;
use crate::listing::Item;
use crate::output::{self, Listing, Look};
use crate::session::Session;

#[derive(Serialize)]
struct Row<'a> {
    /// The name that it has outside of all namespaces.
    #[serde(skip)]
    whole: &'a str,
    /// With `--all-namespaces`; empty outside of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    name: &'a str,
    instances: usize,
    healthy: usize,
}

impl<'a> Row<'a> {
    fn new(snapshot: &'a Snapshot, by_namespace: bool) -> Self {
        let whole = snapshot.service().as_str();
        let (namespace, name) = if by_namespace {
            Namespace::split(whole).map_or((Some(""), whole), |(namespace, name)| (Some(namespace), name))
        } else {
            (None, whole)
        };
        Self { whole, namespace, name, instances: snapshot.len(), healthy: snapshot.healthy().count() }
    }
}

/// What the list can be sorted by.
pub(crate) const FIELDS: &str = "name, namespace, instances, healthy";

impl Item for Row<'_> {
    const FIELDS: &'static str = FIELDS;

    fn name(&self) -> String {
        // With its namespace: so the commands take it.
        self.whole.into()
    }

    fn field(&self, field: &str) -> Option<String> {
        match field {
            "name" => Some(self.name.into()),
            "namespace" => Some(self.namespace.unwrap_or_default().into()),
            "instances" => Some(self.instances.to_string()),
            "healthy" => Some(self.healthy.to_string()),
            _ => None,
        }
    }
}

pub(crate) async fn run(session: &Session, args: &args::Services) -> Result<ExitCode, Failure> {
    let format = args.list.format(session)?;
    let outside = args.all_namespaces.then(|| session.outside_namespaces());
    let session = outside.as_ref().unwrap_or(session);
    let registry = session.connect().await?;
    if args.all_namespaces && registry.to_string().contains("namespace=") {
        return Err(Failure::usage(format!(
            "--all-namespaces: {registry} is one namespace; leave out `namespace=`"
        )));
    }
    let found = session.limited("services", registry.snapshots()).await?;
    output::warn_of_part(&registry, &found);
    let mut rows: Vec<Row<'_>> = found.iter().map(|found| Row::new(found, args.all_namespaces)).collect();
    rows.sort_by_key(|row| row.namespace);
    args.list.sort(&mut rows)?;
    if found.is_empty() && Format::is_for_people(format) {
        output::note(&format!("no services at {registry}; `switchboard doctor` may know why"));
    }
    args.list.print(format, &rows, |rows, _| table(rows))?;
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row<'_>]) -> Listing {
    let mut listing = Listing::new(&["NAMESPACE", "SERVICE", "INSTANCES", "HEALTHY"]);
    for row in rows {
        let look = match row.healthy {
            0 => Look::Bad,
            some if some < row.instances => Look::Doubtful,
            _ => Look::Plain,
        };
        listing.row(
            look,
            vec![
                row.namespace.unwrap_or_default().into(),
                row.name.into(),
                row.instances.to_string(),
                row.healthy.to_string(),
            ],
        );
    }
    listing
}
