//! Why a call failed that no instance has answered, as a status.

use std::sync::Arc;

use switchboard_selector::PickError;
use tonic::{Status, TimeoutExpired, transport};

use super::outcome::is_timeout;
use crate::TimedOut;

/// The call's time, or that of an attempt, is over.
pub(crate) fn timed_out(timed_out: TimedOut) -> Status {
    let mut status = Status::deadline_exceeded(timed_out.to_string());
    status.set_source(Arc::new(timed_out));
    status
}

pub(crate) fn no_instance(error: PickError) -> Status {
    let mut status = Status::unavailable(error.to_string());
    status.set_source(Arc::new(error));
    status
}

pub(crate) fn no_endpoint(error: transport::Error) -> Status {
    let mut status =
        Status::internal(format!("the settings of the channel do not fit the instance: {error}"));
    status.set_source(Arc::new(error));
    status
}

/// What came of an attempt instead of a response.
pub(crate) fn no_response(error: transport::Error) -> Status {
    if !is_timeout(&error) {
        return Status::from_error(error.into());
    }
    // tonic would have it CANCELLED.
    let mut status = Status::deadline_exceeded(TimeoutExpired(()).to_string());
    status.set_source(Arc::new(error));
    status
}
