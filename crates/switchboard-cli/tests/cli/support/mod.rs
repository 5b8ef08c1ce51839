//! The program under test, what it writes, and where it looks.

pub(crate) mod agent;
pub(crate) mod http;
pub(crate) mod proxy;
pub(crate) mod shell;
pub(crate) mod terminal;

use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The longest anything may take; far more than it does.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The program, looking at `registry`, with nothing else from the environment.
pub(crate) fn switchboard(registry: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(arguments).env("SWITCHBOARD_REGISTRY", registry).stdin(Stdio::null());
    command
        .env("SWITCHBOARD_CONFIG", "/no/such/file")
        .env_remove("COMPLETE")
        .env_remove("SWITCHBOARD_NAMESPACE");
    for (name, _) in
        std::env::vars().filter(|(name, _)| name.starts_with("CONSUL_") || name.starts_with("ETCDCTL_"))
    {
        command.env_remove(name);
    }
    command
}

/// A multicast DNS of one's own: loopback, and a port that nobody else uses.
pub(crate) fn mdns() -> String {
    let port = UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    format!("mdns:?interface=lo&port={port}")
}

/// What a command that ended said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: Option<i32>,
}

pub(crate) fn run(registry: &str, arguments: &[&str]) -> Said {
    said(switchboard(registry, arguments).output().unwrap())
}

pub(crate) fn said(output: Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Asks again until `accept`, for what may take a moment to be known.
pub(crate) fn until(registry: &str, arguments: &[&str], accept: impl Fn(&Said) -> bool) -> Said {
    let end = Instant::now() + LIMIT;
    loop {
        let said = run(registry, arguments);
        if accept(&said) {
            return said;
        }
        assert!(Instant::now() < end, "{arguments:?}: {said:?}");
    }
}

/// A command that runs on; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        // The threads end with the pipes.
        let (out, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let other = sender.clone();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        std::thread::spawn(move || {
            BufReader::new(errors).lines().map_while(Result::ok).try_for_each(|line| other.send(line))
        });
        Self { child, lines }
    }

    /// The next line it writes.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("another line")
    }

    /// The next line with `part` in it.
    pub(crate) fn line_with(&self, part: &str) -> String {
        self.lines_to(part).pop().unwrap_or_default()
    }

    /// All lines before the next with `part` in it.
    pub(crate) fn lines_before(&self, part: &str) -> Vec<String> {
        let mut lines = self.lines_to(part);
        lines.pop();
        lines
    }

    fn lines_to(&self, part: &str) -> Vec<String> {
        let end = Instant::now() + LIMIT;
        let mut lines: Vec<String> = Vec::new();
        while !lines.last().is_some_and(|line| line.contains(part)) {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => lines.push(line),
                Err(error) => panic!("no line with {part:?}, but {lines:?}: {error}"),
            }
        }
        lines
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the end, and what was still written.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<String>) {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.lines.iter().collect());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it runs on");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compares with the file `name`, in which `replaced` stand for what differs from run to run.
#[track_caller]
pub(crate) fn golden(name: &str, actual: &str, replaced: &[(&str, &str)]) {
    let actual = replaced.iter().fold(actual.to_owned(), |text, (from, to)| text.replace(from, to));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{}", path.display());
}

/// A line of `watch` without its time, which must be one in UTC.
#[track_caller]
pub(crate) fn untimed(line: &str) -> String {
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == "2026-01-02T03:04:05Z".len() && time.ends_with('Z'), "{line}");
    rest.to_owned()
}

/// The same of a line of `watch --json`.
#[track_caller]
pub(crate) fn untimed_json(line: &str) -> String {
    let (time, rest) = line.strip_prefix("{\"time\":\"").unwrap().split_once("Z\",").unwrap();
    assert_eq!(time.len(), "2026-01-02T03:04:05.678".len(), "{line}");
    format!("{{{rest}")
}

/// `text` with each run of digits before ` ms` as `N`.
pub(crate) fn without_times(text: &str) -> String {
    let parts: Vec<&str> =
        text.split(" ms").map(|part| part.trim_end_matches(|c: char| c.is_ascii_digit())).collect();
    let last = text.rsplit(" ms").next().unwrap_or_default();
    let mut joined = parts[..parts.len() - 1].join("N ms");
    if parts.len() > 1 {
        joined.push_str("N ms");
    }
    joined + last
}
