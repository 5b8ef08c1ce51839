//! Colours and spinners, on a terminal only.

use std::net::TcpListener;

use crate::support::terminal::Terminal;
use crate::support::{Running, mdns, run, switchboard, until};

#[test]
#[ignore = "needs tmux"]
fn colours_are_for_a_terminal_that_wants_them() {
    let at = mdns();
    let hello = Running::start(switchboard(&at, &["register", "hello", "127.0.0.1:8080", "--id", "h1"]));
    hello.line_with("registered");
    let piped = until(&at, &["services"], |said| said.out.contains("hello"));
    assert!(!piped.out.contains('\x1b'), "{piped:?}");

    let terminal = Terminal::new();
    let services = format!("{} services --registry '{at}'", env!("CARGO_BIN_EXE_switchboard"));
    terminal.run(&services);
    terminal.until_coloured(&["\x1b[1mSERVICE", "hello"]);
    terminal.run(&format!("clear; NO_COLOR=1 {services}; echo don''e"));
    let plain = terminal.until_coloured(&["SERVICE", "hello", "done"]);
    assert!(!plain.contains("\x1b[1m"), "{plain}");
}

#[test]
#[ignore = "needs tmux"]
fn a_spinner_shows_while_a_registry_is_slow_and_goes_with_its_answer() {
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("consul://{}", silent.local_addr().unwrap());
    let services = ["services", "--timeout", "500ms"];
    let piped = run(&at, &services);
    assert_eq!((piped.code, piped.err.lines().count()), (Some(1), 1), "{piped:?}");

    let terminal = Terminal::new();
    let program = env!("CARGO_BIN_EXE_switchboard");
    terminal.run(&format!("{program} services --timeout 3s --registry {at}"));
    terminal.until(&["waiting for the registry"]);
    let after = terminal.until(&["did not answer within 3s"]);
    assert!(!after.contains("waiting for the registry"), "{after}");
}
