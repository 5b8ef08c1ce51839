//! A compiler of a certain version, or for a certain system.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::{command, output, root, succeeds};

/// What a compiler from Debian's packages or of another version builds is kept apart, so that none undoes another's work.
const APART: &str = "target/msrv/build";

/// A compiler, and what it compiles for.
pub(crate) struct Compiler {
    /// Where it is; without one it is that of the cargo at hand.
    rustc: Option<String>,
    /// The system it compiles for, if that is another.
    target: Option<&'static str>,
    /// Its standard library for the target is built along with all else.
    builds_std: bool,
}

impl Compiler {
    /// That of exactly this version, for this system.
    pub(crate) fn of(version: &str) -> Result<Self, String> {
        let rustc = from_rustup(version).or_else(|| from_debian(&[version]));
        let rustc = rustc.ok_or_else(|| {
            format!("no Rust {version} could be had: neither by `rustup toolchain install {version}` nor as Debian's rustc-web")
        })?;
        Ok(Self { rustc: Some(rustc), target: None, builds_std: false })
    }

    /// One for `target`: that at hand, or the newest of Debian's that is enough for every crate here.
    pub(crate) fn for_system(target: &'static str) -> Result<Self, String> {
        if has_std(target) || succeeds(&format!("rustup target add {target}")) && has_std(target) {
            return Ok(Self { rustc: None, target: Some(target), builds_std: false });
        }
        let least = rust_version("crates/switchboard-cli/Cargo.toml")?;
        let rustc = from_debian(&[&format!("{least}+"), "source"]).ok_or_else(|| {
            format!(
                "no compiler for it could be had: neither by `rustup target add {target}` nor, from {least} on, as \
                 Debian's rustc-web, libstd-rust-web-dev and rust-web-src"
            )
        })?;
        Ok(Self { rustc: Some(rustc), target: Some(target), builds_std: true })
    }

    /// The line of cargo that has it compile.
    pub(crate) fn line(&self, subcommand: &str, arguments: &str) -> String {
        let std = if self.builds_std { " -Zbuild-std" } else { "" };
        let target = self.target.map(|target| format!(" --target {target}")).unwrap_or_default();
        let apart = if self.rustc.is_some() { format!(" --target-dir {APART}") } else { String::new() };
        format!("cargo {subcommand}{std}{target}{apart} {arguments}")
    }

    /// Has the command of such a line find it.
    pub(crate) fn equip(&self, mut command: Command) -> Command {
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc);
        }
        if self.builds_std {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }
}

/// The `rust-version` that a manifest gives itself.
pub(crate) fn rust_version(manifest: &str) -> Result<String, String> {
    let text =
        std::fs::read_to_string(root().join(manifest)).map_err(|error| format!("{manifest}: {error}"))?;
    let version = text.lines().find_map(|line| line.strip_prefix("rust-version = "));
    Ok(version.ok_or_else(|| format!("no rust-version in {manifest}"))?.trim_matches('"').to_owned())
}

fn from_rustup(version: &str) -> Option<String> {
    let which =
        || output(&format!("rustup which --toolchain {version} rustc")).map(|path| path.trim().to_owned());
    which().or_else(|| {
        succeeds(&format!("rustup toolchain install {version} --profile minimal")).then(which).flatten()
    })
}

/// Whether the compiler at hand has its standard library for `target`.
fn has_std(target: &str) -> bool {
    let folder = output(&format!("rustc --print target-libdir --target {target}"));
    folder.is_some_and(|folder| Path::new(folder.trim()).exists())
}

fn from_debian(wanted: &[&str]) -> Option<String> {
    let unpacked = command("scripts/debian-rustc.sh").args(wanted).stderr(Stdio::inherit()).output().ok()?;
    unpacked.status.success().then(|| String::from_utf8_lossy(&unpacked.stdout).trim().to_owned())
}
