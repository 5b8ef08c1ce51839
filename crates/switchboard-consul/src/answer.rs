//! What agents answer, and what that means.

use reqwest::StatusCode;
use switchboard_core::{Error, ErrorKind, Result};

use crate::BACKEND;

/// What an agent answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// `X-Consul-Index`, if it is a number.
    pub(crate) index: Option<u64>,
    /// `X-Consul-Results-Filtered-By-ACLs`
    pub(crate) filtered: bool,
    pub(crate) body: Vec<u8>,
    /// Who answered.
    pub(crate) agent: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether the agent cannot have acted on the request.
    pub(crate) untouched: bool,
    /// Whether an agent did answer, with an error.
    pub(crate) answered: bool,
}

impl Answer {
    /// The answer if it is a success, else what its status means.
    pub(crate) fn success(self, operation: &'static str) -> Result<Self> {
        if self.status == StatusCode::OK { Ok(self) } else { Err(self.refusal(operation)) }
    }

    /// What an answer that is no success means.
    pub(crate) fn refusal(&self, operation: &'static str) -> Error {
        let said = self.said();
        let enterprise = ["\"ns\"", "\"partition\"", "Enterprise"].iter().any(|word| said.contains(word));
        let kind = match self.status.as_u16() {
            401 | 403 => ErrorKind::PermissionDenied,
            400 if enterprise => ErrorKind::Unsupported,
            400 => ErrorKind::Invalid,
            // A filter that does not parse; it never will.
            500 if said.contains("boolean expression") || said.contains("Failed to create") => {
                ErrorKind::Invalid
            }
            429 | 500..=599 => ErrorKind::Unavailable,
            _ => ErrorKind::Protocol,
        };
        let message = format!("{} answered {}: {said}", self.agent, self.status.as_u16());
        Error::new(kind, BACKEND, operation, message)
    }

    /// An answer whose content is not what the API promises.
    pub(crate) fn malformed(&self, operation: &'static str, error: serde_json::Error) -> Error {
        let message = format!("{} answered with something else than Consul's JSON", self.agent);
        Error::new(ErrorKind::Protocol, BACKEND, operation, message).with_source(error)
    }

    /// The beginning of the body, fit for a line of text.
    pub(crate) fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(800)]);
        let line: String =
            text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
        if line.is_empty() { "(nothing)".into() } else { line }
    }
}
