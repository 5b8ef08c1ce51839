//! What shells are offered.

use std::fs;
use std::path::Path;

use crate::support::terminal::Terminal;
use crate::support::{Running, Said, mdns, said, switchboard};

/// What bash is offered for the last of `words`, one a line.
fn offered(at: &str, words: &[&str]) -> Said {
    let mut command = switchboard(at, &[&["--", "switchboard"], words].concat());
    command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    said(command.output().unwrap())
}

#[track_caller]
fn offers(at: &str, words: &[&str], expected: &[&str]) {
    // What was just registered may take a moment to be heard.
    let mut last = None;
    for _ in 0..10 {
        let said = offered(at, words);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{words:?}: {said:?}");
        // An empty word may become an option, too.
        let values = said.out.split_whitespace().filter(|word| !word.starts_with("--"));
        if values.eq(expected.iter().copied()) {
            return;
        }
        last = Some(said);
    }
    panic!("{words:?}: {expected:?} and {last:?}");
}

fn register(at: &str, service: &str, id: &str) -> Running {
    let running = Running::start(switchboard(at, &["register", service, "127.0.0.1:80", "--id", id]));
    running.line_with("registered");
    running
}

#[test]
fn services_ids_and_programs_are_offered() {
    let at = mdns();
    let _running = [register(&at, "web", "w1"), register(&at, "web", "w2"), register(&at, "worker", "x1")];
    offers(&at, &["instances", "w"], &["web", "worker"]);
    offers(&at, &["describe", "web", "w"], &["w1", "w2"]);
    offers(&at, &["maintenance", "on", "worker", ""], &["x1"]);
    // The line's registry counts, and not the environment's.
    offers("memory:", &["--registry", &at, "wait", "--timeout", "5s", "web", "w2"], &["w2"]);
    offers(&at, &["dere"], &["deregister"]);
    offers(&at, &["context", "u"], &["use"]);
    offers(&at, &["services", "-o", ""], &["wide", "json", "yaml", "name", "template="]);
    offers(&at, &["describe", "web", "-o", ""], &["json", "yaml", "template="]);
    offers(&at, &["services", "--sort", "he"], &["healthy"]);
    offers(&at, &["instances", "web", "--sort", "he"], &["health"]);
    offers(&at, &["instances", "web", "--sort", "m"], &["metadata."]);

    let dir = tempfile::tempdir().unwrap();
    for name in ["sbtest-one", "sbtest-two"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let mut command = switchboard("memory:", &["--", "switchboard", "run", "web", "--", "sbtest-"]);
    command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "4").env("PATH", dir.path());
    assert_eq!(said(command.output().unwrap()).out, "sbtest-one\nsbtest-two");
    let path = format!("@{}/sbtest-t", dir.path().display());
    let whole = format!("@{}/sbtest-two", dir.path().display());
    offers("memory:", &["call", "web", "/", "-d", &path], &[&whole]);
    let path = format!("{}/sbtest-t", dir.path().display());
    let whole = format!("{}/sbtest-two", dir.path().display());
    offers("memory:", &["run", "web", "--", &path], &[&whole]);
    offers("memory:", &["run", "web", "--", "cat", &path], &[&whole]);
}

#[test]
fn what_cannot_be_asked_offers_nothing_and_says_nothing() {
    for at in ["consul://127.0.0.1:1", "greeter", "consul://127.0.0.1:1?zz=hunter2"] {
        offers(at, &["instances", ""], &[]);
    }
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("consul://{}", silent.local_addr().unwrap());
    let begun = std::time::Instant::now();
    assert!(offered(&at, &["instances", ""]).out.starts_with("--"));
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());
}

/// A directory on the path in which this program is called `switchboard`.
fn on_the_path(dir: &Path) -> String {
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_switchboard"), dir.join("switchboard")).unwrap();
    format!("PATH={}:$PATH", dir.display())
}

#[test]
#[ignore = "needs tmux, zsh and fish"]
fn bash_zsh_and_fish_complete_from_the_live_registry() {
    let (at, dir) = (mdns(), tempfile::tempdir().unwrap());
    let _running = [register(&at, "payments", "p1"), register(&at, "payments", "p2")];
    let path = on_the_path(dir.path());
    for (shell, setup) in [
        ("bash --norc", "source <(switchboard completions bash)"),
        ("zsh -f", "autoload -Uz compinit; compinit -u -D; source <(switchboard completions zsh)"),
        ("fish --no-config", "switchboard completions fish | source"),
    ] {
        let terminal = Terminal::new();
        terminal.run(&format!("export {path}; SWITCHBOARD_REGISTRY='{at}' exec {shell}"));
        terminal.run(&format!("{setup}; echo se''t"));
        terminal.until(&["\nset"]);
        terminal.tmux("send-keys switchboard Space describe Space pay Tab");
        terminal.until(&["switchboard describe payments"]);
        // Two begin so: the second Tab lists them.
        terminal.tmux("send-keys p Tab Tab");
        terminal.until(&["p1", "p2"]);
    }
}
