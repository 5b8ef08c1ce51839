//! The builder, the URL and the environment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use switchboard_core::{Error, Invalid, RegistryUrl, Result};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::BACKEND;
use crate::backend::EtcdRegistry;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What values are written as. All are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// The instance as JSON.
    #[default]
    Plain,
    /// As go-micro's etcd registry does, under its prefix unless another is given: `/micro/registry`.
    GoMicro,
    /// As gRPC's etcd naming does (`etcd/client/v3/naming`), without a prefix unless one is given.
    Grpc,
}

/// Sets up an [`EtcdRegistry`].
///
/// Every method is also a URL parameter of the same name; endpoints and prefix are in the URL itself:
/// `etcd://10.0.0.1:2379,10.0.0.2:2379/services?user=reader`. What neither code nor URL sets is taken from the environment variables
/// of `etcdctl`, and then from the defaults.
#[derive(Clone, Default)]
#[must_use = "a registry comes into being with `open()`"]
pub struct EtcdBuilder {
    endpoints: Vec<String>,
    prefix: Option<String>,
    wire: Wire,
    user: Option<String>,
    password: Option<String>,
    tls: Option<bool>,
    ca_cert: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    timeout: Option<Duration>,
    rejoin_grace: Option<Duration>,
}

/// All that is needed, with defaults filled in.
#[derive(Clone)]
pub(crate) struct Settings {
    /// At least one.
    pub(crate) members: Vec<Member>,
    pub(crate) prefix: String,
    pub(crate) wire: Wire,
    pub(crate) timeout: Duration,
    pub(crate) rejoin_grace: Duration,
    pub(crate) user: Option<User>,
}

/// A member of the cluster.
#[derive(Clone)]
pub(crate) struct Member {
    /// `HOST:PORT`.
    pub(crate) host: String,
    pub(crate) endpoint: Endpoint,
}

