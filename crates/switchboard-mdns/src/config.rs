use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use if_addrs::Interface;
use switchboard_core::{Error, Invalid, RegistryUrl, Result};
use switchboard_net::interface::{self, Choice};
use switchboard_net::mdns;

use crate::{BACKEND, MdnsRegistry};

/// The longest settle window: nobody waits longer than a minute for a first answer.
const MAX_SETTLE: Duration = Duration::from_secs(60);

/// How an [`MdnsRegistry`] uses the network; made by [`MdnsRegistry::builder`].
///
/// Every option is also a URL parameter of the same name: `mdns:?interface=lo&port=5454&settle=100ms&ip=v4`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a registry comes into being with `open().await`"]
pub struct MdnsBuilder {
    pub(crate) interfaces: Vec<Choice>,
    pub(crate) port: u16,
    pub(crate) settle: Duration,
    pub(crate) ip: IpVersion,
    pub(crate) receive_buffer: usize,
}

/// Which version of the Internet Protocol to speak mDNS over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IpVersion {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both, the default.
    #[default]
    Both,
}

impl Default for MdnsBuilder {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            port: mdns_sd::MDNS_PORT,
            settle: Duration::from_millis(500),
            ip: IpVersion::Both,
            receive_buffer: 4 << 20,
        }
    }
}

impl MdnsBuilder {
    /// Uses this interface only: a name (`eth0`), an address of it (`192.168.1.7`), or `lo` for loopback on any system.
    /// May be given several times. Default: all interfaces, loopback too, also those that appear later, without those that mDNS
    /// cannot use: point-to-point links (`WireGuard`, tun, utun, PPP) and Apple's `awdl` and `llw`.
    ///
    /// With any interface but loopback in view, loopback alone is not enough to say that something is not there: see
    /// [Without a network](crate#without-a-network).
    pub fn interface(mut self, interface: impl AsRef<str>) -> Self {
        self.interfaces.push(interface.as_ref().into());
        self
    }

    /// Sets the UDP port. Default 5353; with another one, only registries on the same port see each other. For tests.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets the settle window: the first lookup or watch goes on listening until no answer has arrived for as long.
    /// Default 500 ms: RFC 6762 §6 lets responders take 120, and a device on Wi-Fi that saves power hears a question up to
    /// 300 later. At most 60 s.
    ///
    /// Where answers take long to come the window is half as long as they have come for, and where they keep arriving, it
    /// ends after 3 s, or two windows if that is longer. Where not everybody answers by unicast, see
    /// [`MdnsRegistry`], it lasts until 1.5 s after the first question.
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Sets the IP version. Default both.
    pub fn ip(mut self, ip: IpVersion) -> Self {
        self.ip = ip;
        self
    }

    /// Sets the size of the sockets' receive buffer in bytes. Default 4 MiB, enough for the answers of 5,000 instances
    /// at once.
    ///
    /// Linux caps it at `net.core.rmem_max` unless the process has the capability `CAP_NET_ADMIN`. On other systems the
    /// sockets that listen all the time keep the system's default (on macOS and the BSDs `net.inet.udp.recvspace`), and
    /// only those of a first state, which most answers come to, ask for this. [`MdnsRegistry::receive_buffer`] says what
    /// was granted, and less than was asked for is warned of once, with how more is had.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// Starts the registry: one thread that speaks mDNS, one that reads what it hears.
    ///
    /// Succeeds without any network: what is registered is announced when an interface appears. So does a named interface that
    /// exists and is down or has no address yet; until it has, operations fail with `Unavailable`. (Systems other than Linux
    /// do not tell of an interface without an address: there it does not exist.)
    ///
    /// # Errors
    ///
    /// `Invalid` for an interface or address that does not exist, an interface that mDNS cannot use, port 0, a settle window above 60 s, and IPv6 on loopback, which
    /// has no multicast.
    /// `Unavailable` when another program holds the port for itself alone, or the system refuses a socket or thread.
    pub async fn open(self) -> Result<MdnsRegistry> {
        self.check().map_err(|invalid| Error::invalid(BACKEND, "connect", &invalid))?;
        MdnsRegistry::open(self).await
    }

