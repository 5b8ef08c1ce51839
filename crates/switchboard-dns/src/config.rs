use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use switchboard_core::{Error, Invalid, RegistryUrl, Result};

use crate::{BACKEND, DnsRegistry, names};

/// The port of name servers (RFC 1035, section 4.2).
const PORT: u16 = 53;

/// Asking more often would be a busy loop.
const SHORTEST_REFRESH: Duration = Duration::from_millis(10);

/// No name server takes longer to answer.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Which records say where a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Records {
    /// SRV records and, where there is none, addresses; the default.
    #[default]
    Auto,
    /// SRV records (RFC 2782).
    Srv,
    /// Addresses, all at the port that is given.
    Addresses,
    /// DNS-SD (RFC 6763).
    DnsSd,
}

/// Which addresses to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IpVersion {
    /// IPv4 and, where a host has none, IPv6; the default: a host with both is not two instances.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Both,
}

/// How a [`DnsRegistry`] asks; made by [`DnsRegistry::builder`].
///
/// Every option is also a URL parameter of the same name, and servers are the URL's host:
/// `dns://10.0.0.2,10.0.0.3:5353?domain=example.com&record=srv`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a registry comes into being with `open()`"]
pub struct DnsBuilder {
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) resolv_conf: PathBuf,
    pub(crate) domain: Option<String>,
    pub(crate) record: Records,
    pub(crate) port: Option<u16>,
    pub(crate) ip: IpVersion,
    pub(crate) tcp: bool,
    pub(crate) min_refresh: Duration,
    pub(crate) max_refresh: Duration,
    pub(crate) timeout: Duration,
    pub(crate) window: Duration,
}

impl Default for DnsBuilder {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            domain: None,
            record: Records::Auto,
            port: None,
            ip: IpVersion::Any,
            tcp: false,
            min_refresh: Duration::from_secs(5),
            max_refresh: Duration::from_secs(30),
            timeout: Duration::from_secs(2),
            window: Duration::ZERO,
        }
    }
}

impl DnsBuilder {
    /// Asks this name server. May be given several times: the next is asked when one gives no answer, and kept to as long as it
    /// does. Default: those of the system.
    pub fn server(mut self, address: SocketAddr) -> Self {
        self.servers.push(address);
        self
    }

