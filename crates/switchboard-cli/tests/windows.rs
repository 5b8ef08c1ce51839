//! The command on Windows, or on Wine: as a script meets it.
#![cfg(windows)]
#![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The longest anything may take; far more than it does.
const LIMIT: Duration = Duration::from_secs(60);

/// The program, looking at `registry`.
fn switchboard(registry: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(arguments).env("SWITCHBOARD_REGISTRY", registry).stdin(Stdio::null());
    command
}

/// A multicast DNS of one's own: loopback, and a port that nobody else uses.
fn mdns() -> String {
    let port = UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    format!("mdns:?interface=lo&port={port}")
}

/// Asks again until `part` is on standard output.
fn until(registry: &str, arguments: &[&str], part: &str) {
    let end = Instant::now() + LIMIT;
    loop {
        let said = switchboard(registry, arguments).output().unwrap();
        if String::from_utf8_lossy(&said.stdout).contains(part) {
            return;
        }
        assert!(Instant::now() < end, "{arguments:?}: {said:?}");
    }
}

/// A command that runs on; killed when dropped.
struct Running {
    child: Child,
    errors: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, errors) = channel();
        // The thread ends with the pipe.
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn(move || lines.into_iter().try_for_each(|line| sender.send(line)));
        Self { child, errors }
    }

    /// Waits for a line on standard error with `part` in it.
    fn says(&self, part: &str) {
        let end = Instant::now() + LIMIT;
        let left = || end.saturating_duration_since(Instant::now());
        while !self.errors.recv_timeout(left()).expect(part).contains(part) {}
    }

    fn end(mut self) -> ExitStatus {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it runs on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test by itself: a web server on the port in `PORT`, which ends with 5 when `/end` is asked for.
#[test]
#[ignore = "is run by the next"]
fn serves() {
    let Some(port) = std::env::var("PORT").ok().and_then(|port| port.parse::<u16>().ok()) else { return };
    for stream in TcpListener::bind(("127.0.0.1", port)).unwrap().incoming() {
        let mut stream = stream.unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap_or(0);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n");
        if request[..length].starts_with(b"GET /end ") {
            drop(stream);
            std::process::exit(5);
        }
    }
}

#[test]
fn a_program_is_found_and_called_and_its_exit_code_returned() {
    let at = mdns();
    let this = std::env::current_exe().unwrap();
    let this = this.to_str().unwrap();
    let web =
        ["run", "web", "--id", "w1", "--host", "127.0.0.1", "--", this, "--ignored", "--exact", "serves"];
    let running = Running::start(switchboard(&at, &web));
    running.says("registered web/w1 at 127.0.0.1:");
    until(&at, &["call", "web", "/"], "hello\n");
    let _ = switchboard(&at, &["call", "web", "/end"]).output().unwrap();
    running.says("deregistered web/w1");
    assert_eq!(running.end().code(), Some(5));
}

#[test]
fn what_one_registers_another_finds() {
    let at = mdns();
    let register = ["register", "hello", "127.0.0.1:8080", "--id", "h1", "--version", "1.2.0"];
    let _registered = Running::start(switchboard(&at, &register));
    until(&at, &["instances", "hello"], "h1  passing  127.0.0.1:8080  1.2.0");
    until(&at, &["services", "--json"], "\"name\":\"hello\",\"instances\":1");
}

#[test]
fn scripts_are_programs_too_and_exit_codes_are_theirs() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("leaves.cmd"), "@exit 7\r\n").unwrap();
    let path = format!("{};{}", folder.path().display(), std::env::var("PATH").unwrap());
    let run = |program: &str| -> Output {
        switchboard("memory:", &["run", "a", "--", program]).env("PATH", &path).output().unwrap()
    };
    assert_eq!(run("leaves").status.code(), Some(7));
    assert_eq!(run("no-such-program").status.code(), Some(127));
    let mistake = switchboard("memory:", &["servces"]).output().unwrap();
    assert_eq!(mistake.status.code(), Some(2), "{mistake:?}");
}
