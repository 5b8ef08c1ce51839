//! `wait`: until a service is as a script needs it.

use std::process::ExitCode;
use std::sync::Arc;

use futures::StreamExt as _;
use serde::Serialize;
use switchboard::{Error, Instance, Snapshot};
use tokio::time::{Instant, timeout};

use crate::args;
use crate::failure::{Failure, chain};
use crate::network;
use crate::output::{self, Look};
use crate::session::{Session, spinning};

#[derive(Serialize)]
struct Reached<'a> {
    service: &'a str,
    instances: usize,
    healthy: usize,
    seconds: f64,
}

/// What the watch has told last.
#[derive(Default)]
struct Told {
    state: Option<Snapshot>,
    trouble: Option<Error>,
}

/// Fails when it is not so within the time the user gave; a registry that cannot be heard is waited for too.
pub(crate) async fn run(session: &Session, args: &args::Wait) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let registry = session.connect().await?;
    let mut told = Told::default();
    let waiting = follow(registry.watch(&args.service), args, &mut told);
    let reached = timeout(session.timeout, spinning("waiting", waiting)).await;
    let Ok(reached) = reached else { return Err(args.missed(session, &told)) };
    let reached = reached?;
    let (instances, healthy) = args.count(&reached);
    if session.json {
        let (service, seconds) = (args.service.as_str(), output::seconds(started.elapsed()));
        output::json(&Reached { service, instances, healthy, seconds })?;
    } else {
        let state = if args.gone { "gone".into() } else { format!("{healthy} healthy") };
        output::line(Look::Good, &output::clean(&format!("{}: {state}", args.what())))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends with the first state that is as wanted, or with what waiting does not cure.
async fn follow(
    mut watch: switchboard::SnapshotStream,
    args: &args::Wait,
    told: &mut Told,
) -> Result<Snapshot, Error> {
    loop {
        match watch.next().await {
            Some(Ok(snapshot)) if args.reached(&snapshot) => return Ok(snapshot),
            Some(Ok(snapshot)) => *told = Told { state: Some(snapshot), trouble: None },
            Some(Err(error)) if !network::may_pass(&error) => return Err(error),
            Some(Err(error)) => told.trouble = Some(error),
            // A watch ends with the error that says why, which may not pass.
            None => return std::future::pending().await,
        }
    }
}

impl args::Wait {
    fn what(&self) -> String {
        match &self.id {
            Some(id) => format!("{}/{id}", self.service),
            None => self.service.to_string(),
        }
    }

    fn chosen<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a Arc<Instance>> {
        let wanted = |id| self.id.as_ref().is_none_or(|wanted| wanted == id);
        snapshot.all().iter().filter(move |one| wanted(one.id()) && self.filter.accepts(one))
    }

    /// How many there are, and how many of them are healthy.
    fn count(&self, snapshot: &Snapshot) -> (usize, usize) {
        let healthy = self.chosen(snapshot).filter(|instance| instance.health().is_healthy()).count();
        (self.chosen(snapshot).count(), healthy)
    }

    fn reached(&self, snapshot: &Snapshot) -> bool {
        match self.count(snapshot) {
            // Who was heard in part only may be there all the same.
            (instances, _) if self.gone => instances == 0 && snapshot.is_complete(),
            (_, healthy) => healthy >= usize::try_from(self.healthy).unwrap_or(usize::MAX),
        }
    }

    /// That time is up, and how it stands.
    fn missed(&self, session: &Session, told: &Told) -> Failure {
        let limit = humantime::format_duration(session.timeout);
        let stands = match (&told.state, &told.trouble) {
            (_, Some(error)) => chain(error),
            (None, None) => "the registry did not answer".into(),
            (Some(state), None) => self.stands(state),
        };
        Failure::failed(format!("{}: not within {limit}: {stands}", self.what()))
    }

    fn stands(&self, state: &Snapshot) -> String {
        let (instances, healthy) = self.count(state);
        if self.gone {
            let first = self.chosen(state).next().map(|one| one.key().to_string());
            let more = if instances > 1 { format!(" and {} more", instances - 1) } else { String::new() };
            return format!("{}{more} still there", first.unwrap_or_default());
        }
        let bad = self.chosen(state).find(|instance| !instance.health().is_healthy());
        let bad = bad.map(|instance| {
            let why = Some(output::why(instance)).filter(|why| !why.is_empty());
            let why = why.map(|why| format!(", {why}")).unwrap_or_default();
            format!("; {} is {}{why}", instance.id(), instance.health())
        });
        format!("{healthy} of {} healthy{}", self.healthy, bad.unwrap_or_default())
    }
}
