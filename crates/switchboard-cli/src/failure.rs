//! Why a command ends without success: one line, the cause included, and an exit code.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::Command;
use clap::error::{ContextKind, ContextValue};
use switchboard::selector::PickError;
use switchboard::{Error, ErrorKind, Invalid};

use crate::output;

const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
    /// The reader of our output is gone: nothing is said.
    silent: bool,
}

impl Failure {
    /// It was tried and did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: FAILED, silent: false }
    }

    /// What was asked for makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: USAGE, silent: false }
    }

    /// With another exit code.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// With the cause, and its causes.
    pub(crate) fn because(mut self, cause: &(dyn StdError + 'static)) -> Self {
        self.message = format!("{}: {}", self.message, chain(cause));
        self
    }

    /// Whether nobody reads the output any more.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Says it and gives the exit code.
    pub(crate) fn exit(&self) -> ExitCode {
        if self.silent {
            return ExitCode::SUCCESS;
        }
        output::complain(&self.message);
        ExitCode::from(self.code)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = if error.kind() == ErrorKind::Invalid { USAGE } else { FAILED };
        // This program's name stands before every message.
        let message = chain(&error);
        let message = match message.strip_prefix("switchboard: ") {
            Some(own) => own.into(),
            None => message,
        };
        Self { message, code, silent: false }
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self::usage(invalid.to_string())
    }
}

impl From<PickError> for Failure {
    fn from(error: PickError) -> Self {
        match error {
            PickError::Registry(error) => error.into(),
            other => Self::failed(other.to_string()),
        }
    }
}

/// Standard output cannot be written; if nobody reads it any more, that is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let silent = error.kind() == io::ErrorKind::BrokenPipe;
        Self { silent, ..Self::failed("cannot write the output").because(&error) }
    }
}

/// The error and its causes, in one line, without saying anything twice.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// An error whose tips name commands as the help does, and not by an alias that it does not show. The words of the line say
/// which command has the one that is not known.
pub(crate) fn by_visible_names(
    mut error: clap::Error,
    definition: &Command,
    words: impl Iterator<Item = OsString>,
) -> clap::Error {
    let tips = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::String(tip)) => vec![tip.clone()],
        Some(ContextValue::Strings(tips)) => tips.clone(),
        _ => return error,
    };
    let of = words.fold(definition, |command, word| command.find_subcommand(word).unwrap_or(command));
    let visible = |tip: String| of.find_subcommand(&tip).map_or(tip, |known| known.get_name().to_owned());
    let mut names: Vec<String> = Vec::new();
    for name in tips.into_iter().map(visible) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(names));
    error
}

/// What clap says, in one line on standard error; help and version on standard output.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nothing can be done about a terminal that cannot be written to.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // On standard error: it is not what a script has asked for.
        let _ = error.print();
        return ExitCode::from(USAGE);
    }
    let text = error.render().to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or_default();
    let said = said.split("\n\nFor more information").next().unwrap_or_default();
    let said: Vec<&str> = said.trim_start_matches("error: ").split_whitespace().collect();
    let message = match error.kind() {
        clap::error::ErrorKind::MissingSubcommand => "no command is given".into(),
        _ => said.join(" "),
    };
    Failure::usage(format!("{message} (see --help)")).exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_says_each_thing_once() {
        let error = Error::new(ErrorKind::Unavailable, "consul", "lookup", "cannot connect to h:1")
            .with_source(io::Error::other("connection refused"));
        assert_eq!(chain(&error), "consul: lookup: unavailable: cannot connect to h:1: connection refused");
        let twice = Error::new(ErrorKind::Unavailable, "a", "b", "why").with_source(io::Error::other("why"));
        assert_eq!(chain(&twice), "a: b: unavailable: why");
    }

    #[test]
    fn bad_input_is_bad_usage_and_all_else_a_failure() {
        assert_eq!(Failure::from(Error::closed("a", "b")).code, FAILED);
        assert_eq!(Failure::from(Error::invalid("a", "b", &Invalid::new("x", "y"))).code, USAGE);
        assert!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).silent);
    }
}
