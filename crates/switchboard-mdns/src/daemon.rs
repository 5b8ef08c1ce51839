//! The mdns-sd daemon with an owner: started knowing that it listens, commanded with patience, shut down for sure.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mdns_sd::{
    DaemonEvent, DaemonStatus, IfKind, Receiver, ServiceDaemon, ServiceEvent, ServiceInfo, UnregisterStatus,
};
use socket2::{Domain, Protocol, Socket, Type};
use switchboard_core::{Error, ErrorKind, Result};
use switchboard_net::port;
use tokio::time::{sleep, timeout};

use crate::ask::Ask;
use crate::config::{IpVersion, MdnsBuilder};
use crate::interface::{Reach, Selection};
use crate::{BACKEND, buffer};

/// How long the daemon may take to run one command. It is busy for a moment at most, unless the machine is.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often to look for new and lost interfaces, in seconds.
const INTERFACE_CHECK: u32 = 2;

/// mdns-sd's thread can end by itself: when the poller refuses a socket, or by a panic. Then commands answer
/// `Unavailable` until somebody calls [`restart`](Self::restart).
#[derive(Clone)]
pub(crate) struct Daemon {
    shared: Arc<Shared>,
}

struct Shared {
    config: MdnsBuilder,
    selection: Selection,
    running: Mutex<Running>,
}

struct Running {
    thread: Thread,
    /// How many threads there have been; each begins without any memory.
    generation: u64,
    shut_down: bool,
}

/// A subscription to a type, and the generation of the thread that serves it.
pub(crate) struct Subscription {
    pub(crate) events: Receiver<ServiceEvent>,
    pub(crate) generation: u64,
}

impl Daemon {
    /// Starts the daemon on the selected interfaces and returns when it listens.
    pub(crate) async fn start(config: &MdnsBuilder, selection: &Selection) -> Result<Self> {
        let thread = Thread::start(config, selection).await?;
        let running = Mutex::new(Running { thread, generation: 0, shut_down: false });
        Ok(Self {
            shared: Arc::new(Shared { config: config.clone(), selection: selection.clone(), running }),
        })
    }

    /// Starts another thread in the place of one that has ended. It knows nothing of what the other was told.
    pub(crate) async fn restart(&self) -> Result<()> {
        let thread = Thread::start(&self.shared.config, &self.shared.selection).await?;
        let mut running = self.running();
        if running.shut_down {
            return Err(Error::closed(BACKEND, "connect"));
        }
        running.thread = thread;
        running.generation += 1;
        Ok(())
    }

    /// Has the service announced; that it was is told as an event.
    pub(crate) async fn begin_register(&self, info: ServiceInfo) -> Result<()> {
        self.command("register", |inner| inner.register(info.clone())).await
    }

    /// Has goodbyes sent for the service of this full name (escaped, as in `ServiceInfo`); nothing if there is none.
    pub(crate) async fn begin_unregister(&self, fullname: &str) -> Result<Receiver<UnregisterStatus>> {
        self.command("deregister", |inner| inner.unregister(fullname)).await
    }

    /// Returns when they were sent.
    pub(crate) async fn unregistered(&self, begun: &Receiver<UnregisterStatus>) -> Result<()> {
        self.answer("deregister", begun).await.map(drop)
    }

    /// Browses without waiting; `None` while the queue is full.
    pub(crate) fn try_browse(&self, ty_domain: &str) -> Result<Option<Subscription>> {
        let running = self.running();
        match running.thread.inner.browse(ty_domain) {
            Ok(events) => Ok(Some(Subscription { events, generation: running.generation })),
            Err(mdns_sd::Error::Again) => Ok(None),
            Err(error) => Err(running.failure("watch", error)),
        }
    }

    /// Forgets what was heard of a type, without waiting; `false` while the queue is full.
    pub(crate) fn try_stop_browse(&self, ty_domain: &str) -> bool {
        self.inner().stop_browse(ty_domain) != Err(mdns_sd::Error::Again)
    }

    /// Asks by unicast for a type, whether the thread lives or not.
    pub(crate) fn ask(&self, ty_domain: String, now: Instant) -> Ask {
        Ask::begin(self.shared.selection.links(), &self.shared.config, ty_domain, now)
    }

