//! `register`: registers an address and renews it until told to end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use switchboard::registrar::{self, Registrar, Running, Status};
use switchboard::{Address, Instance, InstanceKey, Registry, ServiceName};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::args::{self, Details};
use crate::failure::{Failure, chain};
use crate::health_check::HealthCheck;
use crate::output::{self, Look};
use crate::process::Signals;
use crate::session::{Session, spinning};

pub(crate) async fn run(session: &Session, args: args::Register) -> Result<ExitCode, Failure> {
    let mut signals = signals()?;
    let args::Register { service, address, details } = args;
    details.check()?;
    let registry = session.connect().await?;
    let address = registrar::advertise_on(&registry, &address).await?;
    let instance = details.instance(&service, &address)?;
    let check = HealthCheck::new(&details, &address, false)?;

    let report = Report { session, registry: &registry, key: instance.key(), address, to: To::Output };
    let registrar = details.registrar(session, registry.clone(), instance);
    let running = tokio::select! {
        started = spinning("registering", check.attach(registrar).start()) => started?,
        // Dropping the start withdraws what it may have registered; closing makes sure.
        () = signals.end() => {
            registry.close().await?;
            return Err(Failure::failed("interrupted before it was registered"));
        }
    };
    if let Status::ReadOnly { registered_by, .. } = running.status() {
        leave(session, running, &registry).await?;
        let why = format!("{registry} can only be read; {registered_by} registers here");
        return Err(Failure::failed(why));
    }
    let told = tokio::select! {
        told = report.follow(running.watch_status()) => told,
        () = signals.end() => Ok(()),
    };
    let left = tokio::select! {
        left = leave(session, running, &registry) => left,
        () = signals.end() => Err(Failure::failed("interrupted before it was deregistered")),
    };
    told?;
    left?;
    report.say("deregistered", None)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn signals() -> Result<Signals, Failure> {
    Signals::new().map_err(|error| Failure::failed("cannot wait for signals").because(&error))
}

/// After so long it is said that something is waited for.
const SAY_AFTER: Duration = Duration::from_secs(1);

/// Deregisters and closes the registry, both within the time the user gave.
pub(crate) async fn leave(
    session: &Session,
    running: Running,
    registry: &Arc<dyn Registry>,
) -> Result<(), Failure> {
    let limit = humantime::format_duration(session.timeout);
    let mut leaving = std::pin::pin!(timeout(session.timeout, async {
        running.shutdown().await?;
        registry.close().await
    }));
    let left = if let Ok(left) = timeout(SAY_AFTER, &mut leaving).await {
        left
    } else {
        output::note(&format!("deregistering, for {limit} at most"));
        leaving.await
    };
    match left {
        Ok(left) => Ok(left?),
        Err(_) => Err(Failure::failed(format!("not deregistered within {limit}; it lapses with its TTL"))),
    }
}

impl Details {
    /// What can be found wrong before anything is started.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match (self.ttl, self.interval) {
            (Some(ttl), Some(interval)) if ttl <= interval => Err(Failure::usage(format!(
                "--ttl {} is not longer than --interval {}; it would lapse between renewals",
                humantime::format_duration(ttl),
                humantime::format_duration(interval)
            ))),
            _ => Ok(()),
        }
    }

    pub(crate) fn instance(&self, service: &ServiceName, address: &Address) -> Result<Instance, Failure> {
        let mut builder = Instance::builder(service).address(address).weight(self.weight);
        if let Some(id) = &self.id {
            builder = builder.id(id.as_str());
        }
        if let Some(version) = &self.version {
            builder = builder.version(version);
        }
        for (key, value) in &self.meta {
            builder = builder.metadata(key, value);
        }
        for tag in &self.tag {
            builder = builder.tag(tag);
        }
        for endpoint in &self.endpoint {
            builder = builder.endpoint(endpoint.as_str());
        }
        Ok(builder.build()?)
    }

    pub(crate) fn registrar(
        &self,
        session: &Session,
        registry: Arc<dyn Registry>,
        instance: Instance,
    ) -> Registrar {
        let mut registrar = Registrar::new(registry, instance)
            .check_interval(self.check_interval)
            .unhealthy_after(self.unhealthy_after)
            .healthy_after(self.healthy_after)
            .start_limit(session.timeout)
            .shutdown_limit(session.timeout);
        if let Some(interval) = self.interval {
            registrar = registrar.interval(interval);
        }
        if let Some(ttl) = self.ttl {
            registrar = registrar.ttl(ttl);
        }
        registrar
    }
}

