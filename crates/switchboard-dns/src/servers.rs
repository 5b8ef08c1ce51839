//! Which name servers are asked: those that are given, or the system's, as they are now.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::{NameServer, NameServerPool, PoolContext, TlsConfig};
use switchboard_core::ErrorKind;
use tokio::time::Instant;

use crate::client::Failed;
use crate::config::DnsBuilder;

/// How often the system is asked where it has no file to be looked at.
#[cfg_attr(all(unix, not(any(target_os = "android", target_vendor = "apple"))), allow(dead_code))]
const ASK_SYSTEM: Duration = Duration::from_secs(30);

/// What asks one server over one protocol, or over UDP and what was cut short over TCP.
pub(crate) type Pool = NameServerPool<TokioRuntimeProvider>;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    context: Arc<PoolContext>,
}

impl Server {
    /// For one question, with connections of its own. A pool gives two who ask the same at a time one answer, and it may be older
    /// than the second question; and dnsmasq forks for each connection, so that one which is kept answers as of when it was made.
    pub(crate) fn pool(&self, tcp: bool) -> Pool {
        let protocols: &[ProtocolConfig] =
            if tcp { &[ProtocolConfig::Tcp] } else { &[ProtocolConfig::Udp, ProtocolConfig::Tcp] };
        let connections = protocols.iter().map(|protocol| {
            let mut connection = ConnectionConfig::new(protocol.clone());
            connection.port = self.address.port();
            connection
        });
        let config = NameServerConfig::new(self.address.ip(), true, connections.collect());
        let server = NameServer::new([], config, &self.context.options, TokioRuntimeProvider::default());
        Pool::from_nameservers(vec![Arc::new(server)], self.context.clone())
    }
}

/// The servers, and what the system says of names that are not absolute.
pub(crate) struct Servers {
    pub(crate) list: Vec<Server>,
    /// The one that gave an answer last.
    pub(crate) preferred: AtomicUsize,
    pub(crate) search: Vec<Name>,
    pub(crate) ndots: usize,
}

impl Servers {
    fn new(
        addresses: &[SocketAddr],
        search: Vec<Name>,
        ndots: usize,
        timeout: Duration,
    ) -> Result<Self, Failed> {
        let mut options = ResolverOpts::default();
        options.timeout = timeout;
        options.num_concurrent_reqs = 1;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.max_active_requests = usize::from(u16::MAX);
        let tls = TlsConfig::new()
            .map_err(|error| Failed::new(ErrorKind::Unavailable, format!("cannot ask: {error}")))?;
        let context = Arc::new(PoolContext::new(options, tls));
        let list =
            addresses.iter().map(|address| Server { address: *address, context: context.clone() }).collect();
        Ok(Self { list, preferred: AtomicUsize::new(0), search, ndots })
    }

    /// As the system has it.
    fn of_system(config: &ResolverConfig, options: &ResolverOpts, timeout: Duration) -> Result<Self, Failed> {
        let mut addresses = Vec::new();
        for server in config.name_servers() {
            let port = server.connections.first().map_or(53, |connection| connection.port);
            addresses.push(SocketAddr::new(server.ip, port));
        }
        let absolute = |name: &Name| {
            let mut name = name.clone();
            name.set_fqdn(true);
            name
        };
        let mut search: Vec<Name> = config.search().iter().map(absolute).collect();
        if search.is_empty() {
            search.extend(config.domain().map(absolute));
        }
        Self::new(&addresses, search, options.ndots, timeout)
    }
}

/// Where servers are known from.
pub(crate) struct Source {
    /// Those that are given.
    fixed: Option<Result<Arc<Servers>, Failed>>,
    path: PathBuf,
    timeout: Duration,
    /// What the system said last, from which bytes, and when.
    system: Mutex<Option<System>>,
}

struct System {
    /// What the file said.
    #[cfg_attr(not(all(unix, not(any(target_os = "android", target_vendor = "apple")))), allow(dead_code))]
    said: Vec<u8>,
    /// Where there is no file to be looked at.
    #[cfg_attr(all(unix, not(any(target_os = "android", target_vendor = "apple"))), allow(dead_code))]
    asked: Instant,
    servers: Arc<Servers>,
}

