//! A Consul agent asked directly, for what a registry does not tell.
//!
//! It reads the same parameters and environment variables as the Consul backend.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Certificate, Client, Identity, RequestBuilder};
use switchboard::{Params, RegistryUrl};

pub(crate) struct Agent {
    pub(crate) base: String,
    client: Client,
    pub(crate) token: Option<String>,
}

impl Agent {
    /// The agents of `url`; why they cannot be asked directly.
    pub(crate) fn all(url: &RegistryUrl, limit: Duration) -> Result<Vec<Self>, String> {
        let mut params = url.params("consul");
        let tls =
            params.take_switch("tls").ok().flatten().or_else(|| switch("CONSUL_HTTP_SSL")).unwrap_or(false);
        if setting(&mut params, "tls_server_name", "CONSUL_TLS_SERVER_NAME").is_some() {
            return Err("with another server name in the certificate".into());
        }
        let (client, token) = (client(&mut params, limit)?, token(&mut params)?);
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
            Some(token) => request.header("x-consul-token", token),
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

fn client(params: &mut Params, limit: Duration) -> Result<Client, String> {
    let mut builder = Client::builder().no_proxy().timeout(limit);
    if let Some(path) = setting(params, "ca_cert", "CONSUL_CACERT") {
        builder = builder.tls_certs_only(Certificate::from_pem_bundle(&read(&path)?).unwrap_or_default());
    }
    let certificate = setting(params, "client_cert", "CONSUL_CLIENT_CERT");
    if let Some((cert, key)) = certificate.zip(setting(params, "client_key", "CONSUL_CLIENT_KEY")) {
        let pem = [read(&cert)?, b"\n".to_vec(), read(&key)?].concat();
        // The cause may quote the key.
        let identity =
            Identity::from_pem(&pem).map_err(|_| "with a client certificate that cannot be read")?;
        builder = builder.identity(identity);
    }
    let verify = params.take_switch("tls_verify").ok().flatten().or_else(|| switch("CONSUL_HTTP_SSL_VERIFY"));
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

fn setting(params: &mut Params, name: &'static str, variable: &str) -> Option<String> {
    params.take::<String>(name).ok().flatten().or_else(|| env(variable))
}

fn env(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

fn switch(variable: &str) -> Option<bool> {
    env(variable).map(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(PathBuf::from(path)).map_err(|error| format!("as {path} cannot be read: {error}"))
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
