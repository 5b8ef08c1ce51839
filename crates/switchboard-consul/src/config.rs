//! The builder: what code sets.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use switchboard_core::{Error, Invalid, RegistryUrl, Result};

use crate::address::AgentAddress;
use crate::backend::ConsulRegistry;
use crate::settings::Settings;
use crate::token::{Secret, TokenSource};
use crate::{BACKEND, Consistency, Wire};

/// Sets up a [`ConsulRegistry`].
///
/// Every method is also a URL parameter of the same name. What neither code nor the [URL](Self::url) sets is taken
/// from [Consul's own environment variables](https://developer.hashicorp.com/consul/commands#environment-variables),
/// and then from the defaults.
///
/// ```
/// use switchboard_consul::ConsulRegistry;
///
/// let registry = ConsulRegistry::builder().address("10.0.0.7:8500").dc("dc1").build()?;
/// assert_eq!(registry.to_string(), "consul://10.0.0.7:8500");
/// # Ok::<(), switchboard_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a registry comes into being with `build()`"]
pub struct ConsulBuilder {
    pub(crate) code: Settings,
    url: Settings,
    ignore_env: bool,
    mistake: Option<Invalid>,
}

impl ConsulBuilder {
    fn set(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        set(&mut self.code);
        self
    }

    fn parse<T>(mut self, parsed: Result<T, Invalid>, set: impl FnOnce(&mut Settings, T)) -> Self {
        match parsed {
            Ok(value) => set(&mut self.code, value),
            Err(invalid) => self.mistake = self.mistake.or(Some(invalid)),
        }
        self
    }

    /// Takes what `url` says for everything that code does not set.
    pub fn url(mut self, url: &RegistryUrl) -> Self {
        match Settings::from_url(url) {
            Ok(settings) => self.url = settings,
            Err(invalid) => self.mistake = self.mistake.or(Some(invalid)),
        }
        self
    }

    /// Takes nothing from the environment.
    pub fn ignore_env(mut self) -> Self {
        self.ignore_env = true;
        self
    }

    /// Adds an agent: `127.0.0.1:8500`, `https://10.0.0.7:8501`, `unix:///run/consul/http.sock`. Default
    /// `CONSUL_HTTP_ADDR`, or `127.0.0.1:8500`. Of several, reads use one that answers; a registration stays with the
    /// first that took it for as long as that one is there.
    pub fn address(self, address: &str) -> Self {
        self.parse(AgentAddress::from_str(address), |code, address| {
            code.addresses.get_or_insert_with(Vec::new).push(address);
        })
    }

    /// The ACL token. Default `CONSUL_HTTP_TOKEN`, or none.
    pub fn token(self, token: impl Into<String>) -> Self {
        self.set(|code| code.token = Some(TokenSource::Value(Secret::new(token))))
    }

    /// The file that holds the ACL token; read again when it changes. Default `CONSUL_HTTP_TOKEN_FILE`.
    pub fn token_file(self, path: impl Into<PathBuf>) -> Self {
        self.set(|code| code.token = Some(TokenSource::File(path.into())))
    }

    /// Whether agents whose address does not say are spoken to by TLS. Default `CONSUL_HTTP_SSL`, or not.
    pub fn tls(self, tls: bool) -> Self {
        self.set(|code| code.tls = Some(tls))
    }

    /// Whether the agent's certificate is verified. Default `CONSUL_HTTP_SSL_VERIFY`, or yes. Without it anybody on the
    /// way can read the token.
    pub fn tls_verify(self, verify: bool) -> Self {
        self.set(|code| code.tls_verify = Some(verify))
    }

    /// The name to expect in the agent's certificate, such as `server.dc1.consul`, instead of its address. Default
    /// `CONSUL_TLS_SERVER_NAME`.
    pub fn tls_server_name(self, name: impl Into<String>) -> Self {
        self.set(|code| code.tls_server_name = Some(name.into()))
    }

    /// A PEM file of the certificate authorities to trust, and no others. Default `CONSUL_CACERT`, or the system's.
    pub fn ca_cert(self, path: impl Into<PathBuf>) -> Self {
        self.set(|code| code.ca_cert = Some(path.into()))
    }

    /// A PEM file of the client certificate. Default `CONSUL_CLIENT_CERT`.
    pub fn client_cert(self, path: impl Into<PathBuf>) -> Self {
        self.set(|code| code.client_cert = Some(path.into()))
    }

    /// A PEM file of the client certificate's key. Default `CONSUL_CLIENT_KEY`.
    pub fn client_key(self, path: impl Into<PathBuf>) -> Self {
        self.set(|code| code.client_key = Some(path.into()))
    }

    /// The datacenter to read from. Default the agent's own. Registrations always go to the agent's own.
    pub fn dc(self, dc: impl Into<String>) -> Self {
        self.set(|code| code.dc = Some(dc.into()))
    }

