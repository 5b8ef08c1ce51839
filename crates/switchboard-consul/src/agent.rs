//! One agent and the HTTP client to it, with TLS as asked for.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Identity, redirect};
use switchboard_core::Invalid;

use crate::address::AgentAddress;
use crate::budget::Budget;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::writes::Turns;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections that wait for nothing are few, as the agent counts them too.
const IDLE: usize = 4;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A blocking query is silent for long; a dead peer must show all the same.
const KEEPALIVE: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) http: reqwest::Client,
    /// What its URLs begin with.
    pub(crate) base: String,
    /// What errors and logs call it.
    pub(crate) name: String,
    /// Whose write it gets next.
    pub(crate) turns: Turns,
    /// What the watches of this process may hold of it.
    pub(crate) budget: Arc<Budget>,
    pub(crate) metrics: Metrics,
}

impl Agent {
    pub(crate) fn new(address: &AgentAddress, settings: &Settings) -> Result<Self, Invalid> {
        let (mut base, name, tls) = address.base(settings.tls.unwrap_or(false));
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            .tcp_keepalive_interval(KEEPALIVE / 3)
            .tcp_keepalive_retries(3)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .gzip(!is_near(address));
        match address {
            #[cfg(unix)]
            AgentAddress::Unix(path) => builder = builder.unix_socket(path.as_path()),
            #[cfg(not(unix))]
            AgentAddress::Unix(_) => {
                return Err(Invalid::new(format!("Consul address {name}"), "needs a Unix; this is none"));
            }
            AgentAddress::Tcp { host, .. } if tls => {
                if let Some(server) = &settings.tls_server_name {
                    // The name of the URL is the one in the certificate; where it leads is said beside it.
                    let port = name.rsplit_once(':').map_or("", |(_, port)| port);
                    let at = resolve(host, port)
                        .map_err(|why| Invalid::new(format!("Consul address {name}"), why))?;
                    base = format!("https://{server}:{port}");
                    builder = builder.resolve_to_addrs(server, &at);
                }
                builder = secure(builder, settings)?;
            }
            AgentAddress::Tcp { .. } => {}
        }
        let http = builder.build().map_err(|error| {
            Invalid::new(format!("HTTP client for {name}"), format!("cannot be set up: {}", chain(&error)))
        })?;
        // A socket has no address of its own in its URLs.
        let (budget, metrics) = (Budget::of(&name), Metrics::new(&name));
        Ok(Self { http, base, name, turns: Turns::default(), budget, metrics })
    }
}

/// Whether answers come over no network: compressing them would only cost time.
fn is_near(address: &AgentAddress) -> bool {
    match address {
        AgentAddress::Unix(_) => true,
        AgentAddress::Tcp { host, .. } => {
            host == "localhost"
                || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
    }
}

fn resolve(host: &str, port: &str) -> Result<Vec<SocketAddr>, String> {
    use std::net::ToSocketAddrs;
    // Only when a server name stands in for the host, and once: an IP address takes no time.
    let found = format!("{host}:{port}").to_socket_addrs();
    found.map(Iterator::collect).map_err(|error| format!("cannot be resolved: {error}"))
}

fn secure(
    mut builder: reqwest::ClientBuilder,
    settings: &Settings,
) -> Result<reqwest::ClientBuilder, Invalid> {
    if let Some(path) = &settings.ca_cert {
        let pem = read(path)?;
        let roots = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if roots.is_empty() {
            return Err(Invalid::new(file(path), "holds no PEM certificate"));
        }
        builder = builder.tls_certs_only(roots);
    }
    match (&settings.client_cert, &settings.client_key) {
        (None, None) => {}
        (Some(cert), Some(key)) => {
            let mut pem = read(cert)?;
            pem.push(b'\n');
            pem.extend(read(key)?);
            // The cause may quote the key.
            let identity = Identity::from_pem(&pem).map_err(|_| {
                let what = format!("{} and {}", file(cert), file(key));
                Invalid::new(what, "hold no PEM certificate and key")
            })?;
            builder = builder.identity(identity);
        }
        (Some(_), None) => return Err(Invalid::new("client_cert", "is given without client_key")),
        (None, Some(_)) => return Err(Invalid::new("client_key", "is given without client_cert")),
    }
    Ok(builder.tls_danger_accept_invalid_certs(!settings.tls_verify.unwrap_or(true)))
}

fn file(path: &Path) -> String {
    format!("file {}", path.display())
}

fn read(path: &Path) -> Result<Vec<u8>, Invalid> {
    std::fs::read(path).map_err(|error| Invalid::new(file(path), format!("cannot be read: {error}")))
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
