//! Lists in every form, on multicast DNS.

use std::fmt::Write as _;

use crate::support::{Running, golden, mdns, run, switchboard, until};

fn register(at: &str, arguments: &[&str]) -> Running {
    let running = Running::start(switchboard(at, &[&["register"][..], arguments].concat()));
    running.line_with("registered");
    running
}

#[test]
fn lists_come_in_the_form_and_order_that_was_asked_for() {
    let at = mdns();
    let _web2 = register(
        &at,
        &["web", "127.0.0.1:8002", "--id", "w2", "--version", "1.9.0", "--meta", "zone=a", "--tag", "blue"],
    );
    let _web10 =
        register(&at, &["web", "127.0.0.1:8010", "--id", "w10", "--version", "1.10.0", "--meta", "zone=b"]);
    let _api = register(&at, &["api", "[::1]:9000", "--id", "a1"]);
    let all = |arguments: &[&str]| {
        let whole = |text: &str| ["w2", "w10", "a1"].iter().all(|id| text.contains(id));
        until(&at, arguments, |said| whole(&said.out)).out
    };
    let forms: &[&[&str]] = &[
        &["instances", "-A"],
        &["instances", "-A", "--no-headers", "--sort=-id"],
        &["instances", "-A", "-o", "name", "--sort", "version"],
        &["instances", "-A", "-o", "yaml"],
        &[
            "instances",
            "--all",
            "-o",
            "template={{ id }} {{ address }} {{ host }} {{ port }} [{{ version }}]",
        ],
        &[
            "instances",
            "-A",
            "--sort",
            "metadata.zone",
            "-o",
            "template={{ id }} {{ metadata.zone | default('-') }}",
        ],
    ];
    let mut shown = String::new();
    for arguments in forms {
        write!(shown, "$ switchboard {}\n{}\n", arguments.join(" "), all(arguments)).unwrap();
    }
    // Two of web and one of api: seen in the counts, which names alone do not have.
    let both = |arguments: &[&str]| {
        let counted = |text: &str| text.contains('2') || arguments.contains(&"name");
        let whole = |text: &str| text.contains("api") && text.contains("web") && counted(text);
        until(&at, arguments, |said| whole(&said.out)).out
    };
    for arguments in [
        &["services", "--sort=-instances"][..],
        &["services", "--no-headers"],
        &["services", "-o", "name"],
        &["services", "-o", "json"],
        &["services", "-o", "yaml"],
        &["services", "-o", "template={{ name }}={{ healthy }}/{{ instances }}"],
    ] {
        write!(shown, "$ switchboard {}\n{}\n", arguments.join(" "), both(arguments)).unwrap();
    }
    golden("lists.txt", &shown, &[]);

    let mistakes: &[&[&str]] = &[
        &["instances", "web", "--sort", "zone"],
        &["services", "--sort", "id"],
        &["services", "-o", "template={{ nmae }}"],
        &["services", "-o", "template={% for %}"],
        &["describe", "web", "w3"],
    ];
    let mut shown = String::new();
    for arguments in mistakes {
        let said = until(&at, arguments, |said| said.err.lines().count() == 1);
        assert_eq!(said.out, "", "{said:?}");
        write!(shown, "{arguments:?}\n  {} {}", said.code.unwrap(), said.err).unwrap();
    }
    let port = at.rsplit('=').next().unwrap();
    golden("lists-mistakes.txt", &shown, &[(port, "PORT")]);
}

#[test]
fn describe_tells_everything() {
    let at = mdns();
    let arguments =
        ["web", "127.0.0.1:8080", "--id", "w1", "--version", "1.2.0", "--meta", "zone=a", "--meta", "rack=7"];
    let _one = register(&at, &[&arguments[..], &["--tag", "blue", "--endpoint", "Web.Get"]].concat());
    let _two = register(&at, &["web", "127.0.0.1:8081", "--id", "w2"]);
    let port = at.rsplit('=').next().unwrap();
    let both = |arguments: &[&str]| {
        until(&at, arguments, |said| said.out.contains("w1") && said.out.contains("w2")).out
    };
    golden("describe.txt", &both(&["describe", "web"]), &[(port, "PORT")]);
    golden("describe.json", &both(&["describe", "web", "--json"]), &[(port, "PORT")]);
    let one = until(&at, &["describe", "web", "w1"], |said| said.code == Some(0));
    assert!(one.out.contains("1 instance, 1 healthy") && !one.out.contains("w2"), "{one:?}");
    let template = ["describe", "web", "w2", "-o", "template={{ instances[0].addresses[0] }}"];
    assert_eq!(until(&at, &template, |said| said.code == Some(0)).out, "127.0.0.1:8081\n");
}

#[test]
fn what_is_not_found_is_empty_in_every_form() {
    for (arguments, out) in [
        (&["instances", "-A"][..], ""),
        (&["instances", "-A", "-o", "yaml"], "[]\n"),
        (&["instances", "-A", "-o", "name"], ""),
        (&["services", "-o", "template={{ name }}"], ""),
    ] {
        let said = run("memory:", arguments);
        assert_eq!((said.code, said.out.as_str()), (Some(0), out), "{said:?}");
    }
}

#[test]
fn what_other_commands_call_a_list_is_one() {
    let services = run("static:orders=10.0.0.1:80", &["services"]);
    assert!(services.out.contains("orders"), "{services:?}");
    for name in ["list", "ls"] {
        assert_eq!(run("static:orders=10.0.0.1:80", &[name]).out, services.out);
    }
}
