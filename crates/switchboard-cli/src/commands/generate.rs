//! `completions` and `man`: made from the command line's definition.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{self, Arguments};
use crate::failure::Failure;

pub(crate) fn completions(args: &args::Completions) -> Result<ExitCode, Failure> {
    // Into memory first: the generator panics on a pipe that is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "switchboard", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &args::Man) -> Result<ExitCode, Failure> {
    let command = Arguments::command();
    if let Some(directory) = &args.directory {
        clap_mangen::generate_to(command, directory).map_err(|error| {
            Failure::failed(format!("cannot write to {}", directory.display())).because(&error)
        })?;
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        io::stdout().write_all(&page)?;
    }
    Ok(ExitCode::SUCCESS)
}
