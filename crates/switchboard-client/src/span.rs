//! The span of a call, with the names of OpenTelemetry's conventions where there are some.

use std::sync::Arc;

use switchboard_core::{Instance, ServiceName};
use switchboard_selector::FailureKind;
use tracing::Span;
use tracing::field::Empty;

use crate::pick::{Verdict, address};

/// Follows a call, and records what came of it when it is dropped.
#[derive(Debug)]
pub(crate) struct Call {
    span: Span,
    attempts: u32,
    instance: Option<Arc<Instance>>,
    outcome: &'static str,
}

impl Call {
    pub(crate) fn new(service: &ServiceName) -> Self {
        let span = tracing::info_span!(
            "call",
            otel.name = %format_args!("call {service}"),
            otel.kind = "client",
            otel.status_code = Empty,
            service.peer.name = %service,
            server.address = Empty,
            server.port = Empty,
            error.type = Empty,
            switchboard.instance.id = Empty,
            switchboard.attempts = Empty,
            switchboard.outcome = Empty,
        );
        Self { span, attempts: 0, instance: None, outcome: "abandoned" }
    }

    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    /// An attempt at this instance begins.
    pub(crate) fn attempt(&mut self, instance: &Arc<Instance>) {
        if !self.span.is_disabled() {
            self.attempts += 1;
            (self.instance, self.outcome) = (Some(instance.clone()), "abandoned");
        }
    }

    /// What came of the attempt.
    pub(crate) fn judged(&mut self, verdict: Verdict) {
        self.outcome = match verdict {
            Some(Ok(())) => "success",
            Some(Err(FailureKind::Connection)) => "connection",
            Some(Err(FailureKind::Timeout)) => "timeout",
            Some(Err(_)) => "response",
            None => "unjudged",
        };
    }

    /// The call ended without a pick.
    pub(crate) fn not_picked(&mut self) {
        self.outcome = "not_picked";
    }

    /// The call's time is over.
    pub(crate) fn timed_out(&mut self) {
        self.outcome = "timeout";
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Self { span, attempts, instance, outcome } = self;
        if span.is_disabled() {
            return;
        }
        if let Some(instance) = instance {
            let address = address(instance);
            span.record("switchboard.instance.id", instance.id().as_str());
            span.record("server.address", tracing::field::display(address.host()));
            span.record("server.port", address.port());
        }
        span.record("switchboard.attempts", *attempts);
        span.record("switchboard.outcome", *outcome);
        if *outcome != "success" {
            span.record("error.type", *outcome);
            span.record("otel.status_code", "ERROR");
        }
    }
}
