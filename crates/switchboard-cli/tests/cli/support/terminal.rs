//! A terminal, as tmux has them.

use std::process::Command;
use std::time::Instant;

use super::LIMIT;
use super::shell::tool;

/// A terminal in which a shell runs; gone when dropped.
pub(crate) struct Terminal(String);

impl Terminal {
    pub(crate) fn new() -> Self {
        let terminal = Self(format!("sb-{:08x}", fastrand::u32(..)));
        terminal.tmux("-f /dev/null new-session -d -x 100 -y 24 sh");
        // The prompt.
        terminal.wait("a prompt", |screen| !screen.trim().is_empty());
        terminal
    }

    /// Types a command line.
    pub(crate) fn run(&self, line: &str) {
        let sent = Command::new("tmux").args(["-L", &self.0, "send-keys", line, "Enter"]).status();
        assert!(sent.unwrap().success(), "{line}");
    }

    pub(crate) fn tmux(&self, arguments: &str) -> String {
        tool(&format!("tmux -L {} {arguments}", self.0))
    }

    /// Waits until all of `parts` are on the screen; gives the screen.
    pub(crate) fn until(&self, parts: &[&str]) -> String {
        self.wait(&format!("{parts:?}"), |screen| parts.iter().all(|part| screen.contains(part)))
    }

    /// The same with colours, as escape sequences.
    pub(crate) fn until_coloured(&self, parts: &[&str]) -> String {
        self.wait_for("capture-pane -p -e", &format!("{parts:?}"), |screen| {
            parts.iter().all(|part| screen.contains(part))
        })
    }

    fn wait(&self, what: &str, accept: impl Fn(&str) -> bool) -> String {
        self.wait_for("capture-pane -p", what, accept)
    }

    fn wait_for(&self, capture: &str, what: &str, accept: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let screen = self.tmux(capture);
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
        let _ = Command::new("tmux").args(["-L", &self.0, "kill-server"]).status();
    }
}
