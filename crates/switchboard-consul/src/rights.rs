//! Whether an answer without anything in it is the truth.
//!
//! Who may not read a service gets an empty answer. Consul 1.8 says no more, and later ones say nothing more to the
//! anonymous token, or in a blocking query during which the right was lost.

use std::time::Duration;

use reqwest::StatusCode;
use switchboard_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use crate::BACKEND;
use crate::client::{Client, Request, segment};
use crate::query::Query;

/// It is asked beside what is wanted, and the servers may not answer.
const WITHIN: Duration = Duration::from_secs(2);

/// Asks for a service's configuration, which takes the right to read the service and is refused in words
/// (<https://developer.hashicorp.com/consul/api-docs/config#get-configuration>).
///
/// # Errors
///
/// `PermissionDenied` if it is refused; whatever else goes wrong says nothing.
pub(crate) fn check<Q: Query>(
    client: &Client,
    operation: &'static str,
    query: &Q,
) -> impl Future<Output = Result<()>> + Send {
    let witness = query.witness().to_owned();
    let path = format!("/v1/config/service-defaults/{}", segment(&witness));
    let request = Request::get(path).query("stale", "").in_datacenter_of(query.request());
    async move {
        let answered = timeout(WITHIN, client.send_preferred(operation, &request)).await;
        let Ok(Ok(answer)) = answered else { return Ok(()) };
        if answer.status != StatusCode::FORBIDDEN {
            return Ok(());
        }
        let said = answer.said();
        let why = format!("Consul shows nothing, and may not be asked about the service {witness:?}: {said}");
        Err(denied(operation, &why))
    }
}

pub(crate) fn denied(operation: &'static str, why: &str) -> Error {
    Error::new(ErrorKind::PermissionDenied, BACKEND, operation, why.to_owned())
}
