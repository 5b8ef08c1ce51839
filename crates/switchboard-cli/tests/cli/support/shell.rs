//! Tools of the system.

use std::process::Command;

/// Runs a tool that must succeed; what it writes.
#[track_caller]
pub(crate) fn tool(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace with nothing but loopback; gone when dropped.
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    pub(crate) fn new() -> Self {
        let name = format!("sb-{:08x}", fastrand::u32(..));
        tool(&format!("ip netns add {name}"));
        let namespace = Self(name);
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn ip(&self, arguments: &str) {
        tool(&format!("ip -n {} {arguments}", self.0));
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}
