use std::ffi::OsStr;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, getpgrp, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// The system's part of [`Signals`](super::Signals).
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Stream,
    terminate: Stream,
    hangup: Stream,
    quit: Stream,
    user1: Stream,
    user2: Stream,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::HUP,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.user1.recv() => Signal::USR1,
            _ = self.user2.recv() => Signal::USR2,
        }
    }
}

pub(crate) fn asks_to_end(signal: Signal) -> bool {
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT].contains(&signal)
}

/// The program of this name; the system finds it.
pub(super) fn program(name: &OsStr) -> &OsStr {
    name
}

/// Passes a signal on, unless the terminal has sent it to the program too.
pub(super) fn forward(child: &Child, signal: Signal) {
    let by_terminal = [Signal::INT, Signal::QUIT, Signal::HUP].contains(&signal);
    if by_terminal && in_foreground() {
        return;
    }
    if let Some(pid) = child.id().and_then(pid) {
        // It may have just ended.
        let _ = kill_process(pid, signal);
    }
}

/// Whether this process belongs to the group that its terminal sends Ctrl-C to.
fn in_foreground() -> bool {
    rustix::termios::tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground == getpgrp())
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

/// The exit code to give for a program, by the convention of shells: 128 and the number of the signal that ended it.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Runs a command in a shell, without input and output; it and what it started are killed when this is dropped.
pub(crate) async fn shell(command: &str, env: &[(&str, String)]) -> io::Result<ExitStatus> {
    let mut shell = in_shell(command);
    shell.envs(env.iter().map(|(name, value)| (*name, value.as_str())));
    let mut child = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let _group = Group(child.id().and_then(pid));
    child.wait().await
}

/// Runs a command in a shell that reads `input` and writes where this program does. It is killed with what it started when
/// this is dropped before it has ended; what it leaves behind when it ends by itself lives on.
pub(crate) async fn shell_with_input(command: &str, input: Vec<u8>) -> io::Result<ExitStatus> {
    let mut child = in_shell(command).stdin(Stdio::piped()).spawn()?;
    let mut group = Group(child.id().and_then(pid));
    let status = super::feed(&mut child, input).await;
    group.0 = None;
    status
}

fn in_shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).process_group(0);
    shell
}

/// A process group that ends with this.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // There may be nothing left of it.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_shells() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
