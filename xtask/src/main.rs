//! The project's own commands. `cargo xtask help` lists them.
#![allow(clippy::print_stdout, reason = "it is a command line program")]

mod additions;
mod api;
mod check;
mod command;
mod compiler;
mod lab;
mod need;
mod netns;
mod picture;
mod systems;
mod test;
mod wine;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  test          all tests: unit, property, documentation, conformance, and those that need real servers
  wine          those tests alone that are compiled for Windows and that Wine runs
  check [NAME…] everything else: format, lints, documentation, features, dependencies, licences, oldest Rust, …; or those named
  api [REV]     what the public interface of the libraries has lost since the last release, or since REV
  simulate [N]  the simulation with N seeds (default 200) instead of the few of `test`
  fuzz [SECS]   each fuzz target for SECS seconds (default 20); needs a nightly toolchain and cargo-fuzz
  lab [NAME…]   mDNS on links that lose, delay, break and lie, ours beside Avahi's (root, Linux); all scenarios or those named
  picture       the pictures of `switchboard top` and of the page of `serve` in the documents, made anew (root, Linux)
  quickstart    the quickstart example in a network namespace of its own (root, Linux) or on loopback
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match arguments.next().as_deref() {
        Some("test") => test::run(),
        Some("wine") => wine::run(),
        Some("check") => check::run(&arguments.collect::<Vec<_>>()),
        Some("api") => api::run(arguments.next().as_deref()),
        Some("simulate") => test::simulate(arguments.next().as_deref()),
        Some("fuzz") => check::fuzz(arguments.next().as_deref()),
        Some("lab") => lab::run(&arguments.collect::<Vec<_>>()),
        Some("picture") => picture::run(),
        Some("quickstart") => netns::quickstart(),
        Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(())
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\nxtask: {why}");
            ExitCode::FAILURE
        }
    }
}
