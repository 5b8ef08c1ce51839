//! `render` and `watch --exec`: what is done with each change.

use std::fs;
use std::path::Path;
use std::time::Instant;

use rustix::process::Signal;

use crate::support::agent::Agent;
use crate::support::{LIMIT, Running, mdns, run, switchboard};

const TEMPLATE: &str = "{% for i in service('web') %}{{ i.id }} {{ i.address }}\n{% endfor %}";

fn register(at: &str, id: &str, port: u16) -> Running {
    let address = format!("127.0.0.1:{port}");
    let running = Running::start(switchboard(at, &["register", "web", &address, "--id", id]));
    running.line_with("registered");
    running
}

/// Waits until the file has this content.
#[track_caller]
fn until(path: &Path, content: &str) {
    let end = Instant::now() + LIMIT;
    loop {
        let now = fs::read_to_string(path).unwrap_or_default();
        if now == content {
            return;
        }
        assert!(Instant::now() < end, "{}: {now:?}", path.display());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn files_follow_the_services_and_the_command_comes_after() {
    let at = mdns();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    fs::write(path("web.j2"), TEMPLATE).unwrap();
    fs::write(path("count.j2"), "{{ services() | length }}").unwrap();
    let one = register(&at, "w1", 1);
    let exec = format!("cp {} {}; echo ran; exit 3", text("web"), text("seen"));
    let arguments =
        ["render", &text("web.j2"), &text("web"), &text("count.j2"), &text("count"), "--exec", &exec];
    let render = Running::start(switchboard(&at, &arguments));
    until(&path("web"), "w1 127.0.0.1:1\n");
    until(&path("seen"), "w1 127.0.0.1:1\n");
    until(&path("count"), "1");
    assert_eq!(render.line_with("--exec"), "switchboard: --exec: exit status 3");
    let _two = register(&at, "w2", 2);
    until(&path("seen"), "w1 127.0.0.1:1\nw2 127.0.0.1:2\n");
    one.signal(Signal::TERM);
    until(&path("seen"), "w2 127.0.0.1:2\n");
    render.signal(Signal::TERM);
    assert_eq!(render.end().0.code(), Some(0));

    // Once: what is so already is not written, and nothing is run.
    let again = [&arguments[..5], &["--once", "--exec", "echo again"]].concat();
    let said = run(&at, &again);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(0), "", ""), "{said:?}");
    fs::write(path("count"), "2").unwrap();
    let said = run(&at, &again);
    let err = format!("switchboard: wrote {}\nswitchboard: --exec: exit status 0\n", text("count"));
    assert_eq!((said.code, said.out.as_str(), said.err), (Some(0), "again\n", err));
    let said = run(&at, &["render", &text("web.j2"), "-", "--once"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "w2 127.0.0.1:2\n"));
}

#[test]
fn what_cannot_be_rendered_is_told_and_leaves_the_file_alone() {
    let at = mdns();
    let dir = tempfile::tempdir().unwrap();
    let (template, out) = (dir.path().join("t.j2"), dir.path().join("out"));
    let (from, to) = (template.to_str().unwrap(), out.to_str().unwrap());
    fs::write(&template, "{% for i in service('web') %}{{ i.metadata.zone }}{% endfor %}").unwrap();
    fs::write(&out, "kept").unwrap();
    let _one = register(&at, "w1", 1);
    let said = run(&at, &["render", from, to, "--once"]);
    let why = format!(
        "switchboard: template {from}: undefined value: `i.metadata.zone` is undefined (in t.j2:1)\n"
    );
    assert_eq!((said.code, said.err, fs::read_to_string(&out).unwrap()), (Some(1), why, "kept".into()));
    let render = Running::start(switchboard(&at, &["render", from, to]));
    assert!(
        render
            .line()
            .ends_with("`i.metadata.zone` is undefined (in t.j2:1) (what was written before still stands)")
    );
    drop(render);

    for (arguments, why) in [
        (&[from, "-", from][..], "has no file to write"),
        (&["none.j2", "-"], "template none.j2: No such file or directory (os error 2)"),
        (&[from, "none/out", "--once"], "cannot write none/out: No such file or directory (os error 2)"),
    ] {
        fs::write(&template, "text").unwrap();
        let said = run(&at, &[&["render"], arguments].concat());
        assert!(said.code != Some(0) && said.err.trim_end().ends_with(why), "{said:?}");
    }
}

