//! `deregister`: removes an instance that nobody else does.

use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt as _;
use switchboard::{InstanceKey, SnapshotStream};
use tokio::time::timeout;

use crate::args;
use crate::commands::describe::unknown;
use crate::commands::done;
use crate::failure::Failure;
use crate::session::{Session, spinning};

/// So long it may take until it shows that an instance has gone.
const GONE_WITHIN: Duration = Duration::from_secs(3);

pub(crate) async fn run(session: &Session, args: &args::Deregister) -> Result<ExitCode, Failure> {
    let registry = session.connect().await?;
    let key = InstanceKey::new(args.service.clone(), args.id.clone());
    let found = session.limited("lookup", registry.lookup(&args.service)).await?;
    if found.get(&args.id).is_none() {
        if args.ignore_not_found {
            done::say(session, &key, "not found", "")?;
            return Ok(ExitCode::SUCCESS);
        }
        return Err(unknown(&found, args.id.as_str(), &registry.to_string()));
    }
    session.limited("deregister", registry.deregister(&key)).await?;
    // A registry that only passes on what programs say of themselves has nothing to deregister, and says so by this.
    let gone = until_gone(registry.watch(&args.service), &key);
    if timeout(GONE_WITHIN.min(session.timeout), spinning("waiting for it to go", gone)).await.is_err() {
        return Err(Failure::failed(format!(
            "{key} is still at {registry}: the program that registered it goes on doing so; end that one"
        )));
    }
    done::say(session, &key, "deregistered", &format!("deregistered {key}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn until_gone(mut watch: SnapshotStream, key: &InstanceKey) {
    loop {
        match watch.next().await {
            Some(Ok(now)) if now.get(key.id()).is_none() => return,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}