/// Where a registration's states are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Output,
    /// Standard error, because standard output is somebody else's.
    Error,
}

/// Tells how a registration stands, whenever that changes.
#[derive(Clone, Debug)]
pub(crate) struct Report<'a> {
    pub(crate) session: &'a Session,
    pub(crate) registry: &'a Arc<dyn Registry>,
    pub(crate) key: InstanceKey,
    pub(crate) address: Address,
    pub(crate) to: To,
}

#[derive(Serialize)]
struct Line<'a> {
    status: &'a str,
    service: &'a str,
    id: &'a str,
    address: &'a Address,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

impl Report<'_> {
    /// Tells each state until the registration has stopped.
    pub(crate) async fn follow(&self, mut status: watch::Receiver<Status>) -> Result<(), Failure> {
        let mut last = None;
        loop {
            let now = state(&status.borrow_and_update());
            if now.is_some() && now != last {
                if let Some((word, why)) = &now {
                    let other = if *word == "registered" { self.other_id().await } else { None };
                    self.say(word, other.as_deref().or(why.as_deref()))?;
                }
                last = now;
            }
            if status.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Says so where the registry lists the instance under another id, since another program has this one.
    async fn other_id(&self) -> Option<String> {
        let lookup = self.registry.lookup(self.key.service());
        let found = self.session.limited("lookup", lookup).await.ok()?;
        let ids: Vec<_> = found
            .all()
            .iter()
            .filter(|instance| instance.addresses().contains(&self.address))
            .map(|instance| instance.id())
            .collect();
        let other = ids.first().filter(|_| !ids.contains(&self.key.id()))?;
        Some(format!("found as {other:?}, for another program has this id", other = other.as_str()))
    }

    pub(crate) fn say(&self, word: &str, why: Option<&str>) -> Result<(), Failure> {
        let Self { session, key, address, to, .. } = self;
        if session.json {
            let (service, id) = (key.service().as_str(), key.id().as_str());
            let line = Line { status: word, service, id, address, why };
            match to {
                To::Output => output::json_line(&line)?,
                To::Error => output::json_line_to_error(&line),
            }
            return Ok(());
        }
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let text = output::clean(&format!("{word} {key} at {address}{why}"));
        let look = if why.is_empty() { Look::Good } else { Look::Doubtful };
        match to {
            To::Output => output::line(look, &text)?,
            To::Error => output::note(&text),
        }
        Ok(())
    }
}

/// What to say of a status, and why it is so; `None` for those that are told by other means.
fn state(status: &Status) -> Option<(&'static str, Option<String>)> {
    match status {
        Status::Registered { check: None, .. } => Some(("registered", None)),
        Status::Registered { check: Some(failures), .. } | Status::ReadOnly { check: Some(failures), .. } => {
            let why = format!("{} of {}: {}", failures.count, failures.limit, failures.why);
            Some(("check failing", Some(why)))
        }
        Status::ReadOnly { registered_by, .. } => {
            let why = format!("the registry can only be read; {registered_by} registers here");
            Some(("not registered", Some(why)))
        }
        Status::Failing { error, .. } => Some(("renewal failing", Some(chain(error)))),
        Status::Registering { error: Some(error) } => Some(("not yet registered", Some(chain(error)))),
        Status::Withdrawn { why, .. } => Some(("withdrawn", Some(why.to_string()))),
        Status::Closed { error } => Some(("registry closed", Some(chain(error)))),
        _ => None,
    }
}
