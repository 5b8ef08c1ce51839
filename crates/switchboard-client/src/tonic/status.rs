//! Why a call failed that no instance has answered, as a status.

use std::error::Error;
use std::sync::Arc;

use switchboard_core::Instance;
use switchboard_selector::PickError;
use tonic::{Code, Status, transport};

use super::outcome::is_timeout;
use crate::TimedOut;
use crate::failures::Failures;

/// The call's time, or that of an attempt, is over.
pub(crate) fn timed_out(timed_out: TimedOut, line: String) -> Status {
    status(Code::DeadlineExceeded, line, timed_out)
}

pub(crate) fn no_instance(error: PickError, failures: &Failures) -> Status {
    // It names the service.
    let line = if failures.is_empty() { error.to_string() } else { failures.line_and(&error) };
    status(Code::Unavailable, line, error)
}

pub(crate) fn no_endpoint(error: transport::Error, instance: &Instance) -> Status {
    let why = format!("the settings of the channel do not fit the instance: {error}");
    status(Code::Internal, Failures::of(instance, why).to_string(), error)
}

/// What came of an attempt instead of a response.
pub(crate) fn no_response(error: transport::Error, line: String) -> Status {
    if is_timeout(&error) {
        // tonic would have it CANCELLED.
        return status(Code::DeadlineExceeded, line, error);
    }
    let told = Status::from_error(error.into());
    status(told.code(), line, told)
}

fn status(code: Code, line: String, source: impl Error + Send + Sync + 'static) -> Status {
    let mut status = Status::new(code, line);
    status.set_source(Arc::new(source));
    status
}
