//! Contexts: which registry counts, and what is shown of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::{Said, golden, said, switchboard};

/// With this configuration file, and no registry in the environment but `registry`.
fn with(file: &Path, registry: &str, arguments: &[&str]) -> Said {
    said(switchboard(registry, arguments).env("SWITCHBOARD_CONFIG", file).output().unwrap())
}

#[test]
fn contexts_are_set_used_listed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("below/config.toml");
    let run = |arguments: &[&str]| with(&file, "", arguments);
    let says = |arguments: &[&str], text: &str| {
        let said = run(&[&["context"], arguments].concat());
        assert_eq!((said.code, said.out.trim_end(), said.err.as_str()), (Some(0), text, ""), "{arguments:?}");
    };
    assert_eq!(run(&["context", "list", "--json"]).out, "[]\n");
    let secret = "consul://127.0.0.1:1?token=hunter2";
    says(&["set", "prod", secret], "set context \"prod\" to consul://127.0.0.1:1?token=…");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "it may hold a token");
    // What people have written there stays.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("# mine\n{text}\n[others]\nkey = 1\n")).unwrap();
    says(&["set", "test", "memory:test"], "set context \"test\" to memory:test");
    says(&["set", "old", "mdns:", "--json"], r#"{"status":"set","name":"old"}"#);
    says(&["delete", "old"], "deleted context \"old\"");
    says(&["use", "prod", "--json"], r#"{"status":"current","name":"prod"}"#);
    says(&["use", "test"], "switched to context \"test\"");
    golden("context.toml", &fs::read_to_string(&file).unwrap(), &[]);
    golden("context.txt", &run(&["context", "list"]).out, &[]);
    golden("context.json", &run(&["context", "list", "--json"]).out, &[]);
    says(&["current"], "test");
    says(&["current", "--json"], r#"{"name":"test","registry":"memory:test","current":true}"#);
    let deleted = "deleted context \"test\", and no context is the current one now";
    says(&["delete", "test"], deleted);
    says(&["delete", "prod", "--json"], r#"{"status":"deleted","name":"prod"}"#);
    assert_eq!(run(&["context", "current"]).code, Some(1), "what was the current one is gone");
}

#[test]
fn what_no_registry_can_be_opened_by_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    for (name, url, why) in [
        (
            "a",
            "zookeeper://h",
            "connect: invalid input: registry scheme \"zookeeper\": is unknown; there are: ",
        ),
        ("a", "consul://h:1?zz=1", "consul: connect: invalid input: consul parameter \"zz\": is unknown"),
        ("a", "consul://h:99999", "consul: connect: invalid input: "),
        ("a", "mdns:?port=x", "mdns: connect: invalid input: mdns parameter \"port\""),
        ("a", "etcd:h", "etcd: connect: invalid input: etcd URL"),
        ("a", "memory:x?zz=1", "memory: connect: invalid input: "),
        ("a", "memory: | consul://h?wait=never", "consul: connect: invalid input: "),
        ("a", "memory: |", "connect: invalid input: "),
        ("a", "memory:?namespace=a_b", "connect: invalid input: namespace \"a_b\""),
        ("", "memory:", "invalid value '' for '<NAME>': is empty"),
        ("a\n", "memory:", "has a control character"),
    ] {
        let said = with(&file, "", &["context", "set", name, url]);
        assert_eq!((said.code, said.out.as_str(), said.err.lines().count()), (Some(2), "", 1), "{said:?}");
        assert!(said.err.contains(why), "{url}: {said:?}");
        assert!(!file.exists(), "{url}");
    }
    // Nobody is asked, and no file is looked for.
    for url in
        ["consul://127.0.0.1:1?token_file=/none", "etcd://127.0.0.1:1?ca_cert=/none", "file:///none.toml"]
    {
        let said = with(&file, "", &["context", "set", "a", url]);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    }
}

#[test]
fn a_context_is_renamed_with_all_that_is_told_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let before = "current = \"a\" # mine\n\n# the first\n[contexts.a]\nregistry = \"memory:\" # this\nmore = 1\n\n\
        [contexts.b]\nregistry = \"mdns:\"\n";
    fs::write(&file, before).unwrap();
    let run = |arguments: &[&str]| with(&file, "", &[&["context", "rename"], arguments].concat());
    let taken = run(&["a", "b"]);
    assert_eq!(taken.code, Some(2));
    assert!(
        taken.err.contains("there is a context \"b\" in ") && taken.err.contains(" already"),
        "{taken:?}"
    );
    let unknown = run(&["x", "y"]);
    assert!(unknown.code == Some(2) && unknown.err.contains("there are: a, b"), "{unknown:?}");
    assert_eq!(run(&["a", ""]).code, Some(2));
    assert_eq!(run(&["a", "c d"]).out, "renamed context \"a\" to \"c d\"\n");
    let after =
        before.replace("current = \"a\"", "current = \"c d\"").replace("contexts.a", "contexts.\"c d\"");
    assert_eq!(fs::read_to_string(&file).unwrap(), after);
    assert_eq!(with(&file, "", &["context", "set", "c d", "mdns:"]).code, Some(0));
    let after = after.replace("\"memory:\" # this", "\"mdns:\" # this");
    assert_eq!(fs::read_to_string(&file).unwrap(), after);
    assert_eq!(run(&["b", "d", "--json"]).out, "{\"status\":\"renamed\",\"name\":\"d\"}\n");
}

#[test]
fn the_option_comes_before_the_context_the_environment_and_the_current_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(
        &file,
        "current = \"now\"\n[contexts.now]\nregistry = \"memory:now\"\n[contexts]\nother.registry = \"memory:other\"\n",
    )
    .unwrap();
    for (registry, more, at) in [
        ("", &[][..], "memory:now"),
        ("memory:env", &[], "memory:env"),
        ("memory:env", &["--context", "other"], "memory:other"),
        ("memory:env", &["--context", "other", "--registry", "memory:option"], "memory:option"),
    ] {
        let said = with(&file, registry, &[&["services"], more].concat());
        assert!(said.err.contains(&format!("no services at {at};")), "{said:?}");
    }
    let none = with(Path::new("/no/such/file"), "", &["services", "--context", "x"]);
    assert_eq!(none.err, "switchboard: no context \"x\" in /no/such/file; there are: none\n");
}

#[test]
fn a_file_with_a_mistake_is_told_without_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let secret = "hunter2hunter2";
    for (text, why) in [
        (format!("current = \"a\"\n[contexts.a]\nregistry = consul://h?token={secret}\n"), ": line 3: "),
        (format!("current = \"a\"\n[contexts.a]\nregistri = \"{secret}\"\n"), "has no registry = \"URL\""),
        (format!("current = \"a\"\n[contexts.a]\nregistry = \"{secret}\"\n"), "registry URL: has no scheme"),
        (format!("current = \"{secret}\"\ncontexts = 3\n"), "there are: none"),
    ] {
        fs::write(&file, &text).unwrap();
        let said = with(&file, "", &["services"]);
        assert_eq!((said.code, said.err.lines().count()), (Some(2), 1), "{said:?}");
        assert!(said.err.contains(why), "{said:?}");
        // The name of a context is none.
        assert!(!said.err.contains(secret) || text.contains(&format!("current = \"{secret}")), "{said:?}");
        let list = with(&file, "", &["context", "list"]);
        assert!(!list.out.contains(secret) && !list.err.contains(secret), "{list:?}");
        let set = with(&file, "", &["context", "set", "b", secret]);
        assert!(set.code == Some(2) && !set.err.contains(secret), "{set:?}");
    }
}
