//! `maintenance`: takes an instance out of use without deregistering it, and back.

use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt as _;
use switchboard::{ErrorKind, Health, InstanceKey, SnapshotStream};
use tokio::time::timeout;

use crate::args::{self, OnOff};
use crate::commands::describe::unknown;
use crate::commands::done;
use crate::failure::Failure;
use crate::session::{Session, spinning};

/// So long it may take until it shows.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);

pub(crate) async fn run(session: &Session, args: &args::Maintenance) -> Result<ExitCode, Failure> {
    let registry = session.connect().await?;
    let key = InstanceKey::new(args.service.clone(), args.id.clone());
    let (reason, now) = match args.state {
        OnOff::On => (Some(args.reason.as_str()), "in maintenance"),
        OnOff::Off => (None, "out of maintenance"),
    };
    if let Err(error) = session.limited("set_maintenance", registry.set_maintenance(&key, reason)).await {
        // What is not there is told as by the other commands.
        if error.kind() == ErrorKind::Invalid {
            let found = session.limited("lookup", registry.lookup(&args.service)).await?;
            if found.get(&args.id).is_none() {
                return Err(unknown(&found, args.id.as_str(), &registry.to_string()));
            }
        }
        return Err(error.into());
    }
    // The next command of a script is to see it. That it does not show yet is no failure.
    let shown = until_shown(registry.watch(&args.service), &key, reason.is_some());
    let _ = timeout(SHOWN_WITHIN.min(session.timeout), spinning("waiting for it to show", shown)).await;
    done::say(session, &key, now, &format!("{key} is {now}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn until_shown(mut watch: SnapshotStream, key: &InstanceKey, on: bool) {
    loop {
        let Some(now) = watch.next().await else { return };
        let instance = now.ok().and_then(|now| now.get(key.id()).cloned());
        if instance.is_some_and(|instance| (instance.health() == Health::Maintenance) == on) {
            return;
        }
    }
}
