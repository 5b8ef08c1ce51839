#![cfg(feature = "registrar")]

use serde::Deserialize;
use switchboard_registrar::Registrar;

use super::Time;

/// What can be set of a [`Registrar`]; each key is its method of the same name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the registrar has them")]
pub struct RegistrarSettings {
    pub interval: Option<Time>,
    pub ttl: Option<Time>,
    pub check_interval: Option<Time>,
    pub check_timeout: Option<Time>,
    pub unhealthy_after: Option<u32>,
    pub healthy_after: Option<u32>,
    pub withdraw: Option<bool>,
    pub start_limit: Option<Time>,
    pub drain: Option<Time>,
    pub shutdown_limit: Option<Time>,
}

impl RegistrarSettings {
    /// Sets these of `registrar`, as for [`Serve::registrar`](switchboard_registrar::Registrar).
    pub fn apply(&self, registrar: Registrar) -> Registrar {
        set!(
            self,
            registrar,
            [
                interval,
                ttl,
                check_interval,
                check_timeout,
                unhealthy_after,
                healthy_after,
                withdraw,
                start_limit,
                drain,
                shutdown_limit,
            ]
        )
    }
}