impl Source {
    pub(crate) fn new(config: &DnsBuilder) -> Self {
        let fixed = (!config.servers.is_empty())
            .then(|| Servers::new(&config.servers, Vec::new(), 1, config.timeout).map(Arc::new));
        Self { fixed, path: config.resolv_conf.clone(), timeout: config.timeout, system: Mutex::default() }
    }

    /// The servers to ask now. The system's configuration is looked at each time: it changes when a laptop moves.
    pub(crate) fn servers(&self) -> Result<Arc<Servers>, Failed> {
        if let Some(fixed) = &self.fixed {
            return fixed.clone();
        }
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        let known = system.take();
        let now = self.ask_system(known)?;
        let servers = now.servers.clone();
        *system = Some(now);
        Ok(servers)
    }

    #[cfg(all(unix, not(any(target_os = "android", target_vendor = "apple"))))]
    fn ask_system(&self, known: Option<System>) -> Result<System, Failed> {
        use hickory_resolver::system_conf::parse_resolv_conf;

        let path = self.path.display();
        let wrong = |what: &str, why: &dyn std::fmt::Display| {
            Failed::new(
                ErrorKind::Unavailable,
                format!("{what} {path}: {why}; or name servers: dns://10.0.0.2"),
            )
        };
        let said = std::fs::read(&self.path).map_err(|error| wrong("cannot read", &error))?;
        if let Some(known) = known.filter(|known| known.said == said) {
            return Ok(known);
        }
        let (config, options) =
            parse_resolv_conf(&said).map_err(|error| wrong("no name server is known from", &error))?;
        let servers = Arc::new(Servers::of_system(&config, &options, self.timeout)?);
        let addresses: Vec<SocketAddr> = servers.list.iter().map(|server| server.address).collect();
        tracing::debug!(?addresses, %path, "the system's name servers");
        Ok(System { said, asked: Instant::now(), servers })
    }

    #[cfg(not(all(unix, not(any(target_os = "android", target_vendor = "apple")))))]
    fn ask_system(&self, known: Option<System>) -> Result<System, Failed> {
        use hickory_resolver::system_conf::read_system_conf;

        if let Some(known) = known.filter(|known| known.asked.elapsed() < ASK_SYSTEM) {
            return Ok(known);
        }
        let (config, options) = read_system_conf().map_err(|error| {
            let why = format!("the system tells no name servers: {error}; name them: dns://10.0.0.2");
            Failed::new(ErrorKind::Unavailable, why)
        })?;
        let servers = Arc::new(Servers::of_system(&config, &options, self.timeout)?);
        Ok(System { said: self.path.as_os_str().as_encoded_bytes().to_vec(), asked: Instant::now(), servers })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn seen(source: &Source) -> String {
        match source.servers() {
            Ok(servers) => {
                let addresses: Vec<String> =
                    servers.list.iter().map(|server| server.address.to_string()).collect();
                let search: Vec<String> = servers.search.iter().map(Name::to_ascii).collect();
                format!("{} {} {}", addresses.join(","), search.join(","), servers.ndots)
            }
            Err(failed) => failed.to_string(),
        }
    }

    #[test]
    fn a_changed_resolv_conf_counts_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let source = Source::new(&DnsBuilder::default().resolv_conf(&path));
        assert!(seen(&source).starts_with("cannot read "), "{}", seen(&source));
        std::fs::write(
            &path,
            "nameserver 10.0.0.2\nnameserver ::1\nsearch a.example b.example\noptions ndots:5\n",
        )
        .unwrap();
        assert_eq!(seen(&source), "10.0.0.2:53,[::1]:53 a.example.,b.example. 5");
        assert!(Arc::ptr_eq(&source.servers().unwrap(), &source.servers().unwrap()));
        std::fs::write(&path, "nameserver 10.0.0.3\n").unwrap();
        assert!(seen(&source).starts_with("10.0.0.3:53 "), "{}", seen(&source));
        std::fs::write(&path, "# nothing\n").unwrap();
        assert!(seen(&source).starts_with("no name server is known from "), "{}", seen(&source));
    }

    #[test]
    fn those_that_are_given_are_asked_and_the_system_is_not() {
        let given = DnsBuilder::default().server("127.0.0.1:5353".parse().unwrap()).resolv_conf("/nowhere");
        assert_eq!(seen(&Source::new(&given)), "127.0.0.1:5353  1");
    }
}
