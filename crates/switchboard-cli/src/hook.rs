//! The command that is run after changes: not for each of many in a row, and never two at once.

use std::process::ExitStatus;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout};

use crate::args;
use crate::output::{self, now};
use crate::process::{self, Signals};
use crate::session::Session;

/// Changes that do not stop are told of all the same, after so many times the quiet that is waited for.
const PATIENCE: u32 = 10;

/// Holds changes back until none has come for a while.
#[derive(Debug)]
pub(crate) struct Debounce {
    quiet: Duration,
    /// The first and the last change that are held back.
    held: Option<(Instant, Instant)>,
}

impl Debounce {
    pub(crate) fn new(quiet: Duration) -> Self {
        Self { quiet, held: None }
    }

    /// That something has changed.
    pub(crate) fn touch(&mut self) {
        let now = Instant::now();
        let first = self.held.map_or(now, |(first, _)| first);
        self.held = Some((first, now));
    }

    /// Waits until it is time to tell; for ever if nothing has changed. It is held back until [`clear`](Self::clear).
    pub(crate) async fn due(&self) {
        match self.held {
            Some((first, last)) => {
                sleep_until((last + self.quiet).min(first + self.quiet * PATIENCE)).await;
            }
            None => std::future::pending().await,
        }
    }

    /// That it has been told.
    pub(crate) fn clear(&mut self) {
        self.held = None;
    }
}

/// A command to run, and its run while there is one.
pub(crate) struct Hook<'a> {
    session: &'a Session,
    command: String,
    limit: Duration,
    running: Option<BoxFuture<'static, Ended>>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` when it did not end in time, and was killed.
    status: Option<std::io::Result<ExitStatus>>,
    took: Duration,
}

impl Ended {
    pub(crate) fn is_success(&self) -> bool {
        matches!(&self.status, Some(Ok(status)) if status.success())
    }
}

#[derive(Serialize)]
struct Line {
    time: String,
    change: &'static str,
    /// As a shell has it; `null` when there is none, as `why` says.
    code: Option<u8>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl<'a> Hook<'a> {
    /// `None` if no command was given.
    pub(crate) fn new(session: &'a Session, args: &args::Hook) -> Option<Self> {
        let command = args.exec.clone()?;
        Some(Self { session, command, limit: args.exec_timeout, running: None })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts it. There must be no run.
    pub(crate) fn start(&mut self, input: Vec<u8>) {
        let (command, limit, started) = (self.command.clone(), self.limit, Instant::now());
        let run = async move {
            let status = timeout(limit, process::shell_with_input(&command, input)).await.ok();
            Ended { status, took: started.elapsed() }
        };
        self.running = Some(run.boxed());
    }

    /// Waits for the end of the run, and tells it; for ever where there is none.
    pub(crate) async fn ended(&mut self) -> Ended {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let ended = running.await;
        self.running = None;
        self.tell(&ended);
        ended
    }

    /// Waits for the end of the run, if there is one, but for a second signal.
    pub(crate) async fn finish(&mut self, signals: &mut Signals) {
        if self.is_running() {
            output::note("waiting for the command to end; a second signal kills it");
            tokio::select! {
                _ = self.ended() => {}
                () = signals.end() => self.running = None,
            }
        }
    }

    fn tell(&self, ended: &Ended) {
        let limit = humantime::format_duration(self.limit);
        let (code, why) = match &ended.status {
            Some(Ok(status)) => (Some(process::exit_code(*status)), None),
            Some(Err(error)) => (None, Some(format!("it did not start: {error}"))),
            None => (None, Some(format!("it did not end within {limit}, and was killed"))),
        };
        if self.session.json {
            let seconds = output::seconds(ended.took);
            return output::json_line_to_error(&Line { time: now(), change: "exec", code, seconds, why });
        }
        let how = code.map(|code| format!("exit status {code}"));
        let text = format!("--exec: {}", how.or(why).unwrap_or_default());
        if ended.is_success() { output::note(&text) } else { output::complain(&text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_in_a_row_are_told_once_and_those_that_do_not_stop_all_the_same() {
        let mut debounce = Debounce::new(Duration::from_millis(100));
        assert!(timeout(Duration::from_secs(9), debounce.due()).await.is_err(), "nothing has changed");
        let started = Instant::now();
        for _ in 0..3 {
            debounce.touch();
            tokio::time::advance(Duration::from_millis(60)).await;
        }
        debounce.due().await;
        assert_eq!(started.elapsed().as_millis() / 10, 22);
        debounce.clear();
        let started = Instant::now();
        debounce.touch();
        while timeout(Duration::from_millis(60), debounce.due()).await.is_err() {
            debounce.touch();
        }
        assert_eq!(started.elapsed().as_millis() / 10, 100);
    }
}
