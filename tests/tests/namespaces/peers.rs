//! Avahi and python-zeroconf see what we announce, whole, and we see what they announce, and what hashicorp/mdns does.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use switchboard_tests::netns::World;
use switchboard_tests::peers::{Avahi, AvahiService, hashicorp, printed, zeroconf};
use switchboard_tests::program::Program;

use crate::{LIMIT, node, register, took, until_seen};

fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Everything a TXT record has to carry.
fn ours() -> Value {
    json!({
        "service": "go.micro.srv.Greeter",
        "id": "Greeter.1",
        "version": "1.2.0",
        "addresses": ["10.0.0.1:8080"],
        "tags": ["a,b", "blue"],
        "metadata": { "empty": "", "sign": "a=b", "lines": "one\ntwo", "utf8": "größe ✓" },
        "weight": 7,
    })
}

fn our_web() -> Value {
    json!({
        "service": "_http._tcp",
        "id": "Our Wéb",
        "addresses": ["10.0.0.1:80"],
        "metadata": { "path": "/ö", "empty": "", "sign": "a=b", "lines": "one\ntwo" },
    })
}

/// The TXT record of [`ours`], as others are to see it.
fn our_txt() -> Value {
    json!({
        "service": "go.micro.srv.Greeter",
        "id": "Greeter.1",
        "version": "1.2.0",
        "weight": "7",
        "tags": "a%2Cb,blue",
        "m.empty": "",
        "m.sign": "a=b",
        "m.lines": "one\ntwo",
        "m.utf8": "größe ✓",
    })
}

/// What a peer announces as one of ours.
const THEIR_TXT: [&str; 7] = [
    "service=greeter",
    "id=theirs",
    "version=2",
    "m.empty=",
    "m.sign=a=b",
    "m.lines=one\ntwo",
    "m.utf8=größe ✓",
];

const THEIR_WEB_TXT: [&str; 4] = ["path=/ö", "empty=", "sign=a=b", "lines=one\ntwo"];

fn check_theirs(greeter: &Value, web: &Value) {
    assert_eq!(greeter["version"], "2");
    // Avahi announces its IPv6 link-local address as well.
    assert_eq!(greeter["addresses"][0], "10.0.0.2:9090");
    let metadata = json!({ "empty": "", "sign": "a=b", "lines": "one\ntwo", "utf8": "größe ✓" });
    assert_eq!(greeter["metadata"], metadata);
    assert_eq!(web["addresses"][0], "10.0.0.2:80");
    let metadata = json!({ "path": "/ö", "empty": "", "sign": "a=b", "lines": "one\ntwo" });
    assert_eq!(web["metadata"], metadata);
}

#[test]
#[ignore = "needs root, avahi-daemon, avahi-utils and dbus"]
fn avahi_and_we_see_each_other() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let services = [
        AvahiService { name: "Theirs", kind: "_switchboard._tcp", port: 9090, txt: &THEIR_TXT },
        AvahiService { name: "Their Wéb", kind: "_http._tcp", port: 80, txt: &THEIR_WEB_TXT },
    ];
    let avahi = Avahi::start(&there, &services);
    let mut node = node(&here);

    let asked = Instant::now();
    node.tell("watch greeter");
    let (theirs, found) = until_seen(&mut node, "greeter", "theirs", LIMIT);
    took("Avahi's service of our type, watch until seen", asked, found);
    let asked = Instant::now();
    node.tell("watch _http._tcp");
    let (their_web, found) = until_seen(&mut node, "_http._tcp", "Their Wéb", LIMIT);
    took("Avahi's _http._tcp, watch until seen", asked, found);
    check_theirs(&theirs, &their_web);

    register(&mut node, &ours());
    register(&mut node, &our_web());
    let (own, web) = until_both(&avahi);
    let Value::Object(txt) = our_txt() else { unreachable!("an object") };
    for (key, value) in &txt {
        let string = printed(&format!("{key}={}", value.as_str().unwrap()));
        assert!(own.contains(&string), "no {string:?} in {own}");
    }
    assert_eq!(own.matches("\" \"").count() + 1, txt.len(), "and nothing else: {own}");
    for string in THEIR_WEB_TXT.map(printed) {
        assert!(web.contains(&string), "no {string:?} in {web}");
    }
}

/// What Avahi resolves of our two services.
fn until_both(avahi: &Avahi<'_>) -> (String, String) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let find = |kind: &str, port: &str| avahi.browse(kind).into_iter().find(|line| line.contains(port));
        let found = (find("_switchboard._tcp", ";10.0.0.1;8080;"), find("_http._tcp", ";10.0.0.1;80;"));
        match found {
            (Some(own), Some(web)) => return (own, web),
            found => assert!(Instant::now() < deadline, "Avahi sees only {found:?}"),
        }
    }
}

#[test]
#[ignore = "needs root, avahi-daemon, avahi-utils and dbus"]
fn a_look_gets_all_that_avahi_has_while_it_may_not_multicast() {
    const MANY: usize = 40;
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let names: Vec<String> = (0..MANY).map(|number| format!("web-{number}")).collect();
    let services: Vec<_> =
        names.iter().map(|name| AvahiService { name, kind: "_http._tcp", port: 80, txt: &[] }).collect();
    let _avahi = Avahi::start(&there, &services);
    // Avahi announces one after another; each reader has nothing in its memory, and asks just after the other. On a machine
    // that is busy with other tests that takes more than half a minute.
    let limit = 3 * LIMIT;
    let deadline = Instant::now() + 3 * limit;
    let mut whole = 0;
    while whole < 3 {
        let mut command = here.command(env!("CARGO_BIN_EXE_mdns-node"));
        // What is said where it fails.
        command.arg("mdns:?interface=eth0").env("RUST_LOG", "switchboard_mdns=debug");
        let mut reader = Program::start(here.netns(), &mut command);
        reader.until("start", limit, |event| (event["event"] == "open").then_some(()));
        reader.tell("lookup _http._tcp");
        let ((found, said), _) = reader.until("lookup", limit, |event| {
            Some((crate::instances(event, "_http._tcp")?.len(), event["whole"] == true))
        });
        // A machine so busy that Avahi cannot answer in time gives a part, and says so.
        assert!(whole == 0 || found == MANY || !said, "then {found} of them, as if they were all");
        whole += usize::from(found == MANY);
        assert!(Instant::now() < deadline, "there are only {found}");
    }
}