    /// Sets the file that names the system's servers, search list and `ndots`, where no server is given. It is read again when it has
    /// changed. Default `/etc/resolv.conf`; on Windows, macOS and Android the system is asked instead.
    pub fn resolv_conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.resolv_conf = path.into();
        self
    }

    /// Sets what is appended to every service's name: `service.consul`, `my-namespace.svc.cluster.local`. Default: nothing, and the
    /// system's search list applies. DNS-SD needs one.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Sets which records say where a service is: in a URL `auto`, `srv`, `a` or `dnssd`. Default `auto`. Saying which saves
    /// questions.
    pub fn record(mut self, record: Records) -> Self {
        self.record = record;
        self
    }

    /// Sets the port of instances that are known by address. Without it `a` is refused, and `auto` has SRV records only.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Sets which addresses to ask for: in a URL `v4`, `v6` or `both`. Default IPv4 and, where there is none, IPv6.
    pub fn ip(mut self, ip: IpVersion) -> Self {
        self.ip = ip;
        self
    }

    /// Whether everything is asked over TCP. Default: over UDP first.
    pub fn tcp(mut self, tcp: bool) -> Self {
        self.tcp = tcp;
        self
    }

    /// Sets how soon a watched service is asked for again at the soonest, whatever the time to live. Default 5 s, at least 10 ms.
    pub fn min_refresh(mut self, interval: Duration) -> Self {
        self.min_refresh = interval;
        self
    }

    /// Sets how late it is asked for again at the latest; after errors at most 10 s later. Default 30 s: a platform's time to live may say
    /// more than it keeps, such as Docker's 600 s.
    pub fn max_refresh(mut self, interval: Duration) -> Self {
        self.max_refresh = interval;
        self
    }

    /// Sets how long one server may take to answer one question. Default 2 s; at most 60 s.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Sets how long watches keep an instance that answers leave out, for servers that give some of many, another part each time.
    /// Default 0: it goes at once. An answer that there is nothing at all counts at once in any case.
    pub fn window(mut self, time: Duration) -> Self {
        self.window = time;
        self
    }

    /// Opens it. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// `Invalid` for a domain that is no name, port 0, addresses without a port, DNS-SD without a domain, and intervals that make
    /// no sense.
    pub fn open(self) -> Result<DnsRegistry> {
        let domain = self.check().map_err(|invalid| Error::invalid(BACKEND, "connect", &invalid))?;
        Ok(DnsRegistry::of(self, domain))
    }

    /// The options in `url`: `dns:` with servers and parameters.
    pub(crate) fn from_url(url: &RegistryUrl) -> Result<Self, Invalid> {
        let mut builder = Self::default();
        match url.rest().strip_prefix("//") {
            None if url.rest().is_empty() => {}
            None => {
                let why = "is not //SERVER,SERVER; options go into parameters";
                return Err(Invalid::quoting("dns URL", url.rest(), why));
            }
            Some(servers) => {
                for server in servers.trim_end_matches('/').split(',') {
                    builder.servers.push(parse_server(server)?);
                }
            }
        }
        let mut params = url.params(BACKEND);
        if let Some(path) = params.take::<String>("resolv_conf")? {
            builder.resolv_conf = path.into();
        }
        builder.domain = params.take("domain")?;
        builder.record = params.take("record")?.unwrap_or_default();
        builder.port = params.take("port")?;
        builder.ip = params.take("ip")?.unwrap_or_default();
        builder.tcp = params.take_switch("tcp")?.unwrap_or_default();
        for (name, place) in [
            ("min_refresh", &mut builder.min_refresh),
            ("max_refresh", &mut builder.max_refresh),
            ("timeout", &mut builder.timeout),
            ("window", &mut builder.window),
        ] {
            if let Some(duration) = params.take_duration(name)? {
                *place = duration;
            }
        }
        params.finish()?;
        Ok(builder)
    }

    fn check(&self) -> Result<Option<Name>, Invalid> {
        let given = |what: &str, duration: Duration| format!("dns {what} of {duration:?}");
        if self.min_refresh < SHORTEST_REFRESH {
            let why = format!("is shorter than {SHORTEST_REFRESH:?}");
            return Err(Invalid::new(given("min_refresh", self.min_refresh), why));
        }
        if self.max_refresh < self.min_refresh {
            let why = format!("is shorter than the min_refresh of {:?}", self.min_refresh);
            return Err(Invalid::new(given("max_refresh", self.max_refresh), why));
        }
        if self.timeout.is_zero() || self.timeout > LONGEST_TIMEOUT {
            let why = format!("is not between 1ms and {LONGEST_TIMEOUT:?}");
            return Err(Invalid::new(given("timeout", self.timeout), why));
        }
        if self.port == Some(0) {
            return Err(Invalid::new("dns port 0", "is none that anybody can connect to"));
        }
        if self.record == Records::Addresses && self.port.is_none() {
            let why = "needs a port, which address records do not have; add port=80 or the like";
            return Err(Invalid::new("dns record \"a\"", why));
        }
        if self.record == Records::DnsSd && self.domain.is_none() {
            return Err(Invalid::new(
                "dns record \"dnssd\"",
                "needs a domain; add domain=example.com or the like",
            ));
        }
        self.domain.as_deref().map(names::domain).transpose()
    }
}

/// `10.0.0.2`, `10.0.0.2:5353`, `::1`, `[::1]:5353`.
fn parse_server(text: &str) -> Result<SocketAddr, Invalid> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(Invalid::quoting("name server", text, "has port 0, at which nobody listens")),
            _ => Ok(address),
        };
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let why = "is no IP address; a name server is written 10.0.0.2, 10.0.0.2:5353 or [::1]:5353";
    let ip: IpAddr = bare.parse().map_err(|_| Invalid::quoting("name server", text, why))?;
    Ok((ip, PORT).into())
}

