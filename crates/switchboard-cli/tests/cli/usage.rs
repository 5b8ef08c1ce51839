//! What needs no registry: help, mistakes, secrets, pipes.

use std::fmt::Write as _;
use std::process::Stdio;

use crate::support::{golden, run, said, switchboard};

const COMMANDS: [&str; 20] = [
    "services",
    "instances",
    "describe",
    "wait",
    "watch",
    "render",
    "register",
    "run",
    "pick",
    "call",
    "proxy",
    "deregister",
    "maintenance",
    "doctor",
    "top",
    "serve",
    "context",
    "completions",
    "man",
    "version",
];

#[test]
fn help_of_every_command() {
    let mut all = run("memory:", &["--help"]).out;
    for command in COMMANDS {
        let help = run("memory:", &[command, "-h"]);
        assert_eq!(help.code, Some(0));
        write!(all, "\n==== {command}\n\n{}", help.out).unwrap();
    }
    golden("help.txt", &all, &[]);
}

#[test]
fn mistakes_are_one_line_with_the_cause_and_an_exit_code() {
    let cases: &[(&str, &[&str])] = &[
        ("memory:", &["servces"]),
        ("memory:", &["lst"]),
        ("memory:", &["context", "lst"]),
        ("memory:", &["help", "lst"]),
        ("memory:", &["services", "--jsn"]),
        ("memory:", &["instances"]),
        ("memory:", &["instances", ""]),
        ("memory:", &["instances", "a", "--meta", "zone"]),
        ("memory:", &["services", "--timeout", "5"]),
        ("memory:", &["services", "-o", "xml"]),
        ("memory:", &["services", "--json", "-o", "yaml"]),
        ("static:a=127.0.0.1:1", &["instances", "a", "-o", "template={{ metadata.rack }}"]),
        ("static:a=127.0.0.1:1", &["instances", "a", "-o", "template={{ id"]),
        ("memory:", &["instances", "a", "-A"]),
        ("memory:", &["describe", "a"]),
        ("memory:", &["describe", "a", "1"]),
        ("memory:", &["describe", "a", "-o", "name"]),
        ("memory:", &["wait", "a", "--timeout", "100ms"]),
        ("memory:", &["wait", "a", "--gone", "--healthy", "2"]),
        ("greeter", &["services"]),
        ("zookeeper://h", &["services"]),
        ("consul://127.0.0.1:1", &["services"]),
        ("consul://127.0.0.1:8500?zz=1", &["services"]),
        ("memory:", &["register", "a", "127.0.0.1"]),
        ("memory:", &["register", "a", "127.0.0.1:0"]),
        ("memory:", &["register", "a", "127.0.0.1:1", "--weight", "0"]),
        ("memory:", &["register", "a", "127.0.0.1:1", "--ttl", "5s", "--interval", "10s"]),
        ("memory:", &["register", "a", "127.0.0.1:1", "--check-http", "/up"]),
        ("memory:", &["run", "a"]),
        ("memory:", &["run", "a", "--", "no-such-program"]),
        ("memory:", &["pick", "a"]),
        ("memory:", &["pick", "a", "-n", "0"]),
        ("memory:", &["pick", "a", "--strategy", "hash"]),
        ("memory:", &["pick", "a", "--strategy", "random", "--key", "k"]),
        ("memory:", &["call", "a", "/"]),
        ("memory:", &["call", "a", "path"]),
        ("memory:", &["call", "a", "/", "-H", "hunter2"]),
        ("memory:", &["call", "a", "--json", "-o", "file"]),
        ("memory:", &["register", "a", "127.0.0.1:1", "--check-tcp=h"]),
        ("memory:", &["register", "a", "127.0.0.1:1", "--check-grpc=h/s"]),
        ("memory:", &["deregister", "a", "1"]),
        ("memory:", &["maintenance", "on", "a", "1"]),
        ("memory:", &["context", "current"]),
        ("memory:", &["context", "use", "prod"]),
        ("memory:", &["services", "--context", "prod"]),
        ("memory:", &["top"]),
        ("memory:", &["top", "--json"]),
        ("memory:", &["serve", "--listen", "localhost:80"]),
        ("memory:", &["man", "no-such-directory"]),
    ];
    let mut all = String::new();
    for (registry, arguments) in cases {
        let said = run(registry, arguments);
        assert_eq!(said.err.lines().count(), 1, "{arguments:?}: {said:?}");
        assert_eq!(said.out, "", "{arguments:?}");
        write!(all, "{registry} {arguments:?}\n  {} {}", said.code.unwrap(), said.err).unwrap();
    }
    golden("mistakes.txt", &all, &[]);
}

#[test]
#[cfg(not(feature = "kubernetes"))]
fn a_registry_that_was_left_out_is_told_with_how_to_get_it() {
    let said = run("kubernetes:", &["services"]);
    let how = "get one that has it by `cargo install switchboard-cli --features kubernetes`\n";
    assert!(said.code == Some(2) && said.err.ends_with(how), "{said:?}");
    assert!(!said.err.contains("cargo add"), "{said:?}");
}

