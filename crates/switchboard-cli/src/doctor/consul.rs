//! Consul: reachable, TLS, leader, clock, token and its rights.

use std::time::Duration;

use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use switchboard::{RegistryUrl, ServiceName};

use super::Finding;
use super::agent::{Agent, clock};
use crate::failure::chain;

pub(crate) async fn examine(
    url: &RegistryUrl,
    service: Option<&ServiceName>,
    limit: Duration,
) -> Vec<Finding> {
    let agents = match Agent::all(url, limit) {
        Ok(agents) => agents,
        Err(why) => {
            let finding = format!("the agent is not asked directly {why}");
            return vec![Finding::warning("agent", finding, "what the registry itself says follows")];
        }
    };
    let mut findings = Vec::new();
    for agent in &agents {
        let usable = reach(agent, &mut findings).await;
        if usable {
            let known = token(agent, &mut findings).await;
            if known {
                findings.push(rights(agent, service).await);
            }
        }
    }
    findings
}

/// Whether the agent answers and has a leader.
async fn reach(agent: &Agent, findings: &mut Vec<Finding>) -> bool {
    let answer = match agent.get("/v1/status/leader").send().await {
        Ok(answer) => answer,
        Err(error) => {
            findings.push(unreachable(agent, &error));
            return false;
        }
    };
    let (status, clock) = (answer.status(), clock(&answer, "the agent"));
    let said = answer.text().await.unwrap_or_default();
    if said.contains("HTTP request to an HTTPS server") {
        findings.push(Finding::problem(
            "tls",
            format!("{} speaks TLS only", agent.base),
            "write consul://https://HOST:PORT, or add the parameter tls",
        ));
        return false;
    }
    findings.push(Finding::ok("agent", format!("{} answers", agent.base)));
    findings.extend(clock);
    if status == StatusCode::OK && said.trim().trim_matches('"').is_empty() {
        findings.push(Finding::problem(
            "leader",
            "the cluster has no leader; no request that needs the catalog succeeds",
            "see that a majority of the servers is up and reaches each other: consul operator raft list-peers, consul members",
        ));
        return false;
    }
    if status != StatusCode::OK {
        findings.push(Finding::problem(
            "agent",
            format!("{} answered {status}: {}", agent.base, short(&said)),
            "see that this is the address of a Consul agent's HTTP API, and its log",
        ));
        return false;
    }
    findings.push(Finding::ok("leader", format!("the leader is {}", short(said.trim().trim_matches('"')))));
    true
}

