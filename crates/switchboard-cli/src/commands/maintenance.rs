//! `maintenance`: takes an instance out of use without deregistering it, and back.

use std::process::ExitCode;

use switchboard::InstanceKey;

use crate::args::{self, OnOff};
use crate::failure::Failure;
use crate::output::{self, Look};
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: &args::Maintenance) -> Result<ExitCode, Failure> {
    let registry = session.connect().await?;
    let key = InstanceKey::new(args.service.clone(), args.id.clone());
    let (reason, now) = match args.state {
        OnOff::On => (Some(args.reason.as_str()), "in maintenance"),
        OnOff::Off => (None, "out of maintenance"),
    };
    session.limited("set_maintenance", registry.set_maintenance(&key, reason)).await?;
    output::line(Look::Good, &output::clean(&format!("{key} is {now}")))?;
    Ok(ExitCode::SUCCESS)
}
