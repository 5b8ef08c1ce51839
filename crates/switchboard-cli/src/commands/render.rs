//! `render`: configuration files from templates, anew with each change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use futures::StreamExt as _;
use serde::Serialize;
use switchboard::{Error, Registry, ServiceName};
use tokio::time::timeout;

use crate::args;
use crate::commands::register::signals;
use crate::commands::watch::Outages;
use crate::failure::{Failure, chain};
use crate::hook::{Debounce, Hook};
use crate::network::{self, Event, Network};
use crate::output::{self, now};
use crate::replace::{Mode, replace};
use crate::session::{Session, spinning};
use crate::template_file::TemplateFile;

pub(crate) async fn run(session: &Session, args: &args::Render) -> Result<ExitCode, Failure> {
    let mut targets = Target::open_all(&args.files)?;
    let registry = session.connect().await?;
    if args.once {
        once(session, args, &registry, &mut targets).await
    } else {
        keep(session, args, &registry, &mut targets).await
    }
}

/// Writes all files once; what goes wrong is a failure.
async fn once(
    session: &Session,
    args: &args::Render,
    registry: &dyn Registry,
    targets: &mut [Target],
) -> Result<ExitCode, Failure> {
    let mut network = Network::none(registry);
    let mut trouble = None;
    let complete = spinning("waiting for the registry", async {
        while !pass(targets, &mut network) {
            match network.next().await {
                Some(Event::Failed(_, error)) if !network::may_pass(&error) => return Err(error),
                Some(Event::Failed(_, error)) => trouble = Some(error),
                _ => {}
            }
        }
        Ok(())
    });
    match timeout(session.timeout, complete).await {
        Ok(complete) => complete?,
        Err(_) => return Err(not_heard(session, trouble.as_ref())),
    }
    let mut written = false;
    for target in targets {
        written |= target.write(session)?;
    }
    match Hook::new(session, &args.hook).filter(|_| written) {
        Some(mut hook) => {
            hook.start(Vec::new());
            let ended = hook.ended().await;
            Ok(if ended.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

fn not_heard(session: &Session, trouble: Option<&Error>) -> Failure {
    let limit = humantime::format_duration(session.timeout);
    let why = trouble.map_or_else(|| "the registry did not answer".into(), |error| chain(error));
    Failure::failed(format!("nothing was written, as not all was heard within {limit}: {why}"))
}

/// Writes what changes until it is told to end. What goes wrong is told, and what was written stands.
async fn keep(
    session: &Session,
    args: &args::Render,
    registry: &dyn Registry,
    targets: &mut [Target],
) -> Result<ExitCode, Failure> {
    let mut signals = signals()?;
    let mut network = Network::none(registry);
    let mut outages = Outages::to_error();
    let mut debounce = Debounce::new(args.hook.debounce);
    let mut hook = Hook::new(session, &args.hook);
    let mut complete = pass(targets, &mut network);
    // The first time there is nothing to wait for.
    let mut due = complete;
    loop {
        if due {
            write_all(session, targets, hook.as_mut())?;
            due = false;
        }
        let busy = hook.as_ref().is_some_and(Hook::is_running);
        tokio::select! {
            event = network.next() => {
                match event {
                    Some(Event::Changed(_)) => debounce.touch(),
                    Some(Event::Heard(of)) => {
                        outages.over(of.as_ref())?;
                        // A name that came or went is no change of any service.
                        if of.is_none() { debounce.touch() }
                    }
                    Some(Event::Failed(of, error)) => outages.begun(of, error)?,
                    None => return Ok(ExitCode::SUCCESS),
                }
                if !complete && !busy {
                    complete = pass(targets, &mut network);
                    due = complete;
                }
            }
            () = debounce.due(), if !busy => {
                debounce.clear();
                complete = pass(targets, &mut network);
                due = complete;
            }
            _ = async { match &mut hook { Some(hook) => hook.ended().await, None => std::future::pending().await } } => {
                // What has changed meanwhile may have been asked for.
                debounce.touch();
            }
            () = signals.end() => {
                if let Some(hook) = &mut hook {
                    hook.finish(&mut signals).await;
                }
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// Renders all, and follows what they ask for; whether that has all been heard.
fn pass(targets: &mut [Target], network: &mut Network<'_>) -> bool {
    let mut services: BTreeSet<ServiceName> = BTreeSet::new();
    let mut complete = true;
    for target in targets {
        let (rendered, asked) = target.template.render(network);
        complete &= !matches!(rendered, Ok(None));
        services.extend(asked.services);
        if asked.names {
            network.listen_to_names();
        }
        target.rendered = rendered.map(Option::unwrap_or_default);
    }
    network.follow_only(&services);
    complete
}

/// Writes what has changed, and runs the command if there is any. Fails only when nobody reads the output.
fn write_all(session: &Session, targets: &mut [Target], hook: Option<&mut Hook<'_>>) -> Result<(), Failure> {
    let mut written = false;
    for target in targets {
        match target.write(session) {
            Ok(changed) => {
                written |= changed;
                target.complained = None;
            }
            Err(failure) if failure.is_silent() => return Err(failure),
            Err(failure) => {
                let why = failure.to_string();
                if target.complained.as_ref() != Some(&why) {
                    output::complain(&format!("{why} (what was written before still stands)"));
                    target.complained = Some(why);
                }
            }
        }
    }
    if let Some(hook) = hook.filter(|_| written) {
        hook.start(Vec::new());
    }
    Ok(())
}

/// A template, and the file to make of it.
struct Target {
    path: PathBuf,
    template: TemplateFile,
    out: PathBuf,
    rendered: Result<String, minijinja::Error>,
    /// What was written last to standard output.
    shown: Option<String>,
    /// What was complained of last.
    complained: Option<String>,
}

#[derive(Serialize)]
struct Written<'a> {
    time: String,
    change: &'static str,
    file: &'a Path,
}

impl Target {
    fn open_all(files: &[PathBuf]) -> Result<Vec<Self>, Failure> {
        let (pairs, rest) = files.as_chunks::<2>();
        if let [alone] = rest {
            return Err(Failure::usage(format!("template {} has no file to write", alone.display())));
        }
        pairs.iter().map(Self::open).collect()
    }

    fn open([path, out]: &[PathBuf; 2]) -> Result<Self, Failure> {
        let template = TemplateFile::open(path)?;
        let place = std::fs::canonicalize;
        if place(out).is_ok_and(|out| place(path).is_ok_and(|path| path == out)) {
            let (path, out) = (path.display(), out.display());
            return Err(Failure::usage(format!(
                "template {path} and the file to write, {out}, are the same file"
            )));
        }
        let (path, out) = (path.clone(), out.clone());
        Ok(Self { path, template, out, rendered: Ok(String::new()), shown: None, complained: None })
    }

    /// Writes it if it is not so already, and tells; whether it was not.
    fn write(&mut self, session: &Session) -> Result<bool, Failure> {
        let failed =
            |what: String, error: &(dyn std::error::Error + 'static)| Failure::failed(what).because(error);
        let text = match &self.rendered {
            Ok(text) => text,
            Err(error) => return Err(failed(format!("template {}", self.path.display()), error)),
        };
        if self.out == Path::new("-") {
            let changed = self.shown.as_ref() != Some(text);
            if changed {
                output::text(text)?;
                self.shown = Some(text.clone());
            }
            return Ok(changed);
        }
        let changed = replace(&self.out, text.as_bytes(), Mode::Usual)
            .map_err(|error| failed(format!("cannot write {}", self.out.display()), &error))?;
        if changed && session.json {
            output::json_line_to_error(&Written { time: now(), change: "written", file: &self.out });
        } else if changed {
            output::note(&format!("wrote {}", self.out.display()));
        }
        Ok(changed)
    }
}
