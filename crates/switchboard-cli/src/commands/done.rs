//! What is said of an instance to which something was done.

use serde::Serialize;
use switchboard::InstanceKey;

use crate::failure::Failure;
use crate::output::{self, Look};
use crate::session::Session;

#[derive(Serialize)]
struct Done<'a> {
    status: &'a str,
    service: &'a str,
    id: &'a str,
}

/// Says it: `status` for machines, and `text` for people, who are told nothing if it is empty.
pub(crate) fn say(session: &Session, key: &InstanceKey, status: &str, text: &str) -> Result<(), Failure> {
    if session.json {
        output::json(&Done { status, service: key.service().as_str(), id: key.id().as_str() })?;
    } else if !text.is_empty() {
        output::line(Look::Good, &output::clean(text))?;
    }
    Ok(())
}
