//! Health checks that Consul runs, and the TTL check that renewals pass.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use switchboard_core::{Address, Host, Instance, InstanceId, Invalid};

/// A check the Consul agent runs against the instance by itself.
///
/// Parsed from `http://{host}:{port}/health` (or `https:`), `tcp://{host}:{port}`, `grpc://{host}:{port}/service`
/// (or `grpcs:`). `{host}` and `{port}` become those of the instance's first address; an IPv6 host comes in
/// brackets. The scheme alone (`http`, `tcp`, `grpc`) means the instance's address itself.
///
/// It comes beside the TTL check, never instead of it: the instance is as healthy as the worse of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    kind: Kind,
    target: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Tcp,
    Grpc { tls: bool },
}

impl FromStr for Check {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |why: &str| Err(Invalid::quoting("check", text, why));
        let (scheme, rest) = text.split_once("://").unwrap_or((text, "{host}:{port}"));
        let kind = match scheme {
            "http" | "https" => Kind::Http,
            "tcp" => Kind::Tcp,
            "grpc" => Kind::Grpc { tls: false },
            "grpcs" => Kind::Grpc { tls: true },
            _ => return refuse("starts with none of http, https, tcp, grpc, grpcs"),
        };
        if rest.is_empty() || rest.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refuse("has no target, or white space in it");
        }
        let unknown = rest.replace("{host}", "").replace("{port}", "");
        if unknown.contains(['{', '}']) {
            return refuse("has a placeholder that is neither {host} nor {port}");
        }
        let target = if kind == Kind::Http { format!("{scheme}://{rest}") } else { rest.to_owned() };
        Ok(Self { kind, target })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Http => f.write_str(&self.target),
            Kind::Tcp => write!(f, "tcp://{}", self.target),
            Kind::Grpc { tls: false } => write!(f, "grpc://{}", self.target),
            Kind::Grpc { tls: true } => write!(f, "grpcs://{}", self.target),
        }
    }
}

impl Check {
    fn fill(&self, address: &Address) -> String {
        let host = match address.host() {
            Host::Ip(ip) if ip.is_ipv6() => format!("[{ip}]"),
            host => host.to_string(),
        };
        self.target.replace("{host}", &host).replace("{port}", &address.port().to_string())
    }
}

/// How the agent checks what this handle registers.
#[derive(Clone, Debug)]
pub(crate) struct CheckPolicy {
    pub(crate) check: Option<Check>,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) deregister_after: DeregisterAfter,
}

/// When Consul removes an instance whose check stays critical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeregisterAfter {
    /// go-micro's rule: 65 s for a TTL under a minute, else TTL + 5 s; never without a TTL.
    ByTtl,
    Fixed(Duration),
    Never,
}

impl DeregisterAfter {
    fn of(self, ttl: Option<Duration>) -> Option<Duration> {
        match (self, ttl) {
            (Self::Never, _) | (Self::ByTtl, None) => None,
            (Self::Fixed(after), _) => Some(after),
            (Self::ByTtl, Some(ttl)) if ttl < Duration::from_secs(60) => Some(Duration::from_secs(65)),
            (Self::ByTtl, Some(ttl)) => Some(ttl + Duration::from_secs(5)),
        }
    }
}

