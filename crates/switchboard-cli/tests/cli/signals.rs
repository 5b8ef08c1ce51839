//! Being told to end, once and twice.

use std::process::Command;

use rustix::process::Signal;

use crate::support::{Running, mdns, switchboard};

/// Registered, by this command with what is to be run behind it.
fn registered(at: &str, before: &[&str], id: &str) -> Running {
    let register = switchboard(at, &["register", "web", "127.0.0.1:80", "--id", id]);
    let mut words = before.iter().map(|word| (*word).as_ref()).chain([register.get_program()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(register.get_args());
    for (name, value) in register.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let running = Running::start(command);
    running.line_with("registered");
    running
}

#[test]
fn signals_at_once_are_one() {
    let web = registered(&mdns(), &[], "w1");
    web.signal(Signal::STOP);
    web.signal(Signal::TERM);
    web.signal(Signal::INT);
    // Both are there when it goes on.
    web.signal(Signal::CONT);
    let (status, rest) = web.end();
    assert_eq!(status.code(), Some(0), "{rest:?}");
    assert!(rest.iter().any(|line| line.starts_with("deregistered web/w1")), "{rest:?}");
}

#[test]
fn timeout_of_coreutils_ends_it_as_one_signal_does() {
    let at = mdns();
    let all: Vec<Running> =
        (0..4).map(|count| registered(&at, &["timeout", "600"], &format!("w{count}"))).collect();
    // It sends what it gets to its program, and to the group of that.
    for one in &all {
        one.signal(Signal::TERM);
    }
    for one in all {
        let (status, rest) = one.end();
        assert!(rest.iter().any(|line| line.starts_with("deregistered web/w")), "{status} {rest:?}");
    }
}
