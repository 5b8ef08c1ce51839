//! A network namespace with nothing but loopback, so that no multicast leaves this machine.

use std::process::Command;

use crate::command::{command, execute, finish, output, succeeds};

/// A namespace that goes when this value does.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// A new one; `None` where that takes rights or tools that are not there.
    pub(crate) fn new() -> Option<Self> {
        let namespace = Self { name: format!("switchboard-{}", std::process::id()) };
        let made = is_root()
            && succeeds(&format!("ip netns add {}", namespace.name))
            && succeeds(&format!("ip -n {} link set lo up", namespace.name));
        made.then_some(namespace)
    }

    /// The command that runs `line` in it.
    pub(crate) fn command(&self, line: &str) -> Command {
        command(&format!("ip netns exec {} {line}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        succeeds(&format!("ip netns delete {}", self.name));
    }
}

/// `line` in a namespace where that is possible, else as it is.
pub(crate) fn isolated(namespace: Option<&Namespace>, line: &str) -> Command {
    namespace.map_or_else(|| command(line), |namespace| namespace.command(line))
}

pub(crate) fn is_root() -> bool {
    output("id -u").is_some_and(|id| id.trim() == "0")
}

pub(crate) fn quickstart() -> Result<(), String> {
    execute("cargo build --example quickstart")?;
    // By way of cargo, which knows where it has put it; there is nothing left to fetch or build.
    let line = "cargo run --quiet --offline --example quickstart";
    let namespace = Namespace::new();
    finish(line, &mut isolated(namespace.as_ref(), line))
}
