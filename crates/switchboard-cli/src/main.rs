//! The `switchboard` command: see, try and join service discovery from a terminal.

mod args;
mod bounded;
mod commands;
mod complete;
mod contexts;
mod details;
mod doctor;
mod failure;
mod health_check;
mod hook;
mod listing;
mod manual;
mod network;
mod origin;
mod output;
mod process;
mod proxy;
mod reader;
mod replace;
mod serve;
mod session;
mod template;
mod template_file;
mod top;
mod world;

use std::mem::ManuallyDrop;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use clap_complete::CompleteEnv;

use crate::args::{Arguments, Command, Later};
use crate::failure::Failure;
use crate::session::Session;

fn main() -> ExitCode {
    // A shell that asks how to go on with a line is answered here, and this ends.
    CompleteEnv::with_factory(Arguments::command).complete();
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => return failure::usage(&error),
    };
    // One thread starts sooner; a proxy is for the calls of a whole machine.
    let mut runtime = match arguments.command {
        Command::Proxy(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed("cannot start").because(&error).exit(),
    };
    let done = runtime.block_on(run(arguments));
    // What still runs in the background must not keep the process.
    runtime.shutdown_background();
    match done {
        Ok(code) => code,
        Err(failure) => failure.exit(),
    }
}

/// As `Arguments::try_parse` does, but the definition is left to the end of the process: freeing its many small parts takes
/// longer than most of what a short command does.
fn arguments() -> Result<Arguments, clap::Error> {
    let mut definition = ManuallyDrop::new(Arguments::command());
    let mut found = definition
        .try_get_matches_from_mut(std::env::args_os())
        .map_err(|error| failure::by_visible_names(error, &definition, std::env::args_os().skip(1)))?;
    Arguments::from_arg_matches_mut(&mut found).map_err(|error| error.format(&mut definition))
}

async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { global, command } = arguments;
    output::log(global.verbose);
    match &command {
        Command::Context(Later(args)) => return commands::context::run(&global, args).await,
        Command::Completions(Later(args)) => return commands::generate::completions(args),
        Command::Man(Later(args)) => return commands::generate::man(args),
        Command::Version => return commands::generate::version(&global),
        _ => {}
    }
    let session = Session::new(global)?;
    match command {
        Command::Services(Later(args)) => commands::services::run(&session, &args).await,
        Command::Instances(Later(args)) => commands::instances::run(&session, &args).await,
        Command::Describe(Later(args)) => commands::describe::run(&session, &args).await,
        Command::Wait(Later(args)) => commands::wait::run(&session, &args).await,
        Command::Watch(Later(args)) => commands::watch::run(&session, &args).await,
        Command::Render(Later(args)) => commands::render::run(&session, &args).await,
        Command::Register(Later(args)) => commands::register::run(&session, args).await,
        Command::Run(Later(args)) => commands::run::run(&session, args).await,
        Command::Pick(Later(args)) => commands::pick::run(&session, &args).await,
        Command::Call(Later(args)) => commands::call::run(&session, &args).await,
        Command::Proxy(Later(settings)) => proxy::run(&session, &settings).await,
        Command::Doctor(Later(args)) => doctor::run(&session, &args).await,
        Command::Top(Later(args)) => top::run(&session, &args).await,
        Command::Serve(Later(args)) => serve::run(&session, &args).await,
        Command::Deregister(Later(args)) => commands::deregister::run(&session, &args).await,
        Command::Maintenance(Later(args)) => commands::maintenance::run(&session, &args).await,
        // They need no registry, and are done.
        Command::Context(_) | Command::Completions(_) | Command::Man(_) | Command::Version => {
            Ok(ExitCode::SUCCESS)
        }
    }
}
