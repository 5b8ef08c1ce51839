//! What is measured of requests to agents; `docs/observability.md` tells of it.

use switchboard_core::metrics::{Counter, Metric};

use crate::answer::{Answer, Failure};

const REQUESTS: Metric = Metric::new(
    "switchboard.consul.requests",
    "Requests to agents, blocking queries among them, by what came of them.",
);

/// Made once for an agent.
#[derive(Debug)]
pub(crate) struct Metrics {
    success: Counter,
    refused: Counter,
    unanswered: Counter,
}

impl Metrics {
    pub(crate) fn new(agent: &str) -> Self {
        let requests = |outcome| REQUESTS.counter(&[("agent", agent), ("outcome", outcome)]);
        Self {
            success: requests("success"),
            refused: requests("refused"),
            unanswered: requests("unanswered"),
        }
    }

    pub(crate) fn answered(&self, sent: &Result<Answer, Failure>) {
        match sent {
            Ok(answer) if answer.status.is_success() => self.success.count(),
            Ok(_) => self.refused.count(),
            Err(_) => self.unanswered.count(),
        }
    }
}