#[test]
#[ignore = "needs root and python3 with PyPI (or an earlier run's python-zeroconf)"]
fn a_zeroconf_that_died_leaves_once_suspected() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let mut zeroconf = zeroconf(&there, scratch());
    let mut node = node(&here);
    let service = json!({
        "type": "_http._tcp.local.", "name": "web", "port": 80, "addresses": ["10.0.0.2"], "txt": {},
    });
    zeroconf.tell(format!("register {service}"));
    zeroconf.until("registration", LIMIT, |event| (event["event"] == "registered").then_some(()));
    node.tell("watch _http._tcp");
    until_seen(&mut node, "_http._tcp", "web", LIMIT);
    gone_once_suspected("zeroconf", &mut zeroconf, &mut node);
}

#[test]
#[ignore = "needs root and go"]
fn a_hashicorp_mdns_that_died_leaves_once_suspected() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let mut hashicorp = hashicorp(&there, "web", "10.0.0.2", scratch());
    let mut node = node(&here);
    node.tell("watch _http._tcp");
    until_seen(&mut node, "_http._tcp", "web", LIMIT);
    gone_once_suspected("hashicorp/mdns", &mut hashicorp, &mut node);
}

/// Kills who announces `web`, of which `node` hears nothing, and tells that it cannot be reached.
fn gone_once_suspected(who: &str, peer: &mut Program, node: &mut Program) {
    // Past the second in which no record may be doubted.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let killed = peer.kill();
    node.tell("suspect _http._tcp web");
    took(
        &format!("{who} killed and suspected until gone"),
        killed,
        crate::until_gone(node, "_http._tcp", "web", LIMIT),
    );
}

#[test]
#[ignore = "needs root and python3 with PyPI (or an earlier run's python-zeroconf)"]
fn zeroconf_and_we_see_each_other() {
    let world = World::new();
    let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
    let mut zeroconf = zeroconf(&there, scratch());
    let mut node = node(&here);

    for (kind, name, port, txt) in [
        ("_switchboard._tcp.local.", "Theirs", 9090, &THEIR_TXT[..]),
        ("_http._tcp.local.", "Their Wéb", 80, &THEIR_WEB_TXT[..]),
    ] {
        let txt: serde_json::Map<_, _> =
            txt.iter().filter_map(|txt| txt.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        let service =
            json!({ "type": kind, "name": name, "port": port, "addresses": ["10.0.0.2"], "txt": txt });
        zeroconf.tell(format!("register {service}"));
        zeroconf.until("registration", LIMIT, |event| (event["event"] == "registered").then_some(()));
    }
    let asked = Instant::now();
    node.tell("watch greeter");
    let (theirs, found) = until_seen(&mut node, "greeter", "theirs", LIMIT);
    took("zeroconf's service of our type, watch until seen", asked, found);
    node.tell("watch _http._tcp");
    let (their_web, _) = until_seen(&mut node, "_http._tcp", "Their Wéb", LIMIT);
    check_theirs(&theirs, &their_web);

    let registered = register(&mut node, &ours());
    register(&mut node, &our_web());
    for kind in ["_switchboard._tcp.local.", "_http._tcp.local."] {
        zeroconf.tell(format!("browse {kind}"));
    }
    let mut seen = |name: &str| {
        zeroconf.until(name, LIMIT, |event| {
            (event["event"] == "added" && event["name"] == name).then(|| event.clone())
        })
    };
    // Two browses answer at once; the order is theirs.
    let (own, found) = seen("greeter-1");
    took("ours by zeroconf, registered until seen", registered, found);
    assert_eq!(own["txt"], our_txt());
    assert_eq!((&own["port"], &own["addresses"]), (&json!(8080), &json!(["10.0.0.1"])));

    let web = zeroconf_event(&mut zeroconf, "Our Wéb");
    assert_eq!(web["txt"], our_web()["metadata"]);
    assert_eq!((&web["port"], &web["addresses"]), (&json!(80), &json!(["10.0.0.1"])));

    node.tell("deregister go.micro.srv.Greeter Greeter.1");
    zeroconf.until("goodbye", LIMIT, |event| {
        (event["event"] == "removed" && event["name"] == "greeter-1").then_some(())
    });
    zeroconf.tell("close");
    zeroconf.until("end", LIMIT, |event| (event["event"] == "closed").then_some(()));
    crate::until_gone(&mut node, "greeter", "theirs", LIMIT);
}

/// The event that resolved `name`, whether it has been read already or is still to come.
fn zeroconf_event(zeroconf: &mut switchboard_tests::program::Program, name: &str) -> Value {
    let is = |event: &Value| (event["event"] == "added" && event["name"] == name).then(|| event.clone());
    if let Some(event) = zeroconf.log().iter().find_map(|event| is(&event.value)) {
        return event;
    }
    zeroconf.until(name, LIMIT, is).0
}
