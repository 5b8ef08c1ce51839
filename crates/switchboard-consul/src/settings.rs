//! What can be set, and by whom: Consul's own environment variables, then the URL, then code; the later wins.

use std::path::PathBuf;
use std::time::Duration;

use switchboard_core::{Invalid, RegistryUrl};

use crate::address::AgentAddress;
use crate::check::{Check, DeregisterAfter};
use crate::token::{Secret, TokenSource};
use crate::{BACKEND, Consistency, Wire};

macro_rules! settings {
    ($($name:ident: $type:ty,)*) => {
        /// Everything that can be set; `None` where it is not.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Settings {
            $(pub(crate) $name: Option<$type>,)*
        }

        impl Settings {
            /// These, and where nothing is set those.
            pub(crate) fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name),)* }
            }
        }
    };
}

settings! {
    addresses: Vec<AgentAddress>,
    token: TokenSource,
    tls: bool,
    tls_verify: bool,
    tls_server_name: String,
    ca_cert: PathBuf,
    client_cert: PathBuf,
    client_key: PathBuf,
    dc: String,
    ns: String,
    partition: String,
    tags: Vec<String>,
    filter: String,
    near: String,
    passing: bool,
    consistency: Consistency,
    wait: Duration,
    timeout: Duration,
    wire: Wire,
    check: Check,
    check_interval: Duration,
    check_timeout: Duration,
    deregister_after: DeregisterAfter,
    move_after: Duration,
    rejoin_grace: Duration,
}

impl Settings {
    /// What Consul's own environment variables say.
    pub(crate) fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, Invalid> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let switch = |name: &str| match var(name).as_deref() {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(Invalid::quoting(name, other, "is neither true nor false")),
        };
        let addresses = match var("CONSUL_HTTP_ADDR") {
            Some(text) => AgentAddress::list(&text)?,
            None => None,
        };
        // As in Consul's own client the file wins.
        let token = var("CONSUL_HTTP_TOKEN_FILE")
            .map(|path| TokenSource::File(path.into()))
            .or_else(|| var("CONSUL_HTTP_TOKEN").map(|token| TokenSource::Value(Secret::new(token))));
        Ok(Self {
            addresses,
            token,
            tls: switch("CONSUL_HTTP_SSL")?,
            tls_verify: switch("CONSUL_HTTP_SSL_VERIFY")?,
            tls_server_name: var("CONSUL_TLS_SERVER_NAME"),
            ca_cert: var("CONSUL_CACERT").map(Into::into),
            client_cert: var("CONSUL_CLIENT_CERT").map(Into::into),
            client_key: var("CONSUL_CLIENT_KEY").map(Into::into),
            ns: var("CONSUL_NAMESPACE"),
            partition: var("CONSUL_PARTITION"),
            ..Self::default()
        })
    }

    /// What `url` says: the agents in its rest, everything else in its parameters.
    pub(crate) fn from_url(url: &RegistryUrl) -> Result<Self, Invalid> {
        let rest = url.rest();
        let rest = if rest.starts_with("///") { &rest[2..] } else { rest.strip_prefix("//").unwrap_or(rest) };
        let mut params = url.params(BACKEND);
        let token: Option<String> = params.take("token")?;
        let token_file: Option<PathBuf> = params.take("token_file")?;
        if token.is_some() && token_file.is_some() {
            return Err(Invalid::new(
                "consul parameters \"token\" and \"token_file\"",
                "are given both; one is enough",
            ));
        }
        let token = token.map(|token| TokenSource::Value(Secret::new(token)));
        let tags = params.take_all("tag");
        let settings = Self {
            addresses: AgentAddress::list(rest)?,
            token: token.or(token_file.map(TokenSource::File)),
            tls: params.take_switch("tls")?,
            tls_verify: params.take_switch("tls_verify")?,
            tls_server_name: params.take("tls_server_name")?,
            ca_cert: params.take("ca_cert")?,
            client_cert: params.take("client_cert")?,
            client_key: params.take("client_key")?,
            dc: params.take("dc")?,
            ns: params.take("ns")?,
            partition: params.take("partition")?,
            tags: (!tags.is_empty()).then_some(tags),
            filter: params.take("filter")?,
            near: params.take("near")?,
            passing: params.take_switch("passing")?,
            consistency: params.take("consistency")?,
            wait: params.take_duration("wait")?,
            timeout: params.take_duration("timeout")?,
            wire: params.take("wire")?,
            check: params.take("check")?,
            check_interval: params.take_duration("check_interval")?,
            check_timeout: params.take_duration("check_timeout")?,
            deregister_after: params.take("deregister_after")?,
            move_after: params.take_duration("move_after")?,
            rejoin_grace: params.take_duration("rejoin_grace")?,
        };
        params.finish()?;
        Ok(settings)
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
