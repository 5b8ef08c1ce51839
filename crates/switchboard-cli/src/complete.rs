//! What a shell is offered where it cannot know by itself: services and ids from the live registry, contexts, programs.
//!
//! A person waits for it with a half-written line before them: what does not answer at once, or with an error, is left out
//! in silence.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgMatches, CommandFactory as _};
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use switchboard::{Instance, Registry, ServiceName, Snapshot};

use crate::args::Arguments;
use crate::commands::{instances, services};
use crate::contexts::Contexts;
use crate::output;
use crate::session::Session;

/// The longest a registry is waited for; mDNS listens for half a second.
const LIMIT: Duration = Duration::from_millis(1500);

/// So many executables are enough of a list.
const PROGRAMS: usize = 1000;

/// The names of services.
pub(crate) fn services(current: &OsStr) -> Vec<CompletionCandidate> {
    let found =
        ask(async |registry, _| Some(registry.services().await.ok()?.into_iter().collect::<Vec<_>>()));
    offered(current, found.unwrap_or_default().iter().map(|name| (name.as_str(), None)))
}

/// The ids of the instances of the service that the line names, with where they are.
pub(crate) fn ids(current: &OsStr) -> Vec<CompletionCandidate> {
    let found = ask(async |registry, line| {
        let (_, command) = line.subcommand()?;
        let service: &ServiceName = command.try_get_one("service").ok()??;
        registry.lookup(service).await.ok()
    });
    let all = found.as_ref().map(Snapshot::all).unwrap_or_default();
    let about = |one: &Instance| format!("{}, {}", one.address(), one.health());
    offered(current, all.iter().map(|one| (one.id().as_str(), Some(about(one)))))
}

/// The forms of a list.
pub(crate) fn list_formats(current: &OsStr) -> Vec<CompletionCandidate> {
    offered(current, ["wide", "json", "yaml", "name", "template="].into_iter().map(|form| (form, None)))
}

/// The forms of what is no list.
pub(crate) fn formats(current: &OsStr) -> Vec<CompletionCandidate> {
    offered(current, ["json", "yaml", "template="].into_iter().map(|form| (form, None)))
}

/// What the list of the line can be sorted by, with a minus if the word begins with one.
pub(crate) fn sort_fields(current: &OsStr) -> Vec<CompletionCandidate> {
    let line = line(env::args_os());
    let fields = match line.as_ref().and_then(ArgMatches::subcommand_name) {
        Some("services") => services::FIELDS,
        _ => instances::FIELDS,
    };
    let word = current.to_string_lossy();
    let (minus, word) = word.strip_prefix('-').map_or(("", &*word), |word| ("-", word));
    let fields = fields.split(", ").map(|field| (field.trim_end_matches("KEY"), None));
    let found = offered(OsStr::new(word), fields);
    found.into_iter().map(|candidate| candidate.add_prefix(minus)).collect()
}

/// The file behind an `@`.
pub(crate) fn data(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(path) = current.to_str().and_then(|word| word.strip_prefix('@')) else { return Vec::new() };
    let files = PathCompleter::any().complete(OsStr::new(path));
    files.into_iter().map(|candidate| candidate.add_prefix("@")).collect()
}

/// The names of contexts.
pub(crate) fn contexts(current: &OsStr) -> Vec<CompletionCandidate> {
    let Ok(contexts) = Contexts::load() else { return Vec::new() };
    offered(current, contexts.all().map(|(name, _)| (name, None)))
}

/// A program and its arguments: what is on the path, then files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommandLine;

impl ValueCompleter for CommandLine {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        self.complete_at(0, current)
    }

    fn complete_at(&self, index: usize, current: &OsStr) -> Vec<CompletionCandidate> {
        let is_path =
            Path::new(current).components().count() > 1 || current.as_encoded_bytes().contains(&b'/');
        if index > 0 || is_path {
            return PathCompleter::any().complete(current);
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let mut names: BTreeSet<OsString> = BTreeSet::new();
        for directory in env::split_paths(&path) {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            let starts = |name: &OsString| name.as_encoded_bytes().starts_with(current.as_encoded_bytes());
            names.extend(entries.map(|entry| entry.file_name()).filter(starts));
        }
        names.into_iter().take(PROGRAMS).map(CompletionCandidate::new).collect()
    }
}

/// Those that begin as the word does. A name that a shell reads as more than a word is not put on anybody's command line.
fn offered<'a>(
    current: &OsStr,
    names: impl Iterator<Item = (&'a str, Option<String>)>,
) -> Vec<CompletionCandidate> {
    let harmless =
        |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '@' | '/' | '+' | ',' | '=');
    let current = current.to_string_lossy();
    names
        .filter(|(name, _)| name.starts_with(&*current) && name.chars().all(harmless))
        .filter(|(name, _)| !name.starts_with('-'))
        .map(|(name, about)| {
            CompletionCandidate::new(name).help(about.map(|about| output::clean(&about).into()))
        })
        .collect()
}

/// Asks the registry that the line names something. `None` if it does not answer in time, or there is no such registry.
fn ask<T>(question: impl AsyncFnOnce(Arc<dyn Registry>, ArgMatches) -> Option<T>) -> Option<T> {
    let line = line(env::args_os())?;
    let session = Session::new(crate::args::Global::of(&line)).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(within(async { question(session.open().await?, line).await }));
    runtime.shutdown_background();
    answer
}

async fn within<T>(work: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(LIMIT, work).await.ok()?
}

/// The line that is being written, as far as it makes sense: what stands behind the first `--` of the arguments.
fn line(arguments: impl Iterator<Item = OsString>) -> Option<ArgMatches> {
    let words = arguments.skip_while(|word| word != "--").skip(1);
    Arguments::command().ignore_errors(true).try_get_matches_from(words).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_line_is_understood() {
        let line = |words: &[&str]| {
            let words = ["switchboard", "--", "switchboard"].iter().chain(words);
            let line = line(words.map(OsString::from)).unwrap();
            let service = line.subcommand().and_then(|(_, command)| {
                command.try_get_one::<ServiceName>("service").ok().flatten().map(ToString::to_string)
            });
            (crate::args::Global::of(&line).registry, service)
        };
        let web = Some("web".to_owned());
        assert_eq!(line(&["describe", "web", ""]), (None, web.clone()));
        assert_eq!(
            line(&["--registry", "mdns:", "describe", "web", "w"]),
            (Some("mdns:".into()), web.clone())
        );
        assert_eq!(line(&["wait", "--timeout", "5s", "web", "--registry=a:", ""]), (Some("a:".into()), web));
        assert_eq!(line(&["deregister", ""]), (None, None));
    }

    #[test]
    fn what_a_shell_would_read_as_more_than_a_word_is_not_offered() {
        let names = ["web", "we$(reboot)", "we;ls", "we b", "we`ls`", "web@h:1", "-web", "wé", "api"];
        let offered = offered(OsStr::new("w"), names.into_iter().map(|name| (name, None)));
        let values: Vec<_> = offered.iter().map(|one| one.get_value().to_string_lossy()).collect();
        assert_eq!(values, ["web", "web@h:1", "wé"]);
    }
}
