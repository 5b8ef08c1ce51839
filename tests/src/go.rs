//! Programs in Go, built once in a process.
#![allow(clippy::missing_panics_doc, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The program in the folder `source` of this crate, built into `scratch`. Fetches modules and compiles for minutes on a fresh machine, so
/// have it before anything lives by a TTL.
pub fn build(source: &str, scratch: impl AsRef<Path>) -> PathBuf {
    let name = Path::new(source).file_name().unwrap_or_default();
    let target = scratch.as_ref().join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&target).arg(".").current_dir(source);
    let built = go.output().unwrap_or_else(|error| panic!("go: {error}"));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target
}