#[test]
fn a_template_is_not_written_over_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (path, link) = (dir.path().join("web.j2"), dir.path().join("link"));
    fs::write(&path, TEMPLATE).unwrap();
    std::os::unix::fs::symlink("web.j2", &link).unwrap();
    let (text, link) = (path.to_str().unwrap(), link.to_str().unwrap());
    for out in [text, link] {
        let output = switchboard("memory:", &["render", text, out, "--once"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("are the same file"));
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), TEMPLATE);
}

#[test]
#[ignore = "needs consul"]
fn an_outage_keeps_what_stands_and_an_empty_registry_is_no_outage() {
    let mut agent = Agent::dev();
    let dir = tempfile::tempdir().unwrap();
    let (template, out) = (dir.path().join("t.j2"), dir.path().join("out"));
    fs::write(&template, TEMPLATE).unwrap();
    let at = format!("{}?rejoin_grace=0s", agent.url());
    let paths = [template.to_str().unwrap(), out.to_str().unwrap()];
    agent.put("/v1/agent/service/register", r#"{"ID":"1","Name":"web","Address":"10.0.0.1","Port":80}"#);
    let render = Running::start(switchboard(&at, &[&["render"], &paths[..]].concat()));
    until(&out, "1 10.0.0.1:80\n");
    agent.kill();
    render.line_with("what was heard last still stands");
    assert_eq!(fs::read_to_string(&out).unwrap(), "1 10.0.0.1:80\n");
    let once = [&["render"], &paths[..], &["--once", "--timeout", "500ms"]].concat();
    let said = run(&at, &once);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("not all was heard within 500ms: consul: "), "{said:?}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "1 10.0.0.1:80\n");
    agent.start();
    render.line_with("heard again");
    until(&out, "");
}

#[test]
fn a_command_gets_the_state_and_is_never_run_twice_at_once() {
    let at = mdns();
    let dir = tempfile::tempdir().unwrap();
    let (lock, log, go) = (dir.path().join("lock"), dir.path().join("log"), dir.path().join("go"));
    let _one = register(&at, "w1", 1);
    // Its first run lasts until it is let go; a second at the same time would fail to make the directory.
    let exec = format!(
        "mkdir {lock} || exit 9; cat >> {log}; until test -e {go}; do sleep 0.02; done; rmdir {lock}; exit 4",
        lock = lock.display(),
        log = log.display(),
        go = go.display(),
    );
    let watch = Running::start(switchboard(&at, &["watch", "web", "--exec", &exec, "--json"]));
    let ids = |count: usize| {
        let end = Instant::now() + LIMIT;
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if text.lines().count() >= count {
                let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
                let ids = last.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned());
                return (text.lines().count(), ids.collect::<Vec<_>>());
            }
            assert!(Instant::now() < end, "{text}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    assert_eq!(ids(1), (1, vec!["w1".into()]));
    let _two = register(&at, "w2", 2);
    let _three = register(&at, "w3", 3);
    fs::write(&go, "").unwrap();
    let told = watch.line_with("\"change\":\"exec\"");
    assert!(told.contains("\"code\":4,"), "{told}");
    let told = watch.line_with("\"change\":\"exec\"");
    assert!(told.contains("\"code\":4,"), "{told}");
    let (_, all) = ids(2);
    assert!(all.starts_with(&["w1".into(), "w2".into()]), "{all:?}");
    watch.signal(Signal::TERM);
    assert_eq!(watch.end().0.code(), Some(0));
}

#[test]
fn a_command_that_hangs_is_killed_and_a_signal_waits_for_one_that_runs() {
    let watch = ["watch", "web", "--exec", "echo begun; sleep 60", "--exec-timeout", "100ms"];
    let hangs = Running::start(switchboard("memory:", &watch));
    hangs.line_with("begun");
    hangs.line_with("--exec: it did not end within 100ms, and was killed");
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let exec = format!("echo begun; until test -e {}; do sleep 0.02; done; echo ended", go.display());
    let runs = Running::start(switchboard("memory:", &["watch", "web", "--exec", &exec]));
    runs.line_with("begun");
    runs.signal(Signal::INT);
    runs.line_with("waiting for the command to end");
    fs::write(&go, "").unwrap();
    let (status, rest) = runs.end();
    assert_eq!(status.code(), Some(0));
    assert!(rest.contains(&"ended".into()), "{rest:?}");
}