impl FromStr for Records {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "auto" => Ok(Self::Auto),
            "srv" => Ok(Self::Srv),
            "a" => Ok(Self::Addresses),
            "dnssd" => Ok(Self::DnsSd),
            _ => Err(Invalid::quoting("record", text, "is none of auto, srv, a, dnssd")),
        }
    }
}

impl FromStr for IpVersion {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "v4" => Ok(Self::V4),
            "v6" => Ok(Self::V6),
            "both" => Ok(Self::Both),
            _ => Err(Invalid::quoting("ip version", text, "is none of v4, v6, both")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<DnsBuilder, Invalid> {
        let builder = DnsBuilder::from_url(&url.parse()?)?;
        builder.check().map(|_| builder)
    }

    #[test]
    fn every_option_is_a_parameter() {
        let url = "dns://10.0.0.2,[::1]:5353,::2?resolv_conf=/x&domain=example.com.&record=srv&port=80&ip=both&tcp&min_refresh=1s\
                   &max_refresh=2s&timeout=3s&window=4s";
        let built = DnsBuilder::default()
            .server("10.0.0.2:53".parse().unwrap())
            .server("[::1]:5353".parse().unwrap())
            .server("[::2]:53".parse().unwrap())
            .resolv_conf("/x")
            .domain("example.com.")
            .record(Records::Srv)
            .port(80)
            .ip(IpVersion::Both)
            .tcp(true)
            .min_refresh(Duration::from_secs(1))
            .max_refresh(Duration::from_secs(2))
            .timeout(Duration::from_secs(3))
            .window(Duration::from_secs(4));
        assert_eq!(parse(url).unwrap(), built);
        assert_eq!(parse("dns:").unwrap(), DnsBuilder::default());
        let built = DnsBuilder::default().domain("x").record(Records::DnsSd).ip(IpVersion::V6);
        assert_eq!(parse("dns:?record=dnssd&domain=x&ip=v6").unwrap(), built);
    }

    #[test]
    fn mistakes_are_named() {
        for (url, message) in [
            ("dns:10.0.0.2", "dns URL \"10.0.0.2\": is not //SERVER,SERVER; options go into parameters"),
            (
                "dns://ns.example",
                "name server \"ns.example\": is no IP address; a name server is written 10.0.0.2, 10.0.0.2:5353 or [::1]:5353",
            ),
            (
                "dns://",
                "name server \"\": is no IP address; a name server is written 10.0.0.2, 10.0.0.2:5353 or [::1]:5353",
            ),
            ("dns://10.0.0.2:0", "name server \"10.0.0.2:0\": has port 0, at which nobody listens"),
            ("dns:?record=mx", "dns parameter \"record\": record \"mx\": is none of auto, srv, a, dnssd"),
            ("dns:?ip=v5", "dns parameter \"ip\": ip version \"v5\": is none of v4, v6, both"),
            (
                "dns:?record=a",
                "dns record \"a\": needs a port, which address records do not have; add port=80 or the like",
            ),
            ("dns:?record=dnssd", "dns record \"dnssd\": needs a domain; add domain=example.com or the like"),
            ("dns:?port=0", "dns port 0: is none that anybody can connect to"),
            ("dns:?min_refresh=1ms", "dns min_refresh of 1ms: is shorter than 10ms"),
            ("dns:?max_refresh=1s", "dns max_refresh of 1s: is shorter than the min_refresh of 5s"),
            ("dns:?timeout=0s", "dns timeout of 0ns: is not between 1ms and 60s"),
            ("dns:?domain=a..b", "domain \"a..b\": has an empty label"),
            (
                "dns:?x=1",
                "dns parameter \"x\": is unknown; there are: domain, ip, max_refresh, min_refresh, port, record, resolv_conf, tcp, \
                 timeout, window",
            ),
        ] {
            assert_eq!(parse(url).unwrap_err().to_string(), message);
        }
    }
}
