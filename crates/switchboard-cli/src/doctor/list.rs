//! Lists: is the file there, how old is it, and what is wrong with it?

use std::time::Duration;

use switchboard::lists::StaticRegistry;
use switchboard::{ErrorKind, Registry, RegistryUrl};

use super::Finding;
use crate::failure::Failure;

pub(crate) async fn examine(url: &RegistryUrl) -> Result<Vec<Finding>, Failure> {
    let registry = StaticRegistry::from_url(url)?;
    let mut findings = Vec::new();
    if let Some(path) = registry.path() {
        match std::fs::metadata(path) {
            Ok(about) => {
                let age = about.modified().map_or("of unknown age".to_owned(), age);
                let finding = format!("{} has {} bytes, {age}", path.display(), about.len());
                findings.push(Finding::ok("file", finding));
            }
            Err(error) => {
                let advice =
                    "see the path, and that this user may read it; a file that comes later is taken then";
                findings.push(Finding::problem("file", format!("{}: {error}", path.display()), advice));
                return Ok(findings);
            }
        }
    }
    findings.push(match registry.snapshots().await {
        Ok(services) => {
            let instances: usize = services.iter().map(switchboard::Snapshot::len).sum();
            Finding::ok("list", format!("instances: {instances}, of services: {}", services.len()))
        }
        Err(error) => {
            let advice = match error.kind() {
                ErrorKind::Protocol => {
                    "mend it there: running programs go on with what they read last, those that start have nothing; the keys are in docs/static.md"
                }
                _ => "see that it is a file, and that this user may read it",
            };
            Finding::problem("list", error.message().to_owned(), advice)
        }
    });
    Ok(findings)
}

#[allow(clippy::disallowed_types, reason = "a file's time is of the wall clock")]
fn age(modified: std::time::SystemTime) -> String {
    match modified.elapsed() {
        Ok(age) => {
            let age = Duration::from_secs(age.as_secs());
            format!("changed {} ago", humantime::format_duration(age))
        }
        Err(_) => "changed in the future, by this machine's clock".into(),
    }
}