    /// The namespace (Consul Enterprise). Default `CONSUL_NAMESPACE`. Other agents answer
    /// [`Unsupported`](switchboard_core::ErrorKind::Unsupported).
    pub fn ns(self, ns: impl Into<String>) -> Self {
        self.set(|code| code.ns = Some(ns.into()))
    }

    /// The admin partition (Consul Enterprise 1.11). Default `CONSUL_PARTITION`. Older agents would ignore it in
    /// silence, so the agent's version is asked for first, which takes `agent:read`.
    pub fn partition(self, partition: impl Into<String>) -> Self {
        self.set(|code| code.partition = Some(partition.into()))
    }

    /// Reads only instances with this tag; with several, only those that have all. Default all instances.
    pub fn tag(self, tag: impl Into<String>) -> Self {
        self.set(|code| code.tags.get_or_insert_with(Vec::new).push(tag.into()))
    }

    /// Reads only instances that match this
    /// [expression](https://developer.hashicorp.com/consul/api-docs/features/filtering). Names are not filtered.
    pub fn filter(self, expression: impl Into<String>) -> Self {
        self.set(|code| code.filter = Some(expression.into()))
    }

    /// Asks Consul to sort by round trip time from this node (`_agent` is the agent's own). Snapshots are sorted by id
    /// all the same, so this only shows in what Consul does.
    pub fn near(self, node: impl Into<String>) -> Self {
        self.set(|code| code.near = Some(node.into()))
    }

    /// Reads only instances all of whose checks pass; those with a warning are left out too. Default `false`.
    pub fn passing(self, passing: bool) -> Self {
        self.set(|code| code.passing = Some(passing))
    }

    /// How reads weigh freshness against availability. Default [`Consistency::Default`].
    pub fn consistency(self, consistency: Consistency) -> Self {
        self.set(|code| code.consistency = Some(consistency))
    }

    /// How long one blocking query waits, 1 s to 10 min. Default 1 min.
    pub fn wait(self, wait: Duration) -> Self {
        self.set(|code| code.wait = Some(wait))
    }

    /// How long the agent may take to answer a read, beyond the time a blocking query waits, and how long it may give no
    /// sign of life while it does a write. Default 15 s: without a leader it takes 7 to 12 s to say so. A write is waited
    /// for as long as the agent lives, 5 min at most: without a leader it takes up to 90 s and is done all the same.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set(|code| code.timeout = Some(timeout))
    }

    /// The form registrations are written in. Default [`Wire::Plain`]. Reads understand both.
    pub fn wire(self, wire: Wire) -> Self {
        self.set(|code| code.wire = Some(wire))
    }

    /// A check that the agent runs against each instance: see [`Check`](crate::Check). Default none but the TTL.
    pub fn check(self, check: &str) -> Self {
        self.parse(check.parse(), |code, check| code.check = Some(check))
    }

    /// How often the agent runs [`check`](Self::check). Default 10 s.
    pub fn check_interval(self, interval: Duration) -> Self {
        self.set(|code| code.check_interval = Some(interval))
    }

    /// How long [`check`](Self::check) may take. Default 5 s.
    pub fn check_timeout(self, timeout: Duration) -> Self {
        self.set(|code| code.check_timeout = Some(timeout))
    }

    /// How long an instance may be critical before Consul removes it; `never` keeps it. Consul raises less than 1 min to
    /// that, and looks every 30 s. Default as in go-micro: 65 s for a TTL under a minute, else TTL + 5 s; without a TTL
    /// never.
    pub fn deregister_after(self, after: &str) -> Self {
        self.parse(after.parse(), |code, after| code.deregister_after = Some(after))
    }

    /// How long an agent must have been away before what is registered there is registered with another one, if there
    /// are several. Default 10 s.
    pub fn move_after(self, time: Duration) -> Self {
        self.set(|code| code.move_after = Some(time))
    }

    /// How long watches keep an instance that is missing, or whose TTL has ended, when Consul comes back after an outage: an
    /// agent that has forgotten everything knows its instances again when they next renew. Three times as long when the
    /// servers lost their state. Default 45 s; 0 is off.
    pub fn rejoin_grace(self, time: Duration) -> Self {
        self.set(|code| code.rejoin_grace = Some(time))
    }

    /// Makes the registry. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](switchboard_core::ErrorKind::Invalid) for anything given that does not parse or is out of
    /// range, and for files that cannot be read.
    pub fn build(self) -> Result<ConsulRegistry> {
        let env = if self.ignore_env { |_: &str| None } else { |name: &str| std::env::var(name).ok() };
        let built = match self.mistake {
            Some(invalid) => Err(invalid),
            None => {
                Settings::from_env(env).and_then(|env| ConsulRegistry::open(self.code.or(self.url).or(env)))
            }
        };
        built.map_err(|invalid| Error::invalid(BACKEND, "connect", &invalid))
    }
}
