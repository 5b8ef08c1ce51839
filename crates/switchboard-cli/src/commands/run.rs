//! `run`: any program as a service, for as long as it runs and accepts connections.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use switchboard::registrar::{self, Running};
use switchboard::{Address, Registry};
use switchboard_net::interface::{self, Choice};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::args;
use crate::commands::register::{Report, To, leave, signals};
use crate::failure::Failure;
use crate::health_check::HealthCheck;
use crate::process::{self, Program, Signals};
use crate::session::Session;

/// The pauses between tries to connect to the program: from, to.
const TRY_EVERY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// How long one try may take; a port that drops packets is as good as closed.
const TRY_FOR: Duration = Duration::from_secs(1);

/// A signal that ends the program waits so long for the deregistration that comes first.
const DEREGISTER_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(session: &Session, args: args::Run) -> Result<ExitCode, Failure> {
    let mut signals = signals()?;
    args.details.check()?;
    let port = free_port(args.port)?;
    let registry = session.connect().await?;
    let hosts = hosts(session, &registry, args.host.as_deref(), port).await?;
    // Mistakes in what is to be registered show before the program is started.
    args.details.instance(&args.service, &hosts[0])?;
    HealthCheck::new(&args.details, &hosts[0], true)?;

    let mut program = Program::start(&args.command, port).map_err(|error| {
        let name = args.command[0].to_string_lossy();
        Failure::failed(format!("cannot start {name:?}")).because(&error)
    })?;
    let place = Place { session, args: &args, registry: &registry, hosts: &hosts };
    let mut running = None;
    let ended = accompany(&place, &mut program, &mut signals, &mut running).await;
    let left = match running {
        Some(running) => leave(running, &registry).await,
        None => registry.close().await.map_err(Failure::from),
    };
    if let Err(failure) = left {
        // Told, but the program's own end is what counts.
        failure.exit();
    }
    let status = ended?;
    Ok(process::exit_code(status).into())
}

struct Place<'a> {
    session: &'a Session,
    args: &'a args::Run,
    registry: &'a Arc<dyn Registry>,
    hosts: &'a [Address],
}

/// Registers the program once it accepts, passes signals on, and returns when it has ended.
async fn accompany(
    place: &Place<'_>,
    program: &mut Program,
    signals: &mut Signals,
    running: &mut Option<Running>,
) -> Result<ExitStatus, Failure> {
    let mut told = None;
    let mut accepting = std::pin::pin!(accepting(place.hosts));
    let mut leaving = false;
    loop {
        let register = running.is_none() && !leaving;
        tokio::select! {
            ended = program.ended() => {
                return ended.map_err(|error| Failure::failed("cannot wait for the program").because(&error));
            }
            address = &mut accepting, if register => {
                let (started, report) = place.register(address)?;
                let status = started.watch_status();
                told = Some(Box::pin(async move { report.follow(status).await }));
                *running = Some(started);
            }
            // Ends when the registration has stopped.
            _ = async { match &mut told { Some(told) => told.await, None => std::future::pending().await } } => {
                told = None;
            }
            signal = signals.next() => {
                if process::asks_to_end(signal) {
                    leaving = true;
                    if let Some(running) = running.take() {
                        // Clients leave first; a registry that hangs must not keep the program from ending.
                        let _ = timeout(DEREGISTER_WITHIN, running.shutdown()).await;
                    }
                }
                program.forward(signal);
            }
        }
    }
}

impl<'a> Place<'a> {
    fn register(&self, address: Address) -> Result<(Running, Report<'a>), Failure> {
        let details = &self.args.details;
        let instance = details.instance(&self.args.service, &address)?;
        let key = instance.key();
        let check = HealthCheck::new(details, &address, true)?;
        let registrar = details.registrar(self.session, self.registry.clone(), instance);
        let running = check.attach(registrar).start_in_background()?;
        Ok((running, Report { session: self.session, registry: self.registry, key, address, to: To::Error }))
    }
}

/// The first of `hosts` that accepts connections, however long that takes.
async fn accepting(hosts: &[Address]) -> Address {
    let mut pause = TRY_EVERY.0;
    loop {
        for address in hosts {
            if accepts(address).await {
                return address.clone();
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(TRY_EVERY.1);
    }
}

async fn accepts(address: &Address) -> bool {
    matches!(timeout(TRY_FOR, TcpStream::connect(address.to_string())).await, Ok(Ok(_)))
}

/// `port`, which must be free, or any free one for 0.
fn free_port(port: u16) -> Result<u16, Failure> {
    let taken = |error: std::io::Error| {
        let what = if port == 0 { "no free port".into() } else { format!("port {port} is not free") };
        Failure::failed(what).because(&error)
    };
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(taken)?;
    Ok(listener.local_addr().map_err(taken)?.port())
}

/// Where the program may be reached, what others can use first.
async fn hosts(
    session: &Session,
    registry: &Arc<dyn Registry>,
    host: Option<&str>,
    port: u16,
) -> Result<Vec<Address>, Failure> {
    if let Some(host) = host {
        return Ok(vec![Address::new(host, port)?]);
    }
    let mut hosts = Vec::new();
    if !loopback_only(session)? {
        hosts.push(registrar::advertise_on(registry, format!("0.0.0.0:{port}")).await?);
    }
    for loopback in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let address = Address::try_from(std::net::SocketAddr::new(loopback, port))?;
        if !hosts.contains(&address) {
            hosts.push(address);
        }
    }
    Ok(hosts)
}

/// Whether the registry takes loopback addresses only: mDNS confined to that interface.
fn loopback_only(session: &Session) -> Result<bool, Failure> {
    let url = session.url()?;
    let interfaces = url.params("mdns").take_all("interface");
    let chosen: Vec<Choice> = interfaces.iter().map(|name| name.as_str().into()).collect();
    Ok(url.scheme() == "mdns" && Choice::are_loopback(&chosen, &interface::up()))
}
