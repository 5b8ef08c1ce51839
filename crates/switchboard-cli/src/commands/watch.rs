//! `watch`: each change as it happens.

use std::collections::BTreeMap;
use std::process::ExitCode;

use futures::StreamExt;
use serde::Serialize;
use switchboard::{Change, Error, ErrorKind, Health, Instance, ServiceName};
use tokio::time::Instant;

use crate::args;
use crate::commands::register::signals;
use crate::commands::watch_exec;
use crate::failure::{Failure, chain};
use crate::hook::Hook;
use crate::network::{self, Event, Network};
use crate::output::{self, InstanceJson, Look, now};
use crate::reader;
use crate::session::Session;

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    change: &'static str,
    service: &'a str,
    id: &'a str,
    /// As it is now, or was last.
    instance: InstanceJson<'a>,
    /// As it was before an update.
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<InstanceJson<'a>>,
}

/// That a service, or the list of services for `None`, cannot be heard.
#[derive(Serialize)]
struct Outage<'a> {
    time: String,
    change: &'static str,
    service: Option<&'a str>,
    why: &'a str,
}

/// That all is heard again.
#[derive(Serialize)]
struct Recovery {
    time: String,
    change: &'static str,
    seconds: u64,
}

pub(crate) async fn run(session: &Session, args: &args::Watch) -> Result<ExitCode, Failure> {
    let mut signals = match &args.hook.exec {
        Some(_) => Some(signals()?),
        None => None,
    };
    let registry = session.connect().await?;
    let mut network = match &args.service {
        Some(service) => Network::one(&registry, service.clone()),
        None => Network::all(&registry),
    };
    if let Some(alone) = session.alone() {
        output::complain(alone);
    }
    if let (Some(hook), Some(signals)) = (Hook::new(session, &args.hook), &mut signals) {
        return watch_exec::run(network, &args.hook, hook, signals).await;
    }
    let mut outages = Outages::new(session.json);
    let mut gone = std::pin::pin!(reader::gone());
    // Ends with the process: Ctrl-C leaves nothing behind that is not ended with it.
    loop {
        let event = tokio::select! {
            event = network.next() => event,
            // As in `watch | head -n 1`.
            () = &mut gone => return Ok(ExitCode::SUCCESS),
        };
        match event {
            Some(Event::Changed(change)) => show(session, &change)?,
            Some(Event::Heard(of)) => outages.over(of.as_ref())?,
            Some(Event::Failed(of, error)) => outages.begun(of, error)?,
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn show(session: &Session, change: &Change) -> Result<(), Failure> {
    let instance: &Instance = change.instance();
    let (word, old) = match change {
        Change::Added(_) => ("added", None),
        Change::Updated { old, .. } => ("updated", Some(&**old)),
        Change::Removed(_) => ("removed", None),
    };
    let key = instance.key();
    if session.json {
        let (service, id) = (key.service().as_str(), key.id().as_str());
        let (instance, old) = (instance.into(), old.map(Into::into));
        output::json_line(&Line { time: now(), change: word, service, id, instance, old })?;
        return Ok(());
    }
    let (sign, look) = sign(change);
    let time = now();
    // A whole second is enough for people.
    let second = time.split_once('.').map_or(&*time, |(second, _)| second);
    output::line(look, &output::clean(&format!("{second}Z {sign} {key}{}", about(change))))?;
    Ok(())
}

/// How a change is marked. What is good news is green: an instance that comes and is passing, or is so again.
pub(crate) fn sign(change: &Change) -> (char, Look) {
    let passing = |look| {
        move |instance: &Instance| match instance.health() {
            Health::Passing => look,
            health => Look::of(health),
        }
    };
    match change {
        Change::Added(new) => ('+', passing(Look::Good)(new)),
        Change::Updated { old, new } if old.health() == Health::Passing => {
            ('~', passing(Look::Doubtful)(new))
        }
        Change::Updated { new, .. } => ('~', passing(Look::Good)(new)),
        Change::Removed(_) => ('-', Look::Bad),
    }
}

/// What there is to know of a change in the rest of a line.
pub(crate) fn about(change: &Change) -> String {
    let state = |instance: &Instance| {
        let version = instance.version().map(|version| format!(" version {version}")).unwrap_or_default();
        let why = output::why(instance);
        let why = if why.is_empty() { why } else { format!(", {why}") };
        format!(" at {}{version} {}{why}", output::list(instance.addresses()), instance.health())
    };
    match change {
        Change::Added(instance) => state(instance),
        Change::Removed(_) => String::new(),
        Change::Updated { new, .. } => match change.differences() {
            different if different.is_empty() => state(new),
            different => format!(": {}", different.join(", ")),
        },
    }
}

/// The backend that is not heard, and in which way: that holds for all its services, whatever each is told of it.
type Trouble = (String, ErrorKind);

/// Tells of each outage once, and when it is over.
#[derive(Debug)]
pub(crate) struct Outages {
    json: bool,
    now: BTreeMap<Option<ServiceName>, Trouble>,
    since: Instant,
}

impl Outages {
    fn new(json: bool) -> Self {
        Self { json, now: BTreeMap::new(), since: Instant::now() }
    }

    /// In words, on standard error, and nowhere else.
    pub(crate) fn to_error() -> Self {
        Self::new(false)
    }

    pub(crate) fn begun(&mut self, of: Option<ServiceName>, error: Error) -> Result<(), Failure> {
        if !network::may_pass(&error) {
            return Err(error.into());
        }
        let trouble = (error.backend().to_owned(), error.kind());
        if self.now.is_empty() {
            self.since = Instant::now();
        }
        if !self.now.values().any(|other| *other == trouble) {
            let said = chain(&error);
            if self.json {
                let service = of.as_ref().map(ServiceName::as_str);
                output::json_line(&Outage { time: now(), change: "outage", service, why: &said })?;
            }
            output::complain(&format!("{said} (what was heard last still stands)"));
        }
        self.now.insert(of, trouble);
        Ok(())
    }

    pub(crate) fn over(&mut self, of: Option<&ServiceName>) -> Result<(), Failure> {
        let was = self.now.remove(&of.cloned());
        if was.is_some() && self.now.is_empty() {
            let seconds = self.since.elapsed().as_secs();
            output::note(&format!("the registry is heard again, after {seconds}s"));
            if self.json {
                output::json_line(&Recovery { time: now(), change: "recovery", seconds })?;
            }
        }
        Ok(())
    }
}
