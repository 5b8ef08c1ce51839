//! Tests compiled for Windows, which Wine runs.

use std::path::PathBuf;
use std::process::Command;

use crate::command::{command, finish, root};
use crate::compiler::Compiler;
use crate::need::Need;
use crate::netns::{Namespace, isolated};

/// Of a bounded set of crates, and without tests of hours on a paused clock, of which Wine makes minutes.
const TESTS: &str = "--all-features -p switchboard-core -p switchboard-net -p switchboard-mdns -p switchboard-selector \
                     -p switchboard-cli --lib --bins --test windows --test loopback --test life --test wait --test zones \
                     --test imbalance";

/// And without what has to be heard within a second, such as a probe, through which Wine on a busy machine may sleep.
const FILTER: &str =
    "--skip faults:: --skip a_first_state_holds_everybody --skip a_taken_label --skip one_id_of_two_programs";

/// Those tests alone, in a namespace where that is possible.
pub(crate) fn run() -> Result<(), String> {
    let wine = Wine::get()?;
    wine.build()?;
    let namespace = Namespace::new();
    let (line, mut command) = wine.tests(namespace.as_ref());
    finish(&line, &mut command)
}

/// Wine, and a compiler for it.
pub(crate) struct Wine {
    compiler: Compiler,
    prefix: PathBuf,
}

impl Wine {
    pub(crate) const WHAT: &str = "core, mDNS, the selector and the command line on Windows, by Wine";

    /// Makes sure all is there; or says what is not.
    pub(crate) fn get() -> Result<Self, String> {
        Need::Wine.provide()?;
        Need::Mingw.provide()?;
        let compiler = Compiler::for_system("x86_64-pc-windows-gnu")?;
        let prefix = root().join("target/wine");
        let script = "scripts/wine-prefix.sh";
        match command(script).arg(&prefix).status() {
            Ok(status) if status.success() => Ok(Self { compiler, prefix }),
            Ok(_) => Err(format!("{script} says above why Wine does not run")),
            Err(error) => Err(format!("{script} did not start: {error}")),
        }
    }

    /// With the network that a namespace does not have.
    pub(crate) fn build(&self) -> Result<(), String> {
        let line = self.compiler.line("test", &format!("--no-run {TESTS}"));
        finish(&line, &mut self.equip(command(&line)))
    }

    /// The command that runs the tests, and its line.
    pub(crate) fn tests(&self, namespace: Option<&Namespace>) -> (String, Command) {
        let line = self.compiler.line("test", &format!("--offline --no-fail-fast {TESTS} -- {FILTER}"));
        let command = self.equip(isolated(namespace, &line));
        (line, command)
    }

    fn equip(&self, command: Command) -> Command {
        let mut command = self.compiler.equip(command);
        command
            .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", "x86_64-w64-mingw32-gcc")
            .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", "wine")
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all");
        command
    }
}