    /// How far the interfaces there are now reach.
    pub(crate) fn reach(&self) -> Reach {
        self.shared.selection.links().reach
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
        self.running().shut_down = true;
        match self.command("close", ServiceDaemon::shutdown).await {
            Ok(done) => self.answer("close", &done).await.map(drop),
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The same without waiting, for `Drop`.
    pub(crate) fn begin_shut_down(&self) {
        let mut running = self.running();
        running.shut_down = true;
        running.thread.begin_shut_down();
    }

    pub(crate) fn receive_buffer(&self) -> Option<usize> {
        self.running().thread.receive_buffer
    }

    /// Whether the thread has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        let running = self.running();
        !running.shut_down && running.thread.has_ended()
    }

    /// Returns when the daemon has run every command given so far.
    pub(crate) async fn catch_up(&self, operation: &'static str) -> Result<()> {
        caught_up(|| self.inner().status()).await.map_err(|error| self.failure(operation, error))
    }

    /// Gives a command, again and again while the daemon's queue is full.
    async fn command<T>(
        &self,
        operation: &'static str,
        mut give: impl FnMut(&ServiceDaemon) -> mdns_sd::Result<T>,
    ) -> Result<T> {
        patiently(|| give(&self.inner())).await.map_err(|error| self.failure(operation, error))
    }

    async fn answer<T>(&self, operation: &'static str, receiver: &Receiver<T>) -> Result<T> {
        answered(receiver).await.map_err(|error| self.failure(operation, error))
    }

    fn failure(&self, operation: &'static str, error: mdns_sd::Error) -> Error {
        self.running().failure(operation, error)
    }

    pub(crate) fn inner(&self) -> ServiceDaemon {
        self.running().thread.inner.clone()
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn failure(&self, operation: &'static str, error: mdns_sd::Error) -> Error {
        if self.shut_down && error == mdns_sd::Error::DaemonShutdown {
            return Error::closed(BACKEND, operation);
        }
        failure(operation, error)
    }
}

/// mdns-sd's thread, which does not end by itself when nobody holds it any more.
struct Thread {
    inner: ServiceDaemon,
    /// What the system granted, where it tells.
    receive_buffer: Option<usize>,
}

impl Thread {
    async fn start(config: &MdnsBuilder, selection: &Selection) -> Result<Self> {
        check_port(config)?;
        let started = ServiceDaemon::new_with_port(config.port).map_err(|error| {
            Error::new(ErrorKind::Unavailable, BACKEND, "connect", "the mDNS thread did not start")
                .with_source(error)
        });
        let mut thread = Self { inner: started?, receive_buffer: None };
        thread.command(|inner| inner.disable_interface(IfKind::All)).await?;
        thread.command(|inner| inner.enable_interface(selection.kind())).await?;
        thread.command(|inner| inner.set_ip_check_interval(INTERFACE_CHECK)).await?;
        // Its sockets exist when it has answered.
        caught_up(|| thread.inner.status()).await.map_err(|error| failure("connect", error))?;
        match buffer::enlarge(config.port, config.receive_buffer) {
            Ok(granted) => {
                thread.receive_buffer = granted;
                if let Some(granted) = granted {
                    buffer::warn_if_small(granted, config.receive_buffer);
                }
            }
            Err(error) => tracing::debug!(%error, "the receive buffers keep the system's size"),
        }
        Ok(thread)
    }

    async fn command<T>(&self, mut give: impl FnMut(&ServiceDaemon) -> mdns_sd::Result<T>) -> Result<T> {
        patiently(|| give(&self.inner)).await.map_err(|error| failure("connect", error))
    }

    fn has_ended(&self) -> bool {
        // Of a thread that has ended it answers by itself, at once.
        match self.inner.status() {
            Ok(status) => matches!(status.try_recv(), Ok(DaemonStatus::Shutdown)),
            Err(error) => error == mdns_sd::Error::DaemonShutdown,
        }
    }

    fn begin_shut_down(&self) {
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
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.begin_shut_down();
    }
}

/// Gives a command until the daemon's queue has room for it.
async fn patiently<T>(mut give: impl FnMut() -> mdns_sd::Result<T>) -> mdns_sd::Result<T> {
    let retry = async {
        loop {
            match give() {
                Err(mdns_sd::Error::Again) => sleep(Duration::from_millis(2)).await,
                done => return done,
            }
        }
    };
    timeout(PATIENCE, retry).await.unwrap_or(Err(mdns_sd::Error::Again))
}

async fn answered<T>(receiver: &Receiver<T>) -> mdns_sd::Result<T> {
    match timeout(PATIENCE, receiver.recv_async()).await {
        Ok(answer) => answer.map_err(|_| mdns_sd::Error::DaemonShutdown),
        Err(_) => Err(mdns_sd::Error::Again),
    }
}

/// Asks for the status, which is answered after every command given before.
async fn caught_up(ask: impl FnMut() -> mdns_sd::Result<Receiver<DaemonStatus>>) -> mdns_sd::Result<()> {
    match answered(&patiently(ask).await?).await? {
        DaemonStatus::Running => Ok(()),
        _ => Err(mdns_sd::Error::DaemonShutdown),
    }
}

fn failure(operation: &'static str, error: mdns_sd::Error) -> Error {
    let message = match error {
        mdns_sd::Error::Again => format!("the mDNS thread was busy for {} s", PATIENCE.as_secs()),
        mdns_sd::Error::DaemonShutdown => "the mDNS thread has ended; another is being started".into(),
        _ => "the mDNS thread refused a command".into(),
    };
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
            (Err(error), _) | (_, Err(error)) if port::is_taken(&error) => Err(error),
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
    port::share(&socket)?;
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
