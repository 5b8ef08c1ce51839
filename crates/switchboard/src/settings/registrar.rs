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
    pub fn apply(&self, mut registrar: Registrar) -> Registrar {
        if let Some(Time(interval)) = self.interval {
            registrar = registrar.interval(interval);
        }
        if let Some(Time(ttl)) = self.ttl {
            registrar = registrar.ttl(ttl);
        }
        if let Some(Time(interval)) = self.check_interval {
            registrar = registrar.check_interval(interval);
        }
        if let Some(Time(limit)) = self.check_timeout {
            registrar = registrar.check_timeout(limit);
        }
        if let Some(failures) = self.unhealthy_after {
            registrar = registrar.unhealthy_after(failures);
        }
        if let Some(passes) = self.healthy_after {
            registrar = registrar.healthy_after(passes);
        }
        if let Some(withdraw) = self.withdraw {
            registrar = registrar.withdraw(withdraw);
        }
        if let Some(Time(limit)) = self.start_limit {
            registrar = registrar.start_limit(limit);
        }
        if let Some(Time(drain)) = self.drain {
            registrar = registrar.drain(drain);
        }
        if let Some(Time(limit)) = self.shutdown_limit {
            registrar = registrar.shutdown_limit(limit);
        }
        registrar
    }
}