fn unreachable(agent: &Agent, error: &reqwest::Error) -> Finding {
    let said = chain(error).replace(&format!(" for url ({}/v1/status/leader)", agent.base), "");
    let lower = said.to_lowercase();
    let advice = if lower.contains("certificate") {
        "give the authority that signed it by ca_cert, or the name in it by tls_server_name"
    } else if lower.contains("corrupt message") || lower.contains("invalidcontenttype") {
        "it seems to speak no TLS: leave out https and tls"
    } else if error.is_timeout() {
        "it does not answer in time: see that a firewall lets this port through, and the agent's load"
    } else {
        "start an agent there, or name another: --registry consul://HOST:PORT"
    };
    let check =
        if lower.contains("certificate") || lower.contains("corrupt message") { "tls" } else { "agent" };
    Finding::problem(check, format!("cannot speak to {}: {said}", agent.base), advice)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Token {
    #[serde(default)]
    description: String,
    #[serde(default)]
    policies: Option<Vec<Policy>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Policy {
    name: String,
}

/// Whether Consul takes the token.
async fn token(agent: &Agent, findings: &mut Vec<Finding>) -> bool {
    let (status, said) = ask(agent.get("/v1/acl/token/self")).await;
    let finding = match (status, &agent.token) {
        (Some(StatusCode::OK), Some(_)) => {
            let token = serde_json::from_str::<Token>(&said).ok();
            let policies = token.as_ref().and_then(|token| token.policies.as_ref());
            let names = policies.map(|all| all.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>());
            let names =
                names.filter(|names| !names.is_empty()).map_or("none".into(), |names| names.join(", "));
            let about = token.map(|token| token.description).filter(|text| !text.is_empty());
            let about = about.map(|text| format!(" {text:?}")).unwrap_or_default();
            Finding::ok("token", format!("Consul knows the token{about}; its policies: {names}"))
        }
        (Some(_), _) if said.contains("ACL support disabled") => {
            findings.push(Finding::ok("token", "access control is off, no token is needed"));
            return false;
        }
        (Some(StatusCode::FORBIDDEN), Some(_)) => Finding::problem(
            "token",
            format!("Consul refuses the token: {}", short(&said)),
            "it was deleted, has expired or is mistyped; give another by token_file or CONSUL_HTTP_TOKEN_FILE",
        ),
        (Some(_), None) => Finding::warning(
            "token",
            "no token is given, and access control is on",
            "give one by token_file or CONSUL_HTTP_TOKEN_FILE, unless the anonymous token has the rights",
        ),
        (status, _) => Finding::warning(
            "token",
            format!("Consul does not say what it thinks of the token: {}", told(status, &said)),
            "see the agent's log",
        ),
    };
    let known = !finding.is_problem();
    findings.push(finding);
    known
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Question<'a> {
    resource: &'static str,
    access: &'static str,
    segment: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Verdict {
    resource: String,
    access: String,
    allow: bool,
}

/// What the token allows; asked for, nothing is written.
async fn rights(agent: &Agent, service: Option<&ServiceName>) -> Finding {
    let segment = service.map_or("", |service| service.as_str());
    let what =
        service.map_or("services in general".into(), |service| format!("service {:?}", service.as_str()));
    let question = |resource, access, segment| Question { resource, access, segment };
    let questions = [
        question("service", "read", segment),
        question("node", "read", ""),
        question("service", "write", segment),
    ];
    let body = serde_json::to_vec(&questions).unwrap_or_default();
    let (status, said) = ask(agent.post("/v1/internal/acl/authorize").body(body)).await;
    let Ok(verdicts) = serde_json::from_str::<Vec<Verdict>>(&said) else {
        return Finding::warning(
            "rights",
            format!("Consul does not tell them: {}", told(status, &said)),
            "needed are service:read and node:read to find, service:write to register",
        );
    };
    let missing: Vec<String> = verdicts
        .iter()
        .filter(|verdict| !verdict.allow)
        .map(|verdict| format!("{}:{}", verdict.resource, verdict.access))
        .collect();
    if missing.is_empty() {
        return Finding::ok("rights", format!("{what} can be found and registered"));
    }
    let finding = format!("for {what} the token lacks {}", missing.join(", "));
    let advice = "what may not be read is left out in silence; add the rights to a policy of the token";
    let reads = missing.iter().any(|right| right.ends_with("read"));
    // Without a name only a rule for all names counts, and there may be one for the right name.
    if reads && service.is_some() {
        Finding::problem("rights", finding, advice)
    } else if service.is_some() {
        Finding::warning("rights", finding, "it can be found, not registered; add service:write to a policy")
    } else {
        Finding::warning(
            "rights",
            finding,
            "a rule for single names may still do: switchboard doctor SERVICE",
        )
    }
}

async fn ask(request: reqwest::RequestBuilder) -> (Option<StatusCode>, String) {
    match request.send().await {
        Ok(answer) => (Some(answer.status()), answer.text().await.unwrap_or_default()),
        Err(error) => (None, chain(&error.without_url())),
    }
}

fn told(status: Option<StatusCode>, said: &str) -> String {
    status.map_or_else(|| short(said), |status| format!("{status}: {}", short(said)))
}

fn short(said: &str) -> String {
    said.trim().chars().take(200).collect()
}
