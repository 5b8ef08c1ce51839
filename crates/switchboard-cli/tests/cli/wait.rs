//! `wait`: the line every script needs.

use rustix::process::Signal;

use crate::support::{Running, mdns, run, switchboard};

#[test]
fn it_ends_when_there_are_enough_and_when_all_are_gone() {
    let at = mdns();
    let wait = |more: &[&str]| {
        Running::start(switchboard(&at, &[&["wait", "web", "--timeout", "30s"][..], more].concat()))
    };
    let (two, gone) = (wait(&["--healthy", "2"]), wait(&["--gone"]));
    assert_eq!(gone.line(), "web: gone", "nobody is there yet");
    let register = |id: &str| {
        let running = Running::start(switchboard(&at, &["register", "web", "127.0.0.1:80", "--id", id]));
        running.line_with("registered");
        running
    };
    let one = register("w1");
    assert_eq!(wait(&["w1"]).line(), "web/w1: 1 healthy");
    let _other = register("w2");
    assert_eq!(two.line(), "web: 2 healthy");
    assert_eq!(two.end().0.code(), Some(0));

    let gone = wait(&["w1", "--gone", "--json"]);
    one.signal(Signal::TERM);
    let line = gone.line();
    assert!(line.starts_with(r#"{"service":"web","instances":0,"healthy":0,"seconds":"#), "{line}");

    let late = run(&at, &["wait", "web", "--gone", "--timeout", "2s"]);
    let why = "switchboard: web: not within 2s: web/w2 still there\n";
    assert_eq!((late.code, late.err.as_str(), late.out.as_str()), (Some(1), why, ""));
    let late = run(&at, &["wait", "web", "--healthy", "3", "--timeout", "2s"]);
    let why = "switchboard: web: not within 2s: 1 of 3 healthy\n";
    assert_eq!((late.code, late.err.as_str()), (Some(1), why));
}

#[test]
fn a_registry_that_is_not_there_yet_is_waited_for() {
    let late = run("consul://127.0.0.1:1", &["wait", "web", "--timeout", "500ms"]);
    let why = "switchboard: web: not within 500ms: consul: watch: unavailable: cannot connect to 127.0.0.1:1";
    assert_eq!(late.code, Some(1));
    assert!(late.err.starts_with(why), "{late:?}");
}
