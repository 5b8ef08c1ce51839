//! The mdns-sd daemon with an owner: started knowing that it listens, commanded with patience, shut down for sure.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use mdns_sd::{DaemonEvent, IfKind, Receiver, ServiceDaemon, ServiceEvent, ServiceInfo};
use socket2::{Domain, Protocol, Socket, Type};
use switchboard_core::{Error, ErrorKind, Result};
use tokio::time::{sleep, timeout};

use crate::config::{IpVersion, MdnsBuilder};
use crate::interface::Selection;
use crate::{BACKEND, buffer};

/// How long the daemon may take to run one command. It is busy for a moment at most, unless the machine is.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often to look for new and lost interfaces, in seconds.
const INTERFACE_CHECK: u32 = 2;

#[derive(Clone)]
pub(crate) struct Daemon {
    inner: ServiceDaemon,
}

impl Daemon {
    /// Starts the daemon on the selected interfaces and returns when it listens.
    pub(crate) async fn start(config: &MdnsBuilder, selection: &Selection) -> Result<Self> {
        check_port(config)?;
        let start = ServiceDaemon::new_with_port(config.port);
        let daemon = Self {
            inner: start.map_err(|error| failure("connect", "the mDNS thread did not start", error))?,
        };
        daemon.command("connect", |inner| inner.disable_interface(IfKind::All)).await?;
        daemon.command("connect", |inner| inner.enable_interface(selection.kind())).await?;
        daemon.command("connect", |inner| inner.set_ip_check_interval(INTERFACE_CHECK)).await?;
        // Its sockets exist when it has answered.
        daemon.catch_up("connect").await?;
        match buffer::enlarge(config.port, config.receive_buffer) {
            Ok(sockets) => {
                tracing::debug!(sockets, bytes = config.receive_buffer, "enlarged the receive buffers");
            }
            Err(error) => tracing::debug!(%error, "the receive buffers keep the system's size"),
        }
        Ok(daemon)
    }

    pub(crate) async fn register(&self, info: ServiceInfo) -> Result<()> {
        self.command("register", |inner| inner.register(info.clone())).await?;
        self.catch_up("register").await
    }

    /// Sends goodbyes for the service of this full name (escaped, as in `ServiceInfo`); nothing if there is none.
    pub(crate) async fn unregister(&self, fullname: &str) -> Result<()> {
        let done = self.command("deregister", |inner| inner.unregister(fullname)).await?;
        self.answer("deregister", &done).await.map(drop)
    }

    /// Browses; when it returns, the daemon takes in what is announced.
    pub(crate) async fn browse(&self, ty_domain: &str) -> Result<Receiver<ServiceEvent>> {
        let events = self.command("browse", |inner| inner.browse(ty_domain)).await?;
        self.catch_up("browse").await?;
        Ok(events)
    }

    /// Browses from a plain thread; `None` once the daemon is gone.
    pub(crate) fn browse_blocking(&self, ty_domain: &str) -> Option<Receiver<ServiceEvent>> {
        loop {
            match self.inner.browse(ty_domain) {
                Ok(events) => return Some(events),
                Err(mdns_sd::Error::Again) => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => return None,
            }
        }
    }

    /// Forgets what was heard of a type. Best effort: a full queue means that it is forgotten with the daemon.
    pub(crate) fn stop_browse(&self, ty_domain: &str) {
        let _ = self.inner.stop_browse(ty_domain);
    }

    pub(crate) async fn monitor(&self) -> Result<Receiver<DaemonEvent>> {
        self.command("connect", ServiceDaemon::monitor).await
    }

    /// Asks on the network whether an instance is still there, and drops it if nobody answers within `patience`.
    pub(crate) async fn verify(&self, fullname: &str, patience: Duration) -> Result<()> {
        self.command("suspect", |inner| inner.verify(fullname.to_owned(), patience)).await
    }

