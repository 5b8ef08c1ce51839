//! What can be said of the proxy on the command line, and what is made of it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use hyper::header::HeaderName;
use switchboard::ServiceName;
use switchboard::client::{Caller, Options, Retry};
use switchboard::selector::{Filter, Selector, SelectorBuilder};
use switchboard::watcher::Directory;
use tokio::net::TcpListener;

use crate::args::{InstanceFilter, StrategyName, duration};
use crate::failure::Failure;

/// Each connection takes two files, and some are for other things.
const OTHER_FILES: u64 = 64;

#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// The port on loopback; 0 chooses a free one
    #[arg(long, default_value_t = 8080, conflicts_with = "listen")]
    pub(crate) port: u16,
    /// Listen here instead, which may be more than loopback; may be given several times
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Forward connections to PORT on loopback to a service, whatever they carry; may be given several times
    #[arg(long, value_name = "[IP:]PORT=SERVICE")]
    pub(crate) tcp: Vec<Tunnel>,
    /// A host name that stands for a service, beside NAME.localhost; may be given several times
    #[arg(long, value_name = "HOST=SERVICE")]
    pub(crate) map: Vec<Mapped>,
    /// How an instance is chosen
    #[arg(long, default_value = "random")]
    pub(crate) strategy: StrategyName,
    /// With `--strategy hash`: requests with the same value of this header go to one instance
    #[arg(long, value_name = "NAME")]
    pub(crate) key_header: Option<HeaderName>,
    /// Instances of this zone first, as long as enough of them are usable
    #[arg(long)]
    pub(crate) zone: Option<String>,
    #[command(flatten)]
    pub(crate) filter: InstanceFilter,
    /// How often a request that may be repeated is tried again
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) retries: u32,
    /// How long a connection to an instance may take to come about
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "3s")]
    pub(crate) connect_timeout: Duration,
    /// How long an instance may take to begin to answer once it has the whole request
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "15s")]
    pub(crate) answer_timeout: Duration,
    /// How long a request may take, with all tries, until it begins to be answered [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) request_timeout: Option<Duration>,
    /// How long a stream, a WebSocket or a TCP connection may be silent
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1h")]
    pub(crate) idle_timeout: Duration,
    /// More connections wait [default: 1024, or fewer where the system allows fewer open files]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_connections: Option<u32>,
    /// How long what is in flight may take at the end
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "8s")]
    pub(crate) drain: Duration,
}

/// A port whose connections go to a service.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    address: SocketAddr,
    pub(crate) service: ServiceName,
}

impl FromStr for Tunnel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (at, service) = text.split_once('=').ok_or("is not PORT=SERVICE")?;
        let address = match at.parse::<u16>() {
            Ok(port) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            Err(_) => at.parse().map_err(|_| format!("{at:?} is neither a port nor IP:PORT"))?,
        };
        let service = ServiceName::new(service).map_err(|error| error.to_string())?;
        Ok(Self { address, service })
    }
}

/// A host name for a service.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    host: String,
    service: ServiceName,
}

impl FromStr for Mapped {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, service) = text.split_once('=').ok_or("is not HOST=SERVICE")?;
        if host.is_empty() || host.contains([':', '/', '@']) || host.parse::<IpAddr>().is_ok() {
            return Err(format!("{host:?} is no host name"));
        }
        let service = ServiceName::new(service).map_err(|error| error.to_string())?;
        Ok(Self { host: host.to_ascii_lowercase(), service })
    }
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match (self.strategy, &self.key_header) {
            (StrategyName::Hash, None) => Err(Failure::usage("--strategy hash needs a --key-header")),
            (other, Some(_)) if other != StrategyName::Hash => {
                Err(Failure::usage("--key-header is for --strategy hash; the others ignore it"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn selector(&self, directory: Directory) -> Selector {
        let builder = self.strategy.on(Selector::builder(directory));
        let filters = self.filter.selecting().chain(self.zone.iter().map(Filter::prefer_zone));
        filters.fold(builder, SelectorBuilder::filter).build()
    }

    pub(crate) fn caller(&self, selector: Selector) -> Caller {
        let options = match self.request_timeout {
            Some(timeout) => Options::new().timeout(timeout),
            None => Options::new(),
        };
        Caller::new(selector).retry(Retry::new().most(self.retries)).options(options)
    }

    /// Services by the hosts that stand for them, in lower case.
    pub(crate) fn hosts(&self) -> HashMap<String, ServiceName> {
        self.map.iter().map(|mapped| (mapped.host.clone(), mapped.service.clone())).collect()
    }

    pub(crate) fn connections(&self) -> usize {
        let by_files = usize::try_from(open_files().saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX);
        let wanted = self.max_connections.map_or(1024, |most| usize::try_from(most).unwrap_or(usize::MAX));
        wanted.min(by_files).max(1)
    }

    /// Where HTTP is listened for. On loopback by both families, since a name under `localhost` may be either.
    pub(crate) async fn bind(&self) -> Result<Vec<TcpListener>, Failure> {
        if !self.listen.is_empty() {
            let mut listeners = Vec::new();
            for address in &self.listen {
                listeners.push(bind(*address).await?);
            }
            return Ok(listeners);
        }
        let first = bind((Ipv4Addr::LOCALHOST, self.port).into()).await?;
        let port = first.local_addr().map_or(self.port, |address| address.port());
        // There may be no IPv6; who resolves to both tries both.
        let second = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await.ok();
        Ok(std::iter::once(first).chain(second).collect())
    }

    /// Where connections for a service are listened for.
    pub(crate) async fn bind_tunnels(&self) -> Result<Vec<(TcpListener, ServiceName)>, Failure> {
        let mut listeners = Vec::new();
        for Tunnel { address, service } in &self.tcp {
            listeners.push((bind(*address).await?, service.clone()));
        }
        Ok(listeners)
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let taken = error.kind() == std::io::ErrorKind::AddrInUse;
        let advice = if taken { "; --port chooses another" } else { "" };
        Failure::failed(format!("cannot listen on {address}{advice}")).because(&error)
    })
}

/// How many files this process may have open.
#[cfg(unix)]
fn open_files() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(not(unix))]
fn open_files() -> u64 {
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_hosts_of_services_are_read() {
        let tunnel: Tunnel = "5432=db".parse().unwrap();
        assert_eq!((tunnel.address.to_string().as_str(), tunnel.service.as_str()), ("127.0.0.1:5432", "db"));
        let tunnel: Tunnel = "[::1]:0=a=b".parse().unwrap();
        assert_eq!((tunnel.address.to_string().as_str(), tunnel.service.as_str()), ("[::1]:0", "a=b"));
        for bad in ["5432", "x=db", "70000=db", "1=", "localhost:1=db"] {
            assert!(bad.parse::<Tunnel>().is_err(), "{bad}");
        }
        let mapped: Mapped = "API.test=Orders".parse().unwrap();
        assert_eq!((mapped.host.as_str(), mapped.service.as_str()), ("api.test", "Orders"));
        for bad in ["api", "=a", "api:80=a", "127.0.0.1=a", "http://a=a", "a="] {
            assert!(bad.parse::<Mapped>().is_err(), "{bad}");
        }
    }
}
