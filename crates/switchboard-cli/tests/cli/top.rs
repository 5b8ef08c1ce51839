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

#[test]
#[ignore = "needs tmux"]
fn it_ends_without_a_crash_when_its_terminal_closes() {
    let dir = tempfile::tempdir().unwrap();
    let code = dir.path().join("code");
    let terminal = Terminal::new();
    let program = env!("CARGO_BIN_EXE_switchboard");
    // A shell that outlives the terminal, to tell how it ended.
    let script = dir.path().join("script");
    let lines = "trap '' HUP\n$1 top --registry memory:\necho $? > $2.part\nmv $2.part $2\n";
    std::fs::write(&script, lines).unwrap();
    terminal.run(&format!("sh {} {program} {}", script.display(), code.display()));
    terminal.until(&["q quits"]);
    drop(terminal);
    let end = std::time::Instant::now() + crate::support::LIMIT;
    while !code.exists() {
        assert!(std::time::Instant::now() < end, "it runs on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let code: u8 = std::fs::read_to_string(code).unwrap().trim().parse().unwrap();
    assert!(code < 2, "{code}");
}
