//! `cargo xtask lab`: mDNS on bad links, in network namespaces.

use std::fs;

use crate::command::{command, execute, finish, root};
use crate::need::Need;

pub(crate) fn run(scenarios: &[String]) -> Result<(), String> {
    Need::Namespaces.provide()?;
    Need::Avahi.provide()?;
    if !fs::exists("/dev/net/tun").unwrap_or_default() {
        return Err("the link of the lab is made of TAP devices, and there is no /dev/net/tun".into());
    }
    execute(
        "cargo build --release -p switchboard-cli -p switchboard-tests --bin switchboard --bin mdns-lab",
    )?;
    // The files of Avahi's daemons, also what an interrupted run has left.
    let scratch = root().join("target/lab");
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    // It cleans up on SIGTERM, which it gets when this ends in any way.
    let line = format!("setpriv --pdeathsig TERM target/release/mdns-lab {}", scenarios.join(" "));
    let done = finish(&line, command(&line).env("TMPDIR", &scratch));
    let _ = fs::remove_dir_all(&scratch);
    done
}
