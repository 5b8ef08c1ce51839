//! `completions` and `man`: made from the command line's definition.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::env::Shells;

use crate::args::{self, Arguments};
use crate::failure::Failure;
use crate::manual;

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

pub(crate) fn man(args: &args::Man) -> Result<ExitCode, Failure> {
    let command = Arguments::command();
    if let Some(directory) = &args.directory {
        manual::write_all(command, directory).map_err(|error| {
            Failure::failed(format!("cannot write to {}", directory.display())).because(&error)
        })?;
    } else {
        io::stdout().write_all(manual::page(command)?.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}
