//! `cargo xtask api`: what the public interface of the libraries has lost.

use crate::command::{execute, output, succeeds};

/// Compares with `revision`, or with the last release.
pub(crate) fn run(revision: Option<&str>) -> Result<(), String> {
    let Some(baseline) = revision.map(str::to_owned).or_else(last_release) else {
        println!(
            "Nothing is released yet, so that there is nothing to keep: `cargo xtask api REV` compares with a revision"
        );
        return Ok(());
    };
    if !succeeds("cargo semver-checks --version") {
        return Err(
            "cargo-semver-checks is missing: `cargo install --locked --debug cargo-semver-checks`".into()
        );
    }
    execute(&format!("cargo semver-checks --workspace --all-features --baseline-rev {baseline}"))
}

/// The newest tag of a release that this commit comes after.
fn last_release() -> Option<String> {
    output("git describe --tags --abbrev=0 --match v[0-9]*").map(|tag| tag.trim().to_owned())
}
