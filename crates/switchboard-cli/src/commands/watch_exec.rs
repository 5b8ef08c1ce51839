//! `watch --exec`: a command that is given the state, whenever it has changed.

use std::process::ExitCode;

use futures::StreamExt as _;
use switchboard::Snapshot;

use crate::args;
use crate::commands::watch::Outages;
use crate::failure::Failure;
use crate::hook::{Debounce, Hook};
use crate::network::{Event, Network};
use crate::output::InstanceJson;
use crate::process::Signals;

/// Goes on until it is told to end. Standard output is the command's.
pub(crate) async fn run(
    mut network: Network<'_>,
    args: &args::Hook,
    mut hook: Hook<'_>,
    signals: &mut Signals,
) -> Result<ExitCode, Failure> {
    let mut outages = Outages::to_error();
    let mut debounce = Debounce::new(args.debounce);
    let mut told: Option<Vec<Snapshot>> = None;
    // Also where there is nothing: that is a state, too.
    debounce.touch();
    loop {
        let state = if hook.is_running() { None } else { network.state() };
        tokio::select! {
            event = network.next() => match event {
                Some(Event::Changed(_)) => debounce.touch(),
                Some(Event::Heard(of)) => outages.over(of.as_ref())?,
                Some(Event::Failed(of, error)) => outages.begun(of, error)?,
                None => return Ok(ExitCode::SUCCESS),
            },
            () = debounce.due(), if state.is_some() => {
                debounce.clear();
                // What went and came back within that time is no change.
                if told != state {
                    hook.start(input(state.as_deref().unwrap_or_default())?);
                    told = state;
                }
            }
            _ = hook.ended() => {}
            () = signals.end() => {
                hook.finish(signals).await;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// The instances, as `instances --json` has them.
fn input(state: &[Snapshot]) -> Result<Vec<u8>, Failure> {
    let instances: Vec<InstanceJson<'_>> =
        state.iter().flat_map(Snapshot::all).map(|instance| (&**instance).into()).collect();
    let mut json = serde_json::to_vec(&instances).map_err(std::io::Error::from)?;
    json.push(b'\n');
    Ok(json)
}