    /// Ends the daemon's thread, with a goodbye for everything registered.
    pub(crate) async fn shut_down(&self) -> Result<()> {
        match self.command("close", ServiceDaemon::shutdown).await {
            Ok(done) => self.answer("close", &done).await.map(drop),
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The same without waiting, for `Drop`.
    pub(crate) fn begin_shut_down(&self) {
        if let Err(mdns_sd::Error::Again) = self.inner.shutdown() {
            // The queue is full and nobody may wait here: a short-lived thread waits instead.
            let daemon = self.inner.clone();
            let waiter = move || {
                for _ in 0..1000 {
                    match daemon.shutdown() {
                        Err(mdns_sd::Error::Again) => std::thread::sleep(Duration::from_millis(5)),
                        _ => return,
                    }
                }
            };
            let _ = std::thread::Builder::new().name("mdns-shutdown".into()).spawn(waiter);
        }
    }

    /// Returns when the daemon has run every command given so far.
    async fn catch_up(&self, operation: &'static str) -> Result<()> {
        let status = self.command(operation, ServiceDaemon::status).await?;
        self.answer(operation, &status).await.map(drop)
    }

    /// Gives a command, again and again while the daemon's queue is full.
    async fn command<T>(
        &self,
        operation: &'static str,
        mut give: impl FnMut(&ServiceDaemon) -> mdns_sd::Result<T>,
    ) -> Result<T> {
        let retry = async {
            loop {
                match give(&self.inner) {
                    Err(mdns_sd::Error::Again) => sleep(Duration::from_millis(2)).await,
                    Err(mdns_sd::Error::DaemonShutdown) => return Err(Error::closed(BACKEND, operation)),
                    Err(error) => return Err(failure(operation, "the mDNS thread refused a command", error)),
                    Ok(done) => return Ok(done),
                }
            }
        };
        timeout(PATIENCE, retry).await.unwrap_or_else(|_| Err(busy(operation)))
    }

    async fn answer<T>(&self, operation: &'static str, receiver: &Receiver<T>) -> Result<T> {
        match timeout(PATIENCE, receiver.recv_async()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Error::closed(BACKEND, operation)),
            Err(_) => Err(busy(operation)),
        }
    }
}

fn busy(operation: &'static str) -> Error {
    let message = format!("the mDNS thread was busy for {} s", PATIENCE.as_secs());
    Error::new(ErrorKind::Unavailable, BACKEND, operation, message)
}

fn failure(operation: &'static str, message: &str, error: mdns_sd::Error) -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, operation, message).with_source(error)
}

/// The daemon only logs when it cannot bind, so the bind is tried here first, in the same way.
fn check_port(config: &MdnsBuilder) -> Result<()> {
    let v4 = || try_bind(Domain::IPV4, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), config.port));
    let v6 = || try_bind(Domain::IPV6, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), config.port));
    let tried = match config.ip {
        IpVersion::V4 => v4(),
        IpVersion::V6 => v6(),
        // A system without IPv6, or without IPv4, is fine; a port taken on either is not.
        IpVersion::Both => match (v4(), v6()) {
            (Err(error), _) | (_, Err(error)) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
            (Err(error), Err(_)) => Err(error),
            _ => Ok(()),
        },
    };
    tried.map_err(|error| {
        let message = format!(
            "cannot listen on UDP port {}; another program may hold it for itself alone",
            config.port
        );
        Error::new(ErrorKind::Unavailable, BACKEND, "connect", message).with_source(error)
    })
}

fn try_bind(domain: Domain, address: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_held_exclusively_is_an_error_and_a_shared_one_is_not() {
        let exclusive = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = exclusive.local_addr().unwrap().port();
        let config = MdnsBuilder::default().ip(IpVersion::V4).port(port);
        let error = check_port(&config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains(&format!("UDP port {port}")), "{error}");
        drop(exclusive);
        check_port(&config).unwrap();
    }
}