    /// The options in `url`: `mdns:` with parameters. Nothing is opened.
    ///
    /// # Errors
    ///
    /// [`Invalid`] for something behind `mdns:`, an unknown parameter, and a value that cannot be read.
    pub fn from_url(url: &RegistryUrl) -> Result<Self, Invalid> {
        if !url.rest().is_empty() {
            return Err(Invalid::new(
                "mdns URL",
                "has something after \"mdns:\"; options go into parameters",
            ));
        }
        let mut params = url.params(BACKEND);
        let mut builder = Self::default();
        for interface in params.take_all("interface") {
            builder = builder.interface(interface);
        }
        if let Some(port) = params.take("port")? {
            builder.port = port;
        }
        if let Some(settle) = params.take_duration("settle")? {
            builder.settle = settle;
        }
        if let Some(ip) = params.take("ip")? {
            builder.ip = ip;
        }
        if let Some(bytes) = params.take("receive_buffer")? {
            builder.receive_buffer = bytes;
        }
        params.finish()?;
        Ok(builder)
    }

    fn check(&self) -> Result<(), Invalid> {
        if self.port == 0 {
            return Err(Invalid::new("mdns port 0", "is no port; mDNS uses 5353"));
        }
        if self.settle > MAX_SETTLE {
            let why = format!("is longer than the limit of {} s", MAX_SETTLE.as_secs());
            return Err(Invalid::new(format!("mdns settle window of {:?}", self.settle), why));
        }
        let all = interface::all().unwrap_or_default();
        self.interfaces.iter().try_for_each(|choice| self.check_interface(choice, &all))
    }

    fn check_interface(&self, choice: &Choice, all: &[Interface]) -> Result<(), Invalid> {
        let what = || format!("mdns interface {:?}", choice.to_string());
        if choice.is_loopback(all) && self.ip == IpVersion::V6 {
            let why = "cannot work: loopback has no IPv6 multicast";
            return Err(Invalid::new(format!("{} with ip v6", what()), why));
        }
        let mut found = all.iter().filter(|interface| choice.matches(interface)).peekable();
        if found.peek().is_none() {
            return match choice {
                // It has no address yet.
                Choice::Name(name) if interface::exists(name) == Some(true) => Ok(()),
                _ => Err(Invalid::new(what(), format!("does not exist; there are: {}", names(all)))),
            };
        }
        let unusable: Option<Vec<_>> = found.map(mdns::unusable).collect();
        match unusable.as_deref() {
            Some([why, ..]) => Err(Invalid::new(what(), format!("{why}; use another interface, or consul:"))),
            _ => Ok(()),
        }
    }
}

/// The names of the interfaces that mDNS can use.
fn names(all: &[Interface]) -> String {
    let usable = all.iter().filter(|interface| mdns::unusable(interface).is_none());
    let names: BTreeSet<&str> = usable.map(|interface| interface.name.as_str()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
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

    fn parse(url: &str) -> Result<MdnsBuilder, Invalid> {
        MdnsBuilder::from_url(&url.parse().unwrap())
    }

    #[test]
    fn every_option_is_a_parameter() {
        let from_url =
            parse("mdns:?interface=lo&interface=10.0.0.1&port=5454&settle=10ms&ip=v4&receive_buffer=1000");
        let built = MdnsBuilder::default()
            .interface("lo")
            .interface("10.0.0.1")
            .port(5454)
            .settle(Duration::from_millis(10))
            .ip(IpVersion::V4)
            .receive_buffer(1000);
        assert_eq!(from_url.unwrap(), built);
        assert_eq!(parse("mdns:").unwrap(), MdnsBuilder::default());
    }

    #[test]
    fn mistakes_are_named() {
        for (url, message) in [
            ("mdns://host", "mdns URL: has something after \"mdns:\"; options go into parameters"),
            ("mdns:?ip=v5", "mdns parameter \"ip\": ip version \"v5\": is none of v4, v6, both"),
            (
                "mdns:?x=1",
                "mdns parameter \"x\": is unknown; there are: interface, ip, port, receive_buffer, settle",
            ),
            ("mdns:?port=99999", "mdns parameter \"port\": number too large to fit in target type"),
        ] {
            assert_eq!(parse(url).unwrap_err().to_string(), message);
        }
        let missing = MdnsBuilder::default().interface("nosuch0").check().unwrap_err();
        assert!(missing.to_string().starts_with("mdns interface \"nosuch0\": does not exist; there are: "));
        assert!(MdnsBuilder::default().interface("lo").ip(IpVersion::V6).check().is_err());
        assert!(MdnsBuilder::default().port(0).check().is_err());
        MdnsBuilder::default().settle(Duration::from_secs(60)).check().unwrap();
        for (settle, shown) in [(Duration::from_millis(60_001), "60.001s"), (Duration::MAX, "18446744073")] {
            let refused = MdnsBuilder::default().settle(settle).check().unwrap_err().to_string();
            assert!(refused.starts_with(&format!("mdns settle window of {shown}")), "{refused}");
            assert!(refused.ends_with(": is longer than the limit of 60 s"), "{refused}");
        }
    }
}
