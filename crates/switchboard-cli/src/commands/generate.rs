//! `completions` and `man`: made from the command line's definition.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::env::Shells;
use serde::Serialize;

use crate::args::{self, Arguments, Global};
use crate::failure::Failure;
use crate::manual;
use crate::output::{self, Look};

pub(crate) fn completions(args: &args::Completions) -> Result<ExitCode, Failure> {
    let shell = args.shell.to_string();
    let failed = || Failure::failed(format!("there are no completions for {shell}"));
    let shells = Shells::builtins();
    let adapter = shells.completer(&shell).ok_or_else(failed)?;
    // Into memory first: a pipe that is closed is no failure of the generator.
    let mut script = Vec::new();
    adapter.write_registration("COMPLETE", "switchboard", "switchboard", "switchboard", &mut script)?;
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

pub(crate) fn version(global: &Global) -> Result<ExitCode, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if global.json {
        output::json(&Version { version })?;
    } else {
        output::line(Look::Plain, &format!("switchboard {version}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &args::Man) -> Result<ExitCode, Failure> {
    // What `help` shows are these pages.
    let command = Arguments::command().disable_help_subcommand(true);
    if let Some(directory) = &args.directory {
        manual::write_all(command, directory).map_err(|error| {
            Failure::failed(format!("cannot write to {}", directory.display())).because(&error)
        })?;
    } else {
        io::stdout().write_all(manual::page(command)?.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}