/// One check of a registration (<https://developer.hashicorp.com/consul/api-docs/agent/check>).
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CheckBody {
    #[serde(rename = "CheckID")]
    pub(crate) id: String,
    name: &'static str,
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(rename = "HTTP", skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(rename = "GRPC", skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    #[serde(rename = "GRPCUseTLS", skip_serializing_if = "std::ops::Not::not")]
    grpc_use_tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deregister_critical_service_after: Option<String>,
}

/// The id of the TTL check, which is also the one Consul would choose.
pub(crate) fn ttl_check_id(id: &InstanceId) -> String {
    format!("service:{id}")
}

/// The checks to register `instance` with.
pub(crate) fn checks(instance: &Instance, ttl: Option<Duration>, policy: &CheckPolicy) -> Vec<CheckBody> {
    let after = policy.deregister_after.of(ttl).map(go_duration);
    let ttl_check = ttl.map(|ttl| CheckBody {
        id: ttl_check_id(instance.id()),
        name: "TTL",
        ttl: Some(go_duration(ttl)),
        // Without it a new check is critical until its first pass, and watchers would see that.
        status: Some("passing"),
        deregister_critical_service_after: after.clone(),
        ..CheckBody::default()
    });
    let own_check = policy.check.as_ref().map(|check| {
        let target = Some(check.fill(instance.address()));
        let mut body = CheckBody {
            interval: Some(go_duration(policy.interval)),
            timeout: Some(go_duration(policy.timeout)),
            deregister_critical_service_after: after.clone(),
            ..CheckBody::default()
        };
        let kind = match check.kind {
            Kind::Http => {
                (body.http, body.name) = (target, "HTTP");
                "http"
            }
            Kind::Tcp => {
                (body.tcp, body.name) = (target, "TCP");
                "tcp"
            }
            Kind::Grpc { tls } => {
                (body.grpc, body.grpc_use_tls, body.name) = (target, tls, "gRPC");
                "grpc"
            }
        };
        body.id = format!("service:{}:{kind}", instance.id());
        body
    });
    ttl_check.into_iter().chain(own_check).collect()
}

/// A duration as Go's parser reads it, in whole milliseconds, rounded up.
pub(crate) fn go_duration(duration: Duration) -> String {
    format!("{}ms", duration.as_nanos().div_ceil(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(check: Option<&str>) -> CheckPolicy {
        CheckPolicy {
            check: check.map(|text| text.parse().unwrap()),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            deregister_after: DeregisterAfter::ByTtl,
        }
    }

    fn json(address: &str, ttl: Option<u64>, check: Option<&str>) -> String {
        let instance = Instance::builder("s").id("i").address(address).build().unwrap();
        serde_json::to_string(&checks(&instance, ttl.map(Duration::from_secs), &policy(check))).unwrap()
    }

    #[test]
    fn a_ttl_starts_passing_and_follows_go_micros_removal_rule() {
        let expected = |ttl: &str, after: &str| {
            format!(
                r#"[{{"CheckID":"service:i","Name":"TTL","TTL":"{ttl}","Status":"passing","DeregisterCriticalServiceAfter":"{after}"}}]"#
            )
        };
        assert_eq!(json("h:1", Some(59), None), expected("59000ms", "65000ms"));
        assert_eq!(json("h:1", Some(90), None), expected("90000ms", "95000ms"));
        assert_eq!(json("h:1", None, None), "[]");
    }

    #[test]
    fn an_own_check_stands_beside_the_ttl() {
        let both = json("[::1]:80", Some(90), Some("http://{host}:{port}/health"));
        assert!(both.contains(r#""CheckID":"service:i","#), "{both}");
        assert!(both.contains(r#""CheckID":"service:i:http""#), "{both}");
        assert!(both.contains(r#""HTTP":"http://[::1]:80/health""#), "{both}");
        assert!(json("h:1", None, Some("tcp")).contains(r#""TCP":"h:1""#));
        let grpc = json("h:1", None, Some("grpcs://{host}:9/x"));
        assert!(grpc.contains(r#""GRPC":"h:9/x","GRPCUseTLS":true"#), "{grpc}");
    }

    #[test]
    fn refuses_and_says_why() {
        for (text, why) in [
            ("ping", "starts with none of http, https, tcp, grpc, grpcs"),
            ("tcp://{ip}:1", "has a placeholder that is neither {host} nor {port}"),
            ("tcp://", "has no target, or white space in it"),
        ] {
            assert_eq!(text.parse::<Check>().unwrap_err().why(), why);
        }
        for text in ["http://{host}:{port}/a", "tcp://{host}:1", "grpcs://h:1/s"] {
            assert_eq!(text.parse::<Check>().unwrap().to_string(), text);
        }
    }
}
