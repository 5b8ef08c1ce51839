//! Why a call failed, in one line: the service, the instances that were tried, and why each of them failed.

#![allow(dead_code, reason = "each adapter uses a part of it")]

use std::error::Error;
use std::fmt;

use switchboard_core::{Address, Instance, InstanceId, ServiceName};

/// The attempts of a call that failed.
#[derive(Debug)]
pub(crate) struct Failures {
    service: ServiceName,
    attempts: Vec<(InstanceId, Address, String)>,
}

impl Failures {
    pub(crate) fn new(service: &ServiceName) -> Self {
        Self { service: service.clone(), attempts: Vec::new() }
    }

    /// One attempt.
    pub(crate) fn of(instance: &Instance, why: String) -> Self {
        let mut failures = Self::new(instance.service());
        failures.note(instance, why);
        failures
    }

    /// Notes why an attempt failed.
    pub(crate) fn note(&mut self, instance: &Instance, why: String) {
        self.attempts.push((instance.id().clone(), crate::pick::address(instance).clone(), why));
    }

    /// What there is to say of a call that ended with `error` between two attempts, or before the first.
    pub(crate) fn line_and(&self, error: &dyn Error) -> String {
        if self.attempts.is_empty() { format!("{self}{error}") } else { format!("{self}; then {error}") }
    }

    /// Whether no attempt has failed.
    pub(crate) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call to service {:?} failed: ", self.service)?;
        for (number, (id, address, why)) in self.attempts.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{id} at {address}: {why}")?;
        }
        Ok(())
    }
}

/// What is at the bottom of an error: HTTP clients say little above it that is not said anyway.
pub(crate) fn root(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
