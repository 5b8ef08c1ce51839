//! `top` in a real terminal.

use std::time::Instant;

use crate::support::agent::Agent;
use crate::support::shell::tool;
use crate::support::{LIMIT, Running, switchboard};

/// A terminal in which a shell runs; gone when dropped.
struct Terminal(String);

impl Terminal {
    fn new() -> Self {
        let terminal = Self(format!("sb-{:08x}", fastrand::u32(..)));
        terminal.tmux("-f /dev/null new-session -d -x 100 -y 24 sh");
        // The prompt.
        terminal.wait("a prompt", |screen| !screen.trim().is_empty());
        terminal
    }

    fn tmux(&self, arguments: &str) -> String {
        tool(&format!("tmux -L {} {arguments}", self.0))
    }

    fn until(&self, parts: &[&str]) -> String {
        self.wait(&format!("{parts:?}"), |screen| parts.iter().all(|part| screen.contains(part)))
    }

    fn wait(&self, what: &str, accept: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let screen = self.tmux("capture-pane -p");
            if accept(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "no {what} in\n{screen}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = std::process::Command::new("tmux").args(["-L", &self.0, "kill-server"]).status();
    }
}

#[test]
#[ignore = "needs consul and tmux"]
fn it_resizes_survives_the_registrys_loss_and_leaves_the_terminal_as_it_was() {
    let mut agent = Agent::dev("");
    let hello = ["register", "hello", "127.0.0.1:8080", "--id", "h1"];
    let hello = Running::start(switchboard(&agent.url(), &hello));
    hello.line_with("registered");

    let terminal = Terminal::new();
    terminal.tmux("send-keys echo Space kept Enter");
    let before = terminal.until(&["\nkept"]);
    let program = env!("CARGO_BIN_EXE_switchboard");
    terminal.tmux(&format!("send-keys {program} Space top Space --registry Space {} Enter", agent.url()));
    terminal.until(&["live", "hello", "h1", "CHANGES", "q quits"]);
    terminal.tmux("resize-window -x 50 -y 10");
    terminal.until(&["live", "hello", "q quits"]);
    agent.kill();
    terminal.until(&["not heard for", "hello", "h1"]);
    terminal.tmux("resize-window -x 100 -y 24");
    terminal.until(&["not heard for", "CHANGES"]);
    terminal.tmux("send-keys q");
    let after = terminal.until(&["\nkept"]);
    assert!(after.starts_with(before.lines().next().unwrap()), "{after}");
    assert!(!after.contains("CHANGES"), "{after}");
    terminal.tmux("send-keys stty Space -a Enter");
    terminal.until(&[" icanon", " echo "]);
}
