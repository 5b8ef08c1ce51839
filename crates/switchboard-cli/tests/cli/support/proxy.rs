//! The proxy, with its ports.

use std::process::ExitStatus;
use std::time::Instant;

use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::http::get;
use super::{LIMIT, Running, Said, mdns, switchboard, until};

pub(crate) struct Proxy {
    pub(crate) running: Running,
    /// Where it takes HTTP.
    pub(crate) port: u16,
    /// Where it takes connections for services.
    pub(crate) tcp: Vec<u16>,
    pub(crate) at: String,
}

impl Proxy {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::of(&mdns(), arguments)
    }

    pub(crate) fn of(at: &str, arguments: &[&str]) -> Self {
        let arguments = [&["proxy", "--port", "0", "--json"], arguments].concat();
        let running = Running::start(switchboard(at, &arguments));
        let line = running.line_with("listening");
        let said: Value = serde_json::from_str(&line).unwrap();
        let port = |address: &Value| -> u16 {
            address.as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
        };
        let tcp = said["tcp"].as_array().unwrap().iter().map(|through| port(&through["address"])).collect();
        Self { running, port: port(&said["http"][0]), tcp, at: at.to_owned() }
    }

    /// Registers an instance on loopback, for as long as what this gives is held.
    pub(crate) fn register(&self, service: &str, id: &str, port: u16, more: &[&str]) -> Running {
        let address = format!("127.0.0.1:{port}");
        let register = [&["register", service, &address, "--id", id], more].concat();
        let running = Running::start(switchboard(&self.at, &register));
        running.line_with("registered");
        running
    }

    /// Waits until the registry has so many instances of a service.
    pub(crate) fn until_known(&self, service: &str, count: usize) {
        let all = |said: &Said| said.out.lines().count() == count;
        until(&self.at, &["instances", service, "--no-headers"], all);
    }

    /// Waits until an instance of a service answers so.
    pub(crate) fn until_answered(&self, service: &str, body: &str) {
        let end = Instant::now() + LIMIT;
        while !get(self.port, &format!("{service}.localhost"), "/").ends_with(body) {
            assert!(Instant::now() < end, "{service} does not answer {body:?}");
        }
    }

    /// Ends it as the system does; what it still said.
    pub(crate) fn end(self) -> (ExitStatus, Vec<String>) {
        self.running.signal(Signal::TERM);
        self.running.end()
    }
}

/// The most memory that a process has had, in MiB.
pub(crate) fn peak(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
