//! `top` in a real terminal.

use crate::support::agent::Agent;
use crate::support::terminal::Terminal;
use crate::support::{Running, switchboard};

#[test]
#[ignore = "needs consul and tmux"]
fn it_resizes_survives_the_registrys_loss_and_leaves_the_terminal_as_it_was() {
    let mut agent = Agent::dev();
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
