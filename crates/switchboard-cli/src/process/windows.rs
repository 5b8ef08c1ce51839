use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{ExitStatus, Stdio};

use process_wrap::tokio::{JobObject, TokioChildWrapper, TokioCommandWrap};
use tokio::process::{Child, Command};
use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_logoff,
    ctrl_shutdown,
};

/// Any of those that Windows has: it asks to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal;

/// The system's part of [`Signals`](super::Signals).
///
/// They end this process no longer by themselves, but after the closing of the window and logging off Windows waits 5 s.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: CtrlC,
    stop: CtrlBreak,
    close: CtrlClose,
    logoff: CtrlLogoff,
    shutdown: CtrlShutdown,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: ctrl_c()?,
            stop: ctrl_break()?,
            close: ctrl_close()?,
            logoff: ctrl_logoff()?,
            shutdown: ctrl_shutdown()?,
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal,
            _ = self.stop.recv() => Signal,
            _ = self.close.recv() => Signal,
            _ = self.logoff.recv() => Signal,
            _ = self.shutdown.recv() => Signal,
        }
    }
}

pub(crate) fn asks_to_end(_signal: Signal) -> bool {
    true
}

/// The program of this name, with the extension that Windows would not add by itself: `npm` is `npm.cmd`.
pub(super) fn program(name: &OsStr) -> OsString {
    which::which(name).map_or_else(|_| name.into(), Into::into)
}

/// Windows sends each signal to all programs of a console, and so to this one's.
pub(super) fn forward(_child: &Child, _signal: Signal) {}

/// The exit code to give for a program: its own, or 255 for those that are more.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Runs a command in a shell, without input and output; it and what it started are killed when this is dropped.
pub(crate) async fn shell(command: &str, env: &[(&str, String)]) -> io::Result<ExitStatus> {
    let mut shell = in_shell(command);
    shell
        .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut job = Job::start(shell)?;
    // For the shell alone: what it left behind ends with the job.
    job.child.inner_mut().wait().await
}

/// Runs a command in a shell that reads `input` and writes where this program does. It is killed with what it started when
/// this is dropped before it has ended; what it leaves behind when it ends by itself lives on.
pub(crate) async fn shell_with_input(command: &str, input: Vec<u8>) -> io::Result<ExitStatus> {
    let mut shell = in_shell(command);
    shell.stdin(Stdio::piped());
    let mut job = Job::start(shell)?;
    let status = super::feed(job.child.inner_mut(), input).await;
    job.ended = true;
    status
}

fn in_shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    // With /S the outer quotes are taken off, and the rest is left as it was written; /D keeps others' commands out.
    shell.args(["/D", "/S", "/C"]).raw_arg(format!("\"{command}\""));
    shell
}

/// A shell and all that it started, which end with this unless the shell has ended before.
struct Job {
    child: Box<dyn TokioChildWrapper>,
    ended: bool,
}

impl Job {
    fn start(shell: Command) -> io::Result<Self> {
        Ok(Self { child: TokioCommandWrap::from(shell).wrap(JobObject).spawn()?, ended: false })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.ended {
            // There may be nothing left of it.
            let _ = self.child.start_kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::windows::process::ExitStatusExt;

    use super::*;

    #[test]
    fn exit_codes_are_the_programs_own() {
        assert_eq!(exit_code(ExitStatus::from_raw(7)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(256)), 255, "no success");
        assert_eq!(exit_code(ExitStatus::from_raw(0xC000_013A)), 255, "ended by Ctrl-C");
    }

    #[tokio::test]
    async fn a_command_is_run_as_it_was_written() {
        let run = async |command| shell(command, &[("PORT", "80".into())]).await.unwrap().code();
        assert_eq!(run("exit 3").await, Some(3));
        assert_eq!(run("if \"%PORT%\"==\"80\" (exit 0) else (exit 4)").await, Some(0));
    }
}
