//! Running other programs.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// A command in the workspace's root, from words separated by spaces.
pub(crate) fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).current_dir(root());
    command
}

/// Runs a command, after showing it.
pub(crate) fn execute(line: &str) -> Result<(), String> {
    finish(line, &mut command(line))
}

/// Runs a prepared command, after showing it as `line`.
pub(crate) fn finish(line: &str, command: &mut Command) -> Result<(), String> {
    println!("\n$ {line}");
    let status = command.status().map_err(|error| format!("`{line}` did not start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed: {status}")) }
}

/// The standard output of a command, if it succeeds.
pub(crate) fn output(line: &str) -> Option<String> {
    let output = command(line).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a command exists and succeeds; its output is not shown.
pub(crate) fn succeeds(line: &str) -> bool {
    output(line).is_some()
}

/// Runs a command and hands each line of its standard output to `see`; whether it succeeded.
pub(crate) fn follow(line: &str, command: &mut Command, mut see: impl FnMut(&str)) -> Result<bool, String> {
    let failed = |error| format!("`{line}`: {error}");
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            see(&line.map_err(failed)?);
        }
    }
    Ok(child.wait().map_err(failed)?.success())
}