#[test]
fn help_and_version_are_commands_too() {
    for (command, option) in [
        (&["help"][..], &["--help"][..]),
        (&["help", "proxy"], &["proxy", "--help"]),
        (&["help", "context", "set"], &["context", "set", "--help"]),
        (&["context", "help", "set"], &["context", "set", "--help"]),
        (&["version"], &["--version"]),
    ] {
        let (command, option) = (run("memory:", command), run("memory:", option));
        assert_eq!((command.code, command.err.as_str()), (Some(0), ""), "{option:?}");
        assert!(!command.out.is_empty() && command.out == option.out, "{command:?}");
    }
    assert!(run("memory:", &["help", "proxy"]).out.contains("--tcp <"));
    let version = format!("{{\"version\":\"{}\"}}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run("memory:", &["version", "--json"]).out, version);
}

#[test]
fn alone_it_shows_help_and_an_empty_registry_is_a_mistake() {
    let alone = run("memory:", &[]);
    assert_eq!((alone.code, alone.out.as_str()), (Some(2), ""));
    assert!(alone.err.contains("Usage: switchboard") && alone.err.contains("services"), "{alone:?}");
    let empty = run("memory:", &["services", "--registry", ""]);
    assert_eq!((empty.code, empty.out.as_str()), (Some(2), ""), "{empty:?}");
    assert!(empty.err.contains("--registry"), "{empty:?}");
}

#[test]
fn watch_ends_with_the_reader_of_its_pipe_though_nothing_changes() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut watch = switchboard("memory:", &["watch", "a"]).stdout(writer).spawn().unwrap();
    drop(reader);
    let end = std::time::Instant::now() + crate::support::LIMIT;
    loop {
        if let Some(status) = watch.try_wait().unwrap() {
            return assert_eq!(status.code(), Some(0));
        }
        if std::time::Instant::now() >= end {
            watch.kill().unwrap();
            panic!("it runs on");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn what_has_no_end_is_not_read_to_the_end() {
    for (config, arguments, why) in [
        ("/dev/full", &["services"][..], "cannot read /dev/full: it is longer than 1 MiB, the limit"),
        ("", &["render", "/dev/zero", "-"], "template /dev/zero: it is longer than 1 MiB, the limit"),
        (
            "",
            &["call", "a", "/", "-d", "@/dev/zero"],
            "-d: cannot read /dev/zero: it is longer than 256 MiB, the limit",
        ),
        (
            "",
            &["serve", "--token-file", "/dev/zero"],
            "the token in /dev/zero: cannot be read: it is longer than 1 MiB, the limit",
        ),
    ] {
        let program = env!("CARGO_BIN_EXE_switchboard");
        let mut command = std::process::Command::new("sh");
        // In kilobytes; this test must not take the machine's memory when it fails.
        command.args(["-c", "ulimit -v 4000000; exec \"$@\"", "sh", program]).args(arguments);
        command.env("SWITCHBOARD_CONFIG", config).env_remove("SWITCHBOARD_REGISTRY").stdin(Stdio::null());
        let said = said(command.output().unwrap());
        assert_eq!((said.code, said.err), (Some(1), format!("switchboard: {why}\n")), "{arguments:?}");
    }
}

#[test]
fn nothing_found_is_no_failure() {
    for (arguments, err) in [
        (&["services"][..], "switchboard: no services at memory:; `switchboard doctor` may know why\n"),
        (&["instances", "a"], "switchboard: service \"a\": no instance at memory:\n"),
    ] {
        let text = run("memory:", arguments);
        assert_eq!((text.code, text.out.as_str(), text.err.as_str()), (Some(0), "", err));
        let json = run("memory:", &[arguments, &["--json"]].concat());
        assert_eq!((json.code, json.out.as_str(), json.err.as_str()), (Some(0), "[]\n", ""));
    }
}

#[test]
fn no_secret_is_shown() {
    let secret = "hunter2hunter2";
    for registry in [
        format!("consul://user:{secret}@127.0.0.1:1"),
        format!("consul://127.0.0.1:1?token={secret}"),
        format!("consul://127.0.0.1:1?token={secret}&token_file=x"),
        secret.to_owned(),
    ] {
        for arguments in [&["services", "-vvv"][..], &["--help"], &["doctor"], &["services", "--x"]] {
            let shown = run(&registry, arguments);
            assert!(!shown.out.contains(secret) && !shown.err.contains(secret), "{arguments:?}: {shown:?}");
            let named = run("memory:", &[&["--registry", registry.as_str()], arguments].concat());
            assert!(!named.out.contains(secret) && !named.err.contains(secret), "{arguments:?}: {named:?}");
        }
    }
}

#[test]
fn a_closed_pipe_is_silent() {
    for arguments in [&["instances", "a", "--json"][..], &["completions", "zsh"], &["man"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = switchboard("memory:", arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let said = said(output.wait_with_output().unwrap());
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run("memory:", &["completions", shell]).out;
        assert!(script.contains("COMPLETE") && script.contains("switchboard"), "{shell}: {script}");
    }
    let page = run("memory:", &["man"]).out;
    for part in [".TH switchboard 1", ".SH EXAMPLES", ".SH ENVIRONMENT", ".SH \"EXIT STATUS\""] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let dir = tempfile::tempdir().unwrap();
    let written = run("memory:", &["man", dir.path().to_str().unwrap()]);
    assert_eq!(written.code, Some(0), "{written:?}");
    let of_run = std::fs::read_to_string(dir.path().join("switchboard-run.1")).unwrap();
    assert!(of_run.contains(r"\-\- <\fICMD\fR>..."), "{of_run}");
    assert!(dir.path().join("switchboard-context-use.1").exists(), "those below it, too");
    assert!(COMMANDS.iter().all(|command| dir.path().join(format!("switchboard-{command}.1")).exists()));
}
