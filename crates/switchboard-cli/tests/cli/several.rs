//! Several registries as one, and namespaces.

use crate::support::{Running, mdns, run, switchboard, until};

fn register(at: &str, namespace: Option<&str>, arguments: &[&str]) -> Running {
    let mut command = switchboard(at, &[&["register"][..], arguments].concat());
    if let Some(namespace) = namespace {
        command.env("SWITCHBOARD_NAMESPACE", namespace);
    }
    let running = Running::start(command);
    running.line_with("registered");
    running
}

#[test]
fn an_instance_is_told_with_the_registries_that_know_it() {
    let (old, new) = (mdns(), mdns());
    let both = format!("{old} + {new}");
    let _everywhere = register(&both, None, &["web", "127.0.0.1:8001", "--id", "w1"]);
    let _old = register(&old, None, &["web", "127.0.0.1:8002", "--id", "w2"]);
    let whole = |text: &str| text.contains("w1") && text.contains("w2");
    let template = "template={{ id }}: {{ registries | join(' and ') }}";
    let known = format!("w1: {old} and {new}\nw2: {old}\n");
    until(&both, &["instances", "web", "-o", template], |said| said.out == known);

    let table = until(&both, &["instances", "-A"], |said| whole(&said.out)).out;
    assert!(table.lines().next().unwrap().contains("REGISTRY"), "{table}");
    assert!(table.contains(&format!("{old},{new}")), "{table}");
    let described = run(&both, &["describe", "web", "w2"]).out;
    assert!(described.contains(&format!("registry   {old}\n")), "{described}");
    let json: serde_json::Value =
        serde_json::from_str(&run(&both, &["describe", "web", "w2", "--json"]).out).unwrap();
    assert_eq!(json["instances"][0]["registries"], serde_json::json!([old]));

    // Of one registry there is nothing to tell.
    assert!(!run(&old, &["instances", "web"]).out.contains("REGISTRY"));
    assert!(!run(&old, &["instances", "web", "--json"]).out.contains("registries"));
}

#[test]
fn namespaces_do_not_see_each_other_and_can_be_listed() {
    let at = mdns();
    let _alice = register(&at, Some("alice"), &["orders", "127.0.0.1:8001", "--id", "a"]);
    let _bob = register(&at, None, &["orders", "127.0.0.1:8002", "--id", "b", "--namespace", "bob"]);
    let _none = register(&at, None, &["orders", "127.0.0.1:8003", "--id", "n"]);
    for (arguments, id) in [
        (&["instances", "orders", "-o", "name", "--namespace", "alice"][..], "orders/a\n"),
        (&["instances", "-A", "-o", "name", "--namespace", "bob"], "orders/b\n"),
        (&["instances", "orders", "-o", "name"], "orders/n\n"),
    ] {
        until(&at, arguments, |said| said.out == id);
    }
    let within = format!("{at}&namespace=alice");
    until(&within, &["instances", "orders", "-o", "name"], |said| said.out == "orders/a\n");

    let all = "\
NAMESPACE  SERVICE  INSTANCES  HEALTHY
-          orders   1          1
alice      orders   1          1
bob        orders   1          1
";
    until(&at, &["services", "--all-namespaces"], |said| said.out == all);
    until(&at, &["services", "-o", "name"], |said| said.out == "alice--orders\nbob--orders\norders\n");
    let names = ["services", "--all-namespaces", "-o", "name"];
    until(&at, &names, |said| said.out == "orders\nalice--orders\nbob--orders\n");
    // Outside of all namespaces it is a name that commands take.
    until(&at, &["instances", "alice--orders", "-o", "name"], |said| said.out == "alice--orders/a\n");
    let refused = run(&within, &["services", "--all-namespaces"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("is one namespace; leave out `namespace=`"), "{}", refused.err);
    let refused = run(&at, &["services", "--namespace", "a_b"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("namespace \"a_b\": has something other"), "{}", refused.err);
}

#[test]
fn doctor_tells_of_each_of_several_and_of_all_as_one() {
    let several = "static:orders=127.0.0.1:80 + file:///nowhere.toml";
    let said = run(several, &["doctor", "orders"]);
    let lines: Vec<&str> = said.out.lines().filter(|line| !line.starts_with(' ')).collect();
    let [first, list, second, file, all, registry] = lines[..] else { panic!("{said:?}") };
    assert_eq!((first, second, all), ("static:orders=127.0.0.1:80:", "file:/nowhere.toml:", "all of them:"));
    assert!(list.starts_with("ok       list"), "{list}");
    assert!(file.starts_with("PROBLEM  file        /nowhere.toml"), "{file}");
    assert!(registry.starts_with("ok       registry") && registry.ends_with("has 1 of orders, 1 healthy"));
    assert_eq!(said.code, Some(1));

    let json: serde_json::Value =
        serde_json::from_str(&run(several, &["doctor", "orders", "--json"]).out).unwrap();
    assert_eq!(json[0]["registry"], "static:orders=127.0.0.1:80");
    assert!(json[2].get("registry").is_none(), "{json}");
}