#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl EtcdBuilder {
    /// Takes what `url` says.
    ///
    /// # Errors
    ///
    /// [`Invalid`] for what is no such URL, and for parameters that do not exist.
    pub fn from_url(url: &RegistryUrl) -> Result<Self, Invalid> {
        let mut params = url.params(BACKEND);
        let (hosts, prefix) = match url.rest().strip_prefix("//") {
            Some(rest) => rest.split_once('/').map_or((rest, None), |(hosts, prefix)| (hosts, Some(prefix))),
            None if url.rest().is_empty() => ("", None),
            None => {
                let why = "is no place of etcd; write etcd://127.0.0.1:2379, or etcd://a:2379,b:2379/prefix";
                return Err(Invalid::new("etcd URL", why));
            }
        };
        let endpoints: Vec<String> =
            hosts.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect();
        if endpoints.iter().any(|host| host.contains('@')) {
            let why = "hold no credentials; write ?user=NAME&password=…, or set ETCDCTL_USER";
            return Err(Invalid::new("etcd endpoints", why));
        }
        let wire = params.take_with("wire", |wire| match wire {
            "plain" => Ok(Wire::Plain),
            "go-micro" => Ok(Wire::GoMicro),
            "grpc" => Ok(Wire::Grpc),
            other => Err(format!("{other:?} is none of plain, go-micro and grpc")),
        })?;
        let builder = Self {
            endpoints,
            prefix: prefix.filter(|prefix| !prefix.is_empty()).map(str::to_owned),
            wire: wire.unwrap_or_default(),
            user: params.take("user")?,
            password: params.take("password")?,
            tls: params.take_switch("tls")?,
            ca_cert: params.take("ca_cert")?,
            client_cert: params.take("client_cert")?,
            client_key: params.take("client_key")?,
            timeout: params.take_duration("timeout")?,
            rejoin_grace: params.take_duration("rejoin_grace")?,
        };
        params.finish()?;
        Ok(builder)
    }

    /// Adds a member, as `HOST:PORT`. Default `ETCDCTL_ENDPOINTS`, or `127.0.0.1:2379`.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// What all keys begin with, before a slash. Default `switchboard`, or what the [wire](Self::wire) has.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// How values are written. Default [`Wire::Plain`].
    pub fn wire(mut self, wire: Wire) -> Self {
        self.wire = wire;
        self
    }

    /// The user and the password. Default `ETCDCTL_USER`, as `NAME:PASSWORD` or with `ETCDCTL_PASSWORD`, or none.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        (self.user, self.password) = (Some(name.into()), Some(password.into()));
        self
    }

    /// Whether to speak TLS. Default: if certificates are given.
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = Some(tls);
        self
    }

    /// A PEM file of the certificate authorities to trust. Default `ETCDCTL_CACERT`, or the system's.
    pub fn ca_cert(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_cert = Some(path.into());
        self
    }

    /// PEM files of the client's certificate and its key. Default `ETCDCTL_CERT` and `ETCDCTL_KEY`, or none.
    pub fn client_cert(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        (self.client_cert, self.client_key) = (Some(certificate.into()), Some(key.into()));
        self
    }

    /// How long one request may take. Default 10 s.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// How long watches keep what is missing when a cluster comes back that has lost what it knew, so that servers can renew
    /// first. Default 45 s; zero is off. Nothing is kept after any other outage.
    pub fn rejoin_grace(mut self, time: Duration) -> Self {
        self.rejoin_grace = Some(time);
        self
    }

    /// Opens the registry. Nothing is connected until something is asked for.
    ///
    /// # Errors
    ///
    /// `Invalid` for files that cannot be read, and endpoints that are none.
    pub fn open(self) -> Result<EtcdRegistry> {
        let settings = self.settings(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        settings.map(EtcdRegistry::new).map_err(|invalid| Error::invalid(BACKEND, "connect", &invalid))
    }

    fn settings(self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Settings, Invalid> {
        let path = |name| variable(name).map(PathBuf::from);
        let ca_cert = self.ca_cert.or_else(|| path("ETCDCTL_CACERT"));
        let client_cert = self.client_cert.or_else(|| path("ETCDCTL_CERT"));
        let client_key = self.client_key.or_else(|| path("ETCDCTL_KEY"));
        let mut endpoints = self.endpoints;
        if endpoints.is_empty() {
            let given = variable("ETCDCTL_ENDPOINTS").unwrap_or_else(|| "127.0.0.1:2379".into());
            endpoints = given.split(',').map(|endpoint| endpoint.trim().to_owned()).collect();
        }
        let is_https = endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        let tls = self.tls.unwrap_or(is_https || ca_cert.is_some() || client_cert.is_some());
        let scheme = if tls { "https" } else { "http" };
        let tls = if tls { Some(tls_config(ca_cert, client_cert, client_key)?) } else { None };
        let members = endpoints.iter().map(|endpoint| {
            let host = endpoint.split_once("://").map_or(&**endpoint, |(_, host)| host);
            member(scheme, host.trim_end_matches('/'), tls.clone())
        });
        let members = members.collect::<Result<Vec<_>, _>>()?;
        let user = match self.user.or_else(|| variable("ETCDCTL_USER")) {
            None => None,
            Some(user) => Some(match user.split_once(':') {
                Some((name, password)) if self.password.is_none() => {
                    User { name: name.to_owned(), password: password.to_owned() }
                }
                _ => {
                    let password = self.password.or_else(|| variable("ETCDCTL_PASSWORD"));
                    let why = "needs a password: ETCDCTL_PASSWORD, or password= in the URL";
                    User { name: user, password: password.ok_or_else(|| Invalid::new("etcd user", why))? }
                }
            }),
        };
        let prefix = self.prefix.unwrap_or_else(|| {
            match self.wire {
                Wire::Plain => "switchboard",
                Wire::GoMicro => "/micro/registry",
                Wire::Grpc => "",
            }
            .into()
        });
        let timeout = self.timeout.unwrap_or(Duration::from_secs(10));
        let rejoin_grace = self.rejoin_grace.unwrap_or(Duration::from_secs(45));
        Ok(Settings { members, prefix, wire: self.wire, timeout, rejoin_grace, user })
    }
}

fn member(scheme: &str, host: &str, tls: Option<ClientTlsConfig>) -> Result<Member, Invalid> {
    let is_none = || Invalid::quoting("etcd endpoint", host, "is no HOST:PORT");
    let endpoint = Endpoint::from_shared(format!("{scheme}://{host}")).map_err(|_| is_none())?;
    if endpoint.uri().port_u16().is_none() || endpoint.uri().path() != "/" {
        return Err(is_none());
    }
    let mut endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        // etcd refuses pings more often than each 5 s. A connection that has died is an error within 15 s, not silence.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls).map_err(|error| {
            let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
            Invalid::new("TLS to etcd", format!("cannot be set up from the files given: {cause}"))
        })?;
    }
    Ok(Member { host: host.to_owned(), endpoint })
}

fn tls_config(
    ca_cert: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
) -> Result<ClientTlsConfig, Invalid> {
    let mut tls = ClientTlsConfig::new().timeout(CONNECT_TIMEOUT);
    tls = match ca_cert {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read_pem(&path, "CERTIFICATE")?)),
        None => tls.with_enabled_roots(),
    };
    match (client_cert, client_key) {
        (Some(cert), Some(key)) => {
            let cert = read_pem(&cert, "CERTIFICATE")?;
            Ok(tls.identity(Identity::from_pem(cert, read_pem(&key, "PRIVATE KEY")?)))
        }
        (None, None) => Ok(tls),
        _ => Err(Invalid::new("etcd client certificate", "takes both a certificate and its key")),
    }
}

/// A PEM file that holds something of this kind.
fn read_pem(path: &Path, kind: &str) -> Result<Vec<u8>, Invalid> {
    let what = || format!("file {}", path.display());
    let pem = std::fs::read(path).map_err(|error| Invalid::new(what(), error.to_string()))?;
    if String::from_utf8_lossy(&pem)
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.contains(kind))
    {
        return Ok(pem);
    }
    Err(Invalid::new(what(), format!("holds no {} in PEM", kind.to_lowercase())))
}

/// Without credentials.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<&str> = self.members.iter().map(|member| &*member.host).collect();
        write!(f, "etcd://{}/{}", hosts.join(","), self.prefix)
    }
}

impl fmt::Debug for EtcdBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdBuilder")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}
