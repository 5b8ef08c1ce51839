//! `cargo xtask picture`: the picture of `switchboard top` in the README, from a real run on a real Consul agent, and those of
//! the page of `serve` from a real browser.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anstyle_svg::{Term, WIN10_CONSOLE};

use crate::command::{command, execute, finish, root, succeeds};
use crate::need::Need;
use crate::netns::Namespace;

const PROGRAM: &str = "target/debug/switchboard";
const PICTURE: &str = "docs/top.svg";

/// Service, id, address and version of what runs from the beginning.
const RUNNING: [[&str; 4]; 7] = [
    ["gateway", "gw-1", "10.20.1.11:8443", "3.2.0"],
    ["gateway", "gw-2", "10.20.1.12:8443", "3.2.0"],
    ["orders", "orders-1", "10.20.2.21:8080", "1.14.2"],
    ["orders", "orders-2", "10.20.2.22:8080", "1.14.2"],
    ["payments", "pay-1", "10.20.3.31:50051", "2.0.5"],
    ["payments", "pay-2", "10.20.3.32:50051", "2.0.5"],
    ["payments", "pay-3", "10.20.3.33:50051", "2.0.5"],
];

/// The next version, which starts while `top` looks.
const NEXT: [&str; 4] = ["orders", "orders-3", "10.20.2.23:8080", "1.15.0"];

/// The one of those that run that is killed, so that its time runs out.
const KILLED: usize = 5;

pub(crate) fn run() -> Result<(), String> {
    page()?;
    top()
}

/// The test that looks at the page takes pictures.
fn page() -> Result<(), String> {
    Need::Chromium.provide()?;
    let line =
        "cargo test -p switchboard-cli --bin switchboard -- --ignored serve::tests::page::it_is_to_be_seen";
    finish(line, command(line).env("SWITCHBOARD_PICTURES", root().join("docs")))?;
    // A quarter of the size, where it is there.
    if succeeds("pngquant --version") {
        execute(
            "pngquant --force --ext .png --quality 80-100 --strip docs/serve-light.png docs/serve-dark.png",
        )?;
    }
    Ok(())
}

fn top() -> Result<(), String> {
    for need in [Need::Namespaces, Need::Consul, Need::Tmux] {
        need.provide()?;
    }
    execute("cargo build -p switchboard-cli")?;
    let stage = Stage::new()?;
    let consul = std::env::var("CONSUL_BIN").unwrap_or_else(|_| "consul".into());
    let _agent = stage.start(&format!("{consul} agent -dev -bind 127.0.0.1 -log-level err"))?;
    stage.until(&format!("{PROGRAM} services --registry consul:"), "")?;

    let mut running = Vec::new();
    for instance in RUNNING {
        running.push(stage.register(instance)?);
    }
    stage.tmux(&format!(
        "-f /dev/null new-session -d -x 96 -y 19 {PROGRAM} top --registry consul: ; set -g status off"
    ))?;
    // With Consul's own service.
    stage.screen("instances 8  healthy 8")?;
    let _next = stage.register(NEXT)?;
    stage.screen("instances 9  healthy 9")?;
    // Dropped is killed, without a word to Consul.
    drop(running.remove(KILLED));
    stage.screen("instances 9  healthy 8")?;
    let screen = stage.screen("3s+ TTL")?;

    std::fs::write(root().join(PICTURE), draw(&screen)).map_err(|error| format!("{PICTURE}: {error}"))?;
    println!("{PICTURE} shows\n\n{screen}");
    Ok(())
}

/// The screen on a black of its own: the page behind it may be light or dark.
fn draw(screen: &str) -> String {
    let mut palette = WIN10_CONSOLE;
    // The bright colours for all: the others are hard to read on black, as is what is dimmed as much as is usual.
    palette.0.copy_within(9..15, 1);
    Term::new().palette(palette).render_svg(screen.trim_end()).replace("opacity: 0.4", "opacity: 0.7")
}

/// A network of its own with a terminal in it; gone when dropped.
struct Stage {
    network: Namespace,
}

impl Stage {
    fn new() -> Result<Self, String> {
        Ok(Self { network: Namespace::new().ok_or("no network namespace could be made")? })
    }

    fn start(&self, line: &str) -> Result<Running, String> {
        let mut command = self.network.command(line);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        child.map(Running).map_err(|error| format!("`{line}` did not start: {error}"))
    }

    fn register(&self, [service, id, address, version]: [&str; 4]) -> Result<Running, String> {
        self.start(&format!(
            "{PROGRAM} register {service} {address} --id {id} --version {version} --ttl 10s --registry consul:"
        ))
    }

    fn tmux(&self, arguments: &str) -> Result<String, String> {
        said(&mut self.network.command(&format!("tmux -L {} {arguments}", terminal())))
    }

    /// The screen as soon as it shows this.
    fn screen(&self, part: &str) -> Result<String, String> {
        self.until(&format!("tmux -L {} capture-pane -p -e", terminal()), part)
    }

    /// What `line` says as soon as it succeeds with this in it.
    fn until(&self, line: &str, part: &str) -> Result<String, String> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let last = said(&mut self.network.command(line));
            match last {
                Ok(text) if text.contains(part) => return Ok(text),
                last if Instant::now() > end => {
                    return Err(format!("`{line}` never said {part:?}: {last:?}"));
                }
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.tmux("kill-server");
    }
}

/// The name of a tmux server that is nobody else's.
fn terminal() -> String {
    format!("switchboard-{}", std::process::id())
}

fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing can be done where it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_red_or_dimmed_can_be_read_on_black() {
        let svg = super::draw("\x1b[2mdimmed\x1b[0;31mred\x1b[0m");
        assert!(svg.contains("opacity: 0.7") && svg.contains("#E74856"), "{svg}");
    }
}
