//! Servers asked directly by HTTP, for what a registry does not tell: Consul's agents, and the clocks of others.
//!
//! The same parameters and environment variables are read as by the backends.

use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Certificate, Client, Identity, RequestBuilder, Response};
use switchboard::{Params, RegistryUrl};

use super::Finding;
use crate::bounded;

/// Clocks farther apart than this are told of; the header counts in whole seconds.
const CLOCKS_APART: Duration = Duration::from_secs(5);

/// The environment variables that name certificates.
pub(crate) struct Names {
    pub(crate) backend: &'static str,
    pub(crate) ca_cert: &'static str,
    pub(crate) client_cert: &'static str,
    pub(crate) client_key: &'static str,
    /// Whether to verify the server's.
    pub(crate) verify: Option<&'static str>,
}

const NAMES: Names = Names {
    backend: "consul",
    ca_cert: "CONSUL_CACERT",
    client_cert: "CONSUL_CLIENT_CERT",
    client_key: "CONSUL_CLIENT_KEY",
    verify: Some("CONSUL_HTTP_SSL_VERIFY"),
};

pub(crate) struct Agent {
    pub(crate) base: String,
    client: Client,
    pub(crate) token: Option<HeaderValue>,
}

impl Agent {
    /// The agents of `url`; why they cannot be asked directly.
    pub(crate) fn all(url: &RegistryUrl, limit: Duration) -> Result<Vec<Self>, String> {
        let mut params = url.params(NAMES.backend);
        let tls =
            params.take_switch("tls").ok().flatten().or_else(|| switch("CONSUL_HTTP_SSL")).unwrap_or(false);
        if setting(&mut params, "tls_server_name", "CONSUL_TLS_SERVER_NAME").is_some() {
            return Err("with another server name in the certificate".into());
        }
        let (client, token) =
            (client(&mut params, limit, &NAMES)?, token(&mut params)?.map(hidden).transpose()?);
        let rest = url.rest().trim_start_matches("//");
        let list = if rest.is_empty() { env("CONSUL_HTTP_ADDR").unwrap_or_default() } else { rest.into() };
        let list = if list.is_empty() { "127.0.0.1:8500".into() } else { list };
        let agents = list.split(',').map(|address| {
            let base = base(address, tls).ok_or("over a Unix socket")?;
            Ok(Self { base, client: client.clone(), token: token.clone() })
        });
        agents.collect()
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.with_token(self.client.get(format!("{}{path}", self.base)))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.with_token(self.client.post(format!("{}{path}", self.base)))
    }

    fn with_token(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.header("x-consul-token", token.clone()),
            None => request,
        }
    }
}

fn base(address: &str, tls: bool) -> Option<String> {
    if address.starts_with("unix:") || address.starts_with('/') {
        return None;
    }
    let (scheme, rest) = address.split_once("://").unwrap_or((if tls { "https" } else { "http" }, address));
    let rest = rest.trim_end_matches('/');
    let has_port = rest.rfind(':').is_some_and(|at| !rest[at..].contains(']'));
    let port = match (has_port, scheme) {
        (true, _) => "",
        (false, "https") => ":8501",
        (false, _) => ":8500",
    };
    Some(format!("{scheme}://{rest}{port}"))
}

pub(crate) fn client(params: &mut Params, limit: Duration, names: &Names) -> Result<Client, String> {
    let mut builder = Client::builder().no_proxy().timeout(limit);
    if let Some(path) = setting(params, "ca_cert", names.ca_cert) {
        builder = builder.tls_certs_only(Certificate::from_pem_bundle(&read(&path)?).unwrap_or_default());
    }
    let certificate = setting(params, "client_cert", names.client_cert);
    if let Some((cert, key)) = certificate.zip(setting(params, "client_key", names.client_key)) {
        let pem = [read(&cert)?, b"\n".to_vec(), read(&key)?].concat();
        // The cause may quote the key.
        let identity =
            Identity::from_pem(&pem).map_err(|_| "with a client certificate that cannot be read")?;
        builder = builder.identity(identity);
    }
    let verify = names
        .verify
        .and_then(|name| params.take_switch("tls_verify").ok().flatten().or_else(|| switch(name)));
    let built = builder.tls_danger_accept_invalid_certs(!verify.unwrap_or(true)).build();
    built.map_err(|error| format!("as TLS cannot be set up: {error}"))
}

fn token(params: &mut Params) -> Result<Option<String>, String> {
    let file = |path: String| Ok(Some(String::from_utf8_lossy(&read(&path)?).trim().to_owned()));
    if let Some(token) = params.take::<String>("token").ok().flatten() {
        return Ok(Some(token));
    }
    match setting(params, "token_file", "CONSUL_HTTP_TOKEN_FILE") {
        Some(path) => file(path),
        None => Ok(env("CONSUL_HTTP_TOKEN")),
    }
}

/// The token as a header that no log shows.
#[allow(clippy::needless_pass_by_value, reason = "as map gives it")]
fn hidden(token: String) -> Result<HeaderValue, String> {
    let mut value =
        HeaderValue::from_str(&token).map_err(|_| "with a token that no HTTP header can carry".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// How the clock of `who` answered compares with this machine's.
#[allow(clippy::disallowed_types, reason = "the wall clock is what is examined")]
pub(crate) fn clock(answer: &Response, who: &str) -> Option<Finding> {
    let theirs = answer.headers().get(reqwest::header::DATE)?.to_str().ok()?;
    let theirs = httpdate::parse_http_date(theirs).ok()?;
    let ours = std::time::SystemTime::now();
    let (apart, word) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    Some(if apart <= CLOCKS_APART {
        Finding::ok("clock", format!("this machine and {who} agree on the time"))
    } else {
        Finding::warning(
            "clock",
            format!("this machine's clock is {} s {word} that of {who}", apart.as_secs()),
            "set both by NTP: certificates and tokens that expire depend on it",
        )
    })
}

fn setting(params: &mut Params, name: &'static str, variable: &str) -> Option<String> {
    params.take::<String>(name).ok().flatten().or_else(|| env(variable))
}

pub(crate) fn env(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

fn switch(variable: &str) -> Option<bool> {
    env(variable).map(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    bounded::file(path, bounded::WRITTEN).map_err(|error| format!("as {path} cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_backend_reads_them() {
        for (address, tls, expected) in [
            ("127.0.0.1:8500", false, Some("http://127.0.0.1:8500")),
            ("consul.example.com", true, Some("https://consul.example.com:8501")),
            ("https://[::1]", false, Some("https://[::1]:8501")),
            ("unix:///run/consul.sock", false, None),
        ] {
            assert_eq!(base(address, tls).as_deref(), expected);
        }
    }
}
