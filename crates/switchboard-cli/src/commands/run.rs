//! `run`: any program as a service, for as long as it runs and accepts connections.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use serde::Serialize;
use switchboard::registrar::{self, Running, Status};
use switchboard::{Address, Registry};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::args;
use crate::commands::register::{Report, To, leave, signals};
use crate::failure::Failure;
use crate::health_check::HealthCheck;
use crate::output;
use crate::process::{self, Program, Signals};
use crate::session::Session;

/// The pauses between tries to connect to the program: from, to.
const TRY_EVERY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// How long one try may take; a port that drops packets is as good as closed.
const TRY_FOR: Duration = Duration::from_secs(1);

/// A program that does not accept after so long is told of; some take minutes, so it goes on.
const ACCEPTS_WITHIN: Duration = Duration::from_secs(5);

/// A signal that ends the program waits so long for the deregistration that comes first.
const DEREGISTER_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(session: &Session, args: args::Run) -> Result<ExitCode, Failure> {
    let mut signals = signals()?;
    args.details.check()?;
    let port = free_port(args.port)?;
    let registry = session.connect().await?;
    let hosts = hosts(&registry, args.host.as_deref(), port).await?;
    // Mistakes in what is to be registered show before the program is started.
    args.details.instance(&args.service, &hosts[0])?;
    HealthCheck::new(&args.details, &hosts[0], true)?;

    let mut program = Program::start(&args.command, port).map_err(|error| {
        let name = args.command[0].to_string_lossy();
        Failure::failed(format!("cannot start {name:?}")).because(&error).code(not_started(&error))
    })?;
    let place = Place { session, args: &args, registry: &registry, hosts: &hosts };
    let mut running = None;
    let ended = accompany(&place, &mut program, &mut signals, &mut running).await;
    if let Some((running, report)) = running {
        let registered = is_registered(&running);
        match leave(session, running, &registry).await {
            Ok(()) if !registered => {}
            Ok(()) => report.say("deregistered", None)?,
            // Told, but the program's own end is what counts.
            Err(failure) => drop(failure.exit()),
        }
    } else {
        // Nothing is left to deregister, or there was no time for it.
        let _ = timeout(session.timeout, registry.close()).await;
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
async fn accompany<'a>(
    place: &Place<'a>,
    program: &mut Program,
    signals: &mut Signals,
    running: &mut Option<(Running, Report<'a>)>,
) -> Result<ExitStatus, Failure> {
    let mut told = None;
    let mut accepting = std::pin::pin!(accepting(place.hosts));
    let mut leaving = false;
    let mut late = std::pin::pin!(sleep(ACCEPTS_WITHIN).fuse());
    loop {
        let register = running.is_none() && !leaving;
        tokio::select! {
            ended = program.ended() => {
                return ended.map_err(|error| Failure::failed("cannot wait for the program").because(&error));
            }
            address = &mut accepting, if register => {
                let (started, report) = place.register(address)?;
                let (status, follower) = (started.watch_status(), report.clone());
                told = Some(Box::pin(async move { follower.follow(status).await }));
                *running = Some((started, report));
            }
            () = &mut late, if register => place.say_waiting(),
            // Ends when the registration has stopped.
            _ = async { match &mut told { Some(told) => told.await, None => std::future::pending().await } } => {
                told = None;
            }
            signal = signals.next() => {
                if process::asks_to_end(signal) {
                    leaving = true;
                    if let Some((running, report)) = running.take() {
                        // Clients leave first; a registry that hangs must not keep the program from ending.
                        let registered = is_registered(&running);
                        match timeout(DEREGISTER_WITHIN, running.shutdown()).await {
                            Ok(Ok(())) if !registered => {}
                            Ok(Ok(())) => report.say("deregistered", None)?,
                            Ok(Err(error)) => drop(Failure::from(error).exit()),
                            Err(_) => report.say("not deregistered", Some("the registry took too long"))?,
                        }
                    }
                }
                program.forward(signal);
            }
        }
    }
}

/// Whether there is something to deregister; there is not where the platform registers.
fn is_registered(running: &Running) -> bool {
    !matches!(running.status(), Status::ReadOnly { .. })
}

/// The exit code of a program that was not started, by the convention of shells.
fn not_started(error: &std::io::Error) -> u8 {
    match error.kind() {
        std::io::ErrorKind::NotFound => 127,
        _ => 126,
    }
}

#[derive(Serialize)]
struct Waiting<'a> {
    status: &'static str,
    service: &'a str,
    addresses: &'a [Address],
    why: &'static str,
}

impl<'a> Place<'a> {
    /// Says that the program is not registered yet, since it does not accept connections.
    fn say_waiting(&self) {
        let (service, addresses) = (self.args.service.as_str(), self.hosts);
        let why = "nothing accepts connections there yet";
        if self.session.json {
            output::json_line_to_error(&Waiting { status: "waiting", service, addresses, why });
        } else {
            let port = self.hosts[0].port();
            let at = output::list(addresses);
            output::note(&format!(
                "waiting {service} at {at}: {why}; it is registered when the program listens on PORT, {port}"
            ));
        }
    }

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
async fn hosts(registry: &Arc<dyn Registry>, host: Option<&str>, port: u16) -> Result<Vec<Address>, Failure> {
    if let Some(host) = host {
        return Ok(vec![Address::new(host, port)?]);
    }
    let mut hosts = vec![registrar::advertise_on(registry, format!("0.0.0.0:{port}")).await?];
    for loopback in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let address = Address::try_from(std::net::SocketAddr::new(loopback, port))?;
        if !hosts.contains(&address) {
            hosts.push(address);
        }
    }
    Ok(hosts)
}
