//! A program that takes commands as lines on its standard input and reports as JSON lines on its standard output.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// One JSON line, and when it came.
#[derive(Clone, Debug)]
pub struct Event {
    /// When this process read the line.
    pub at: Instant,
    /// The line.
    pub value: Value,
}

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    events: Receiver<Event>,
    /// Every event read so far.
    log: Vec<Event>,
}

impl Program {
    /// Starts `command`; `name` is for messages.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start(name: impl Display, command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
        let (sender, events) = mpsc::channel();
        thread::spawn(move || {
            for line in output.map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(Event { at: Instant::now(), value }).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        Self { name: name.to_string(), child, input, events, log: Vec::new() }
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives a command.
    ///
    /// # Panics
    ///
    /// When the program is gone.
    pub fn tell(&mut self, command: impl Display) {
        let told = self.input.as_mut().map(|input| writeln!(input, "{command}"));
        let taken = matches!(told, Some(Ok(())));
        assert!(taken, "{}", self.story("takes no command"));
    }

    /// Waits for an event that `pick` accepts, and gives what it picked and the event's moment.
    ///
    /// # Panics
    ///
    /// After `limit`, or when the program has ended, with the last that it said.
    pub fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut pick: impl FnMut(&Value) -> Option<T>,
    ) -> (T, Instant) {
        let deadline = Instant::now() + limit;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    self.log.push(event.clone());
                    if let Some(picked) = pick(&event.value) {
                        return (picked, event.at);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{}", self.story(&format!("no {what} within {limit:?}")))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{}", self.story(&format!("ended before {what}")))
                }
            }
        }
    }

    /// Every event so far, also those nobody has waited for.
    pub fn log(&mut self) -> &[Event] {
        self.log.extend(self.events.try_iter());
        &self.log
    }

    /// Ends the program with SIGKILL and gives the moment.
    pub fn kill(&mut self) -> Instant {
        let _ = self.child.kill();
        let killed = Instant::now();
        let _ = self.child.wait();
        killed
    }

    /// `message` with the last that the program said.
    fn story(&mut self, message: &str) -> String {
        let log = self.log();
        let told = &log[log.len().saturating_sub(12)..];
        let told: Vec<String> = told.iter().map(|event| format!("\n  {}", event.value)).collect();
        let told = told.concat();
        format!("{}: {message}; it said last:{told}", self.name)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
