//! A compiler of a certain version, for this system and for others.

use std::process::{Command, Stdio};

use crate::command::{command, output, succeeds};

/// Where what it builds is kept, for all systems.
const BUILD: &str = "target/msrv/build";

/// The compiler of one version, and what it can compile for.
pub(crate) struct Compiler {
    rustc: String,
    target: Option<&'static str>,
    /// Its standard library for the target is built along with all else.
    builds_std: bool,
}

impl Compiler {
    /// That of `version`, however it can be had; compiling for this system, or for `target`.
    pub(crate) fn of(version: &str, target: Option<&'static str>) -> Result<Self, String> {
        if let Some(rustc) = from_rustup(version, target) {
            return Ok(Self { rustc, target, builds_std: false });
        }
        if let Some(rustc) = from_debian(version) {
            return Ok(Self { rustc, target, builds_std: target.is_some() });
        }
        let for_target = target.map(|target| format!(" --target {target}")).unwrap_or_default();
        Err(format!(
            "no Rust {version} could be had; `rustup toolchain install {version}{for_target}`, \
             or Debian's rustc-web, libstd-rust-web-dev and rust-web-src of that version"
        ))
    }

    /// The line of cargo that has it compile.
    pub(crate) fn line(&self, subcommand: &str, arguments: &str) -> String {
        let target = self.target.map(|target| format!(" --target {target}")).unwrap_or_default();
        let std = if self.builds_std { " -Zbuild-std" } else { "" };
        format!("cargo {subcommand}{std}{target} --target-dir {BUILD} {arguments}")
    }

    /// Has the command of such a line find it.
    pub(crate) fn equip(&self, mut command: Command) -> Command {
        command.env("RUSTC", &self.rustc);
        if self.builds_std {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }
}

fn from_rustup(version: &str, target: Option<&str>) -> Option<String> {
    let which =
        || output(&format!("rustup which --toolchain {version} rustc")).map(|path| path.trim().to_owned());
    let rustc = which().or_else(|| {
        succeeds(&format!("rustup toolchain install {version} --profile minimal")).then(which).flatten()
    })?;
    target
        .is_none_or(|target| succeeds(&format!("rustup target add --toolchain {version} {target}")))
        .then_some(rustc)
}

fn from_debian(version: &str) -> Option<String> {
    let unpacked = command("scripts/debian-rustc.sh").arg(version).stderr(Stdio::inherit()).output().ok()?;
    unpacked.status.success().then(|| String::from_utf8_lossy(&unpacked.stdout).trim().to_owned())
}
