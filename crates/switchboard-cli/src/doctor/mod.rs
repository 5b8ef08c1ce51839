//! `doctor`: why does nothing show up?

mod advice;
mod agent;
mod consul;
mod dns;
mod etcd;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod list;
mod mdns;
mod port;

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use switchboard::{ErrorKind, Namespace, RegistryUrl, ServiceName};

use crate::args;
use crate::failure::{Failure, chain};
use crate::origin::leaves;
use crate::output::{self, Look};
use crate::session::Session;

/// What was found out, and what to do about it.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    /// Of which registry, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<String>,
    check: &'static str,
    status: Status,
    #[serde(rename = "finding")]
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Problem,
}

impl Finding {
    fn ok(check: &'static str, finding: impl Into<String>) -> Self {
        Self { registry: None, check, status: Status::Ok, what: finding.into(), advice: None }
    }

    fn warning(check: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self { registry: None, check, status: Status::Warning, what: finding.into(), advice }
    }

    fn problem(check: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self { registry: None, check, status: Status::Problem, what: finding.into(), advice }
    }

    fn is_ok(&self) -> bool {
        self.status == Status::Ok
    }

    fn is_problem(&self) -> bool {
        self.status == Status::Problem
    }
}

/// Ends with 1 if there is a problem; warnings are none.
pub(crate) async fn run(session: &Session, args: &args::Doctor) -> Result<ExitCode, Failure> {
    let service = args.service.as_ref();
    let urls = session.urls()?;
    let mut parts = Vec::new();
    if urls.len() > 1 || urls.iter().any(|url| matches!(url.scheme(), "consul" | "etcd")) {
        // Nothing is sent to these yet. A URL with a mistake in it ends here, before any of it is shown.
        parts = leaves(&session.connect().await?);
    }
    let mut findings = Vec::new();
    for (at, url) in urls.into_iter().enumerate() {
        let of = parts.get(at).map(ToString::to_string);
        let found = examine(url, service, session.timeout).await?;
        findings.extend(found.into_iter().map(|finding| Finding { registry: of.clone(), ..finding }));
    }
    // What is known to be broken below would only be said again, and cost its time limit; of several, others may do.
    if !parts.is_empty() || !findings.iter().any(Finding::is_problem) {
        findings.push(registry(session, service).await);
    }
    if session.json {
        output::json(&findings)?;
    } else {
        show(&findings)?;
    }
    Ok(if findings.iter().any(Finding::is_problem) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What there is to say of one registry that no other backend has.
async fn examine(
    mut url: RegistryUrl,
    service: Option<&ServiceName>,
    limit: Duration,
) -> Result<Vec<Finding>, Failure> {
    let namespace = url.take("namespace")?;
    // What it is called in the registry.
    let service = match (namespace, service) {
        (Some(namespace), Some(service)) => Some(Namespace::join(&namespace, service)?),
        (_, service) => service.cloned(),
    };
    let service = service.as_ref();
    Ok(match url.scheme() {
        "mdns" => mdns::examine(&url).await,
        "consul" => consul::examine(&url, service, limit).await,
        "dns" => dns::examine(&url, service).await?,
        "static" | "file" => list::examine(&url).await?,
        "etcd" => etcd::examine(&url, service, limit).await,
        #[cfg(feature = "kubernetes")]
        "kubernetes" => kubernetes::examine(&url, service, limit).await,
        _ => Vec::new(),
    })
}

/// The whole way, as any other command goes it.
async fn registry(session: &Session, service: Option<&ServiceName>) -> Finding {
    let failed = |said: String| {
        Finding::problem("registry", said, "this is what every other command meets; -v says more")
    };
    let registry = match session.connect().await {
        Ok(registry) => registry,
        Err(failure) => return failed(failure.to_string()),
    };
    if let Some(service) = service {
        return match session.limited("lookup", registry.lookup(service)).await {
            Err(error) => failed(chain(&error)),
            Ok(found) if found.is_empty() => Finding::warning(
                "registry",
                format!("{registry} answers, and has no instance of {service}"),
                "see on the machine that should offer it that its registration succeeds, and that both use the same registry",
            ),
            Ok(found) => {
                let healthy = found.healthy().count();
                Finding::ok(
                    "registry",
                    format!("{registry} has {} of {service}, {healthy} healthy", found.len()),
                )
            }
        };
    }
    match session.limited("services", registry.services()).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => Finding::ok(
            "registry",
            format!("{registry} has no list of names; for one service: switchboard doctor SERVICE"),
        ),
        Err(error) => failed(chain(&error)),
        Ok(names) if names.is_empty() => Finding::warning(
            "registry",
            format!("{registry} answers, and has no service"),
            "register one to try it: switchboard register hello 127.0.0.1:8080",
        ),
        Ok(names) => Finding::ok("registry", format!("{registry} answers; services: {}", names.len())),
    }
}

fn show(findings: &[Finding]) -> Result<(), Failure> {
    let mut of = None;
    for Finding { registry, check, status, what, advice } in findings {
        if of != registry.as_ref() {
            of = registry.as_ref();
            let all = "all of them".to_owned();
            output::line(Look::Plain, &output::clean(&format!("{}:", of.unwrap_or(&all))))?;
        }
        let (word, look) = match status {
            Status::Ok => ("ok", Look::Good),
            Status::Warning => ("warning", Look::Doubtful),
            Status::Problem => ("PROBLEM", Look::Bad),
        };
        output::line(look, &output::clean(&format!("{word:8} {check:11} {what}")))?;
        if let Some(advice) = advice {
            output::line(Look::Plain, &output::clean(&format!("{:20} -> {advice}", "")))?;
        }
    }
    Ok(())
}
