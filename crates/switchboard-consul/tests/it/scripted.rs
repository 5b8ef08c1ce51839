//! What a real agent of one version cannot be made to do: a scripted server stands in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use switchboard_core::{ErrorKind, RegisterOptions, Registry, Snapshot, SnapshotStream};
use tokio::time::{Instant, sleep};

use crate::support::scripted::{Reply, Server};
use crate::support::{builder, ids, instance, name, registry, ttl, until, within};

/// A health answer with one passing instance for each id.
fn found(ids: &[&str]) -> String {
    let entries = ids.iter().map(|id| {
        format!(r#"{{"Service":{{"ID":"{id}","Service":"a","Address":"127.0.0.1","Port":1}},"Checks":[]}}"#)
    });
    format!("[{}]", entries.collect::<Vec<_>>().join(","))
}

/// Reads on until there is a snapshot.
async fn until_ok(watch: &mut SnapshotStream) -> Snapshot {
    loop {
        if let Ok(snapshot) = watch.next().await.unwrap() {
            return snapshot;
        }
    }
}

fn is_blocking(target: &str) -> bool {
    target.contains("index=")
}

/// Has one instance of which nothing changes.
async fn quiet() -> Server {
    Server::start(
        |_, asked| {
            if is_blocking(&asked.target) { Reply::Hang } else { Reply::ok(7, &found(&["1"])) }
        },
    )
    .await
}

type Script = Box<dyn Fn(usize) -> Reply + Send + Sync>;

/// The requests that a watch makes in three seconds, and the snapshots it gives.
async fn asked_in_three_seconds(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> (usize, usize) {
    let server = Server::start(move |number, _| script(number)).await;
    let registry = registry(&server.address);
    let mut watch = registry.watch(&name("a"));
    let (end, mut given) = (sleep(Duration::from_secs(3)), 0);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return (server.asked().len(), given),
            item = watch.next() => { item.unwrap().unwrap(); given += 1; }
        }
    }
}

#[tokio::test]
async fn a_broken_index_makes_few_requests() {
    let same = || found(&["1"]);
    let cases: [(&str, Script); 5] = [
        ("always a new index", Box::new(move |n| Reply::ok(100 + n as u64, &same()))),
        ("index 0", Box::new(move |_| Reply::ok(0, &same()))),
        ("no index", Box::new(move |_| Reply::status(200, &same()))),
        (
            "an index that is no number",
            Box::new(move |_| Reply::ok(0, &same()).header("X-Consul-Index", "x")),
        ),
        ("a backward index", Box::new(move |n| Reply::ok(1_000_000 - n as u64, &same()))),
    ];
    for (what, script) in cases {
        let (asked, given) = asked_in_three_seconds(script).await;
        println!("{what}: {asked} requests in 3 s, {given} snapshots");
        // 20 at once, then 2 a second: about 27.
        assert!((20..=30).contains(&asked), "{what}: {asked} requests in 3 s");
        assert_eq!(given, 1, "{what}");
    }
}

#[tokio::test]
async fn news_without_end_are_bounded_too() {
    let (asked, given) =
        asked_in_three_seconds(|n| Reply::ok(100 + n as u64, &found(&[&format!("i{n}")]))).await;
    println!("always something new: {asked} requests in 3 s, {given} snapshots");
    assert!((200..=4_000).contains(&asked), "{asked}");
    assert!(given + 1 >= asked);
}

#[tokio::test]
async fn an_index_that_went_back_is_not_waited_for() {
    let server = Server::start(|number, asked| match number {
        0 => Reply::ok(33, &found(&["1"])),
        1 => Reply::ok(12, &found(&["1"])),
        // From here a real server would block on 33.
        _ if asked.target.contains("index=33") => Reply::Hang,
        2 => Reply::ok(12, &found(&["1", "2"])),
        _ => Reply::Hang,
    })
    .await;
    let registry = registry(&server.address);
    let mut watch = registry.watch(&name("a"));
    assert_eq!(ids(&within("first", watch.next()).await.unwrap().unwrap()), ["1"]);
    assert_eq!(ids(&within("second", watch.next()).await.unwrap().unwrap()), ["1", "2"]);
    assert!(!is_blocking(&server.asked()[2].target), "starts again from 0");
}

#[tokio::test]
async fn what_is_missing_after_an_outage_is_kept_for_a_while_and_scale_to_zero_is_not() {
    let health = AtomicUsize::new(0);
    let server = Server::start(move |_, asked| {
        if asked.target.contains("/v1/config/") {
            return Reply::status(404, "Config entry not found");
        }
        match health.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::ok(33, &found(&["1", "2"])),
            // Began anew and empty, asked twice; then one is back, then it is only one for good.
            1 | 2 => Reply::ok(5, "[]"),
            3 => Reply::ok(6, &found(&["1", "3"])),
            // Beyond three times the grace.
            4 => Reply::Late(Duration::from_millis(3500), Box::new(Reply::ok(6, &found(&["1", "3"])))),
            5 | 6 => Reply::ok(7, "[]"),
            _ => Reply::Hang,
        }
    })
    .await;
    let registry = builder(&server.address).rejoin_grace(Duration::from_secs(1)).build().unwrap();
    let mut watch = registry.watch(&name("a"));
    let mut next = async || within("a snapshot", watch.next()).await.unwrap().unwrap();
    assert_eq!(ids(&next().await), ["1", "2"]);
    assert_eq!(ids(&next().await), ["1", "2", "3"], "an empty answer was not published, 2 is kept");
    assert_eq!(ids(&next().await), ["1", "3"], "after the grace 2 is gone");
    assert!(next().await.is_empty(), "the last instance leaving is told");
}

#[tokio::test]
async fn an_agent_that_goes_while_it_is_asked_again_has_not_told_that_nobody_is_left() {
    let health = AtomicUsize::new(0);
    let server = Server::start(move |_, asked| {
        if asked.target.contains("/v1/config/") {
            return Reply::status(404, "Config entry not found");
        }
        match health.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::ok(33, &found(&["1"])),
            // It ends, and comes back without what it knew.
            2 => Reply::status(500, "No cluster leader"),
            1 | 3..=5 => Reply::ok(34, "[]"),
            _ => Reply::Hang,
        }
    })
    .await;
    let registry = builder(&server.address).rejoin_grace(Duration::from_secs(60)).build().unwrap();
    let mut watch = registry.watch(&name("a"));
    assert_eq!(ids(&within("first", watch.next()).await.unwrap().unwrap()), ["1"]);
    assert!(within("error", watch.next()).await.unwrap().is_err());
    assert_eq!(ids(&within("again", watch.next()).await.unwrap().unwrap()), ["1"]);
}

#[tokio::test]
async fn faults_are_typed_for_calls_and_ambient_for_watches() {
    type Fault = fn() -> Reply;
    let faults: [(&str, Fault, ErrorKind); 9] = [
        ("403", || Reply::status(403, "Permission denied"), ErrorKind::PermissionDenied),
        ("429", || Reply::status(429, "Your IP is issuing too many requests"), ErrorKind::Unavailable),
        ("500", || Reply::status(500, "No cluster leader"), ErrorKind::Unavailable),
        ("503", || Reply::status(503, ""), ErrorKind::Unavailable),
        ("hang", || Reply::Hang, ErrorKind::Unavailable),
        ("reset", || Reply::Reset, ErrorKind::Unavailable),
        ("cut", || Reply::Truncated(found(&["1"])), ErrorKind::Unavailable),
        ("half", || Reply::ok(7, r#"[{"Service":{"ID""#), ErrorKind::Protocol),
        ("page", || Reply::ok(7, "<html>hello</html>"), ErrorKind::Protocol),
    ];
    for (what, fault, kind) in faults {
        let broken = Arc::new(AtomicBool::new(true));
        let state = broken.clone();
        let server = Server::start(move |number, asked| {
            if number > 0 && state.load(Ordering::SeqCst) {
                fault()
            } else if is_blocking(&asked.target) {
                Reply::Hang
            } else {
                Reply::ok(7, &found(&["1"]))
            }
        })
        .await;
        let registry = builder(&server.address)
            .timeout(Duration::from_millis(300))
            .wait(Duration::from_secs(1))
            .build()
            .unwrap();
        let mut watch = registry.watch(&name("a"));
        assert_eq!(ids(&within(what, watch.next()).await.unwrap().unwrap()), ["1"], "{what}");
        let error = within(what, watch.next()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        let error = within(what, registry.lookup(&name("a"))).await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (kind, "lookup"), "{what}: {error}");
        let error = within(what, registry.services()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");

        broken.store(false, Ordering::SeqCst);
        // Recovered by itself; the snapshot is the one from before, and told again. Errors of requests made before are
        // told still.
        let retold = within(what, until_ok(&mut watch)).await;
        assert_eq!(ids(&retold), ["1"], "{what}");
        let before = server.asked().len();
        // As long as a blocking query has, and less than it takes to fail.
        let quiet = tokio::time::timeout(Duration::from_millis(700), watch.next());
        assert!(quiet.await.is_err(), "{what}: told once");
        assert!(server.asked().len() > before, "{what}: asked again");
        assert_eq!(ids(&within(what, registry.lookup(&name("a"))).await.unwrap()), ["1"], "{what}");
    }
}

#[tokio::test]
async fn a_watch_of_the_names_tells_them_again_after_an_error() {
    let server = Server::start(|number, asked| match number {
        1 => Reply::status(500, "No cluster leader"),
        _ if number > 1 && is_blocking(&asked.target) => Reply::Hang,
        _ => Reply::ok(7, r#"{"a":[]}"#),
    })
    .await;
    let registry = registry(&server.address);
    let mut watch = registry.watch_services();
    let names = within("first", watch.next()).await.unwrap().unwrap();
    assert!(within("error", watch.next()).await.unwrap().is_err());
    assert_eq!(within("again", watch.next()).await.unwrap().unwrap(), names);
}

#[tokio::test]
async fn what_is_kept_after_a_fresh_start_is_told_again_too() {
    let server = Server::start(|number, _| match number {
        0 => Reply::ok(33, &found(&["1", "2"])),
        // What answers is not Consul, so what comes after it may have forgotten something.
        1 => Reply::ok(7, "<html>starting</html>"),
        // Began anew, and only one is back yet.
        2 => Reply::ok(5, &found(&["1"])),
        _ => Reply::Hang,
    })
    .await;
    let registry = builder(&server.address).rejoin_grace(Duration::from_secs(60)).build().unwrap();
    let mut watch = registry.watch(&name("a"));
    assert_eq!(ids(&within("first", watch.next()).await.unwrap().unwrap()), ["1", "2"]);
    assert!(within("error", watch.next()).await.unwrap().is_err());
    assert_eq!(ids(&within("again", watch.next()).await.unwrap().unwrap()), ["1", "2"]);
}

#[tokio::test]
async fn retries_back_off() {
    let server = Server::start(|_, _| Reply::status(500, "No cluster leader")).await;
    let registry = registry(&server.address);
    let mut watch = registry.watch(&name("a"));
    for _ in 0..5 {
        assert!(within("an error", watch.next()).await.unwrap().is_err());
    }
    let times: Vec<Instant> = server.asked().iter().map(|asked| asked.at).collect();
    let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // 0.1, 0.2, 0.4, 0.8 s, each shortened by up to half.
    for (pause, least) in pauses.iter().zip([50, 100, 200, 400]) {
        assert!(*pause >= Duration::from_millis(least), "{pauses:?}");
    }
}

#[tokio::test]
async fn results_left_out_for_lack_of_rights_are_no_empty_snapshot() {
    let server =
        Server::start(|_, _| Reply::ok(7, "[]").header("X-Consul-Results-Filtered-By-ACLs", "true")).await;
    let error = registry(&server.address).lookup(&name("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn an_unusable_instance_is_left_out_and_the_rest_stays() {
    let body = r#"[{"Service":{"ID":"x","Service":"a","Address":"h","Port":0}},
                   {"Service":{"ID":"y","Service":"a","Address":"h","Port":1}}]"#;
    let server = Server::start(|_, _| Reply::ok(7, body)).await;
    assert_eq!(ids(&registry(&server.address).lookup(&name("a")).await.unwrap()), ["y"]);
}

/// An entry with the id `x` on a node.
fn placed(node: &str, port: u16, status: &str, modified: u32) -> String {
    format!(
        r#"{{"Node":{{"Node":"{node}","Address":"h","Datacenter":"dc1"}},
            "Service":{{"ID":"x","Service":"a","Port":{port},"ModifyIndex":{modified},"Meta":{{"at":"{modified}"}}}},
            "Checks":[{{"CheckID":"c","Status":"{status}"}}]}}"#
    )
}

#[tokio::test]
async fn an_id_and_address_on_two_nodes_is_one_instance_the_healthier_then_the_newer() {
    for (one, other, counts) in [
        (placed("c1", 1, "passing", 5), placed("c2", 1, "critical", 9), "5"),
        (placed("c1", 1, "passing", 5), placed("c2", 1, "passing", 9), "9"),
        (placed("c1", 1, "passing", 9), placed("c2", 1, "passing", 5), "9"),
    ] {
        let body = format!("[{one},{other}]");
        let server = Server::start(move |_, _| Reply::ok(7, &body)).await;
        let snapshot = registry(&server.address).lookup(&name("a")).await.unwrap();
        assert_eq!((ids(&snapshot), &*snapshot.all()[0].metadata()["at"]), (vec!["x"], counts));
    }
}

#[tokio::test]
async fn who_is_missing_after_an_outage_is_kept_once_though_an_id_is_now_of_several() {
    let server = Server::start(|number, _| match number {
        0 => Reply::ok(33, &format!("[{}]", placed("c1", 1, "passing", 5))),
        // Began anew, and by then there are two; the first has not renewed yet.
        1 | 2 => {
            let both = format!("[{},{}]", placed("c1", 1, "critical", 3), placed("c2", 2, "passing", 4));
            Reply::ok(5, &both)
        }
        _ => Reply::Hang,
    })
    .await;
    let registry = registry(&server.address);
    let mut watch = registry.watch(&name("a"));
    assert_eq!(ids(&until_ok(&mut watch).await), ["x"]);
    let both = until_ok(&mut watch).await;
    assert_eq!((ids(&both), both.healthy().count()), (vec!["x@h:1", "x@h:2"], 2));
}

/// A server that takes every registration, but says of each check the first time that it does not know it.
async fn forgetful(status: u16, body: &'static str) -> Server {
    let passes = AtomicUsize::new(0);
    Server::start(move |_, asked| {
        let first_renewal =
            asked.target.starts_with("/v1/agent/check/pass") && passes.fetch_add(1, Ordering::SeqCst) == 1;
        if first_renewal { Reply::status(status, body) } else { Reply::status(200, "") }
    })
    .await
}

#[tokio::test]
async fn a_lost_registration_is_made_again_by_old_and_new_servers_words() {
    for (status, body) in
        [(404, "Unknown check ID \"service:1\""), (500, "CheckID \"service:1\" does not have associated TTL")]
    {
        let server = forgetful(status, body).await;
        let registry = registry(&server.address);
        for _ in 0..2 {
            registry.register(&instance("a", "1"), &ttl(30)).await.unwrap();
        }
        let asked: Vec<_> =
            server.asked().iter().map(|asked| asked.target.ends_with("service/register")).collect();
        // Look whose the id is, register, look at the checks, pass; pass refused, and all again.
        assert_eq!(asked, [false, true, false, false, false, false, true, false, false], "{status}");
    }
    let server = forgetful(500, "rpc error: something else").await;
    let registry = registry(&server.address);
    registry.register(&instance("a", "1"), &ttl(30)).await.unwrap();
    let error = registry.register(&instance("a", "1"), &ttl(30)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(server.asked().len(), 5, "not every 500 means lost");
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_sent() {
    let server = Server::start(|_, _| Reply::status(200, "")).await;
    let registry = registry(&server.address);
    for id in ["a//b", "/a", "a/../b", "./a"] {
        let error = registry.register(&instance("a", id), &ttl(30)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{id}");
    }
    let forever = RegisterOptions::new().ttl(Duration::from_secs(u64::MAX));
    assert_eq!(
        registry.register(&instance("a", "1"), &forever).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert!(server.asked().is_empty());

    registry.register(&instance("a", "same"), &ttl(30)).await.unwrap();
    let sent = server.asked().len();
    for id in ["same", "SAME"] {
        let error = registry.register(&instance("b", id), &ttl(30)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(server.asked().len(), sent);
}

#[tokio::test]
async fn a_changed_token_file_is_read_again_when_the_token_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "old-secret").unwrap();
    let server = Server::start(|_, asked| {
        if asked.token.as_deref() == Some("new-secret") {
            Reply::ok(7, "[]")
        } else {
            Reply::status(403, "ACL not found")
        }
    })
    .await;
    let registry = builder(&server.address).token_file(&path).build().unwrap();
    let error = registry.lookup(&name("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(!format!("{error:?} {error} {registry:?}").contains("secret"), "{error:?}");
    std::fs::write(&path, "new-secret").unwrap();
    assert!(registry.lookup(&name("a")).await.unwrap().is_empty());
}

#[tokio::test]
async fn reads_fail_over_and_stay_where_they_are_answered() {
    let down = Server::start(|_, _| Reply::status(500, "No cluster leader")).await;
    let up = quiet().await;
    let registry = builder(&down.address).address(&up.address).build().unwrap();
    for _ in 0..3 {
        assert_eq!(ids(&registry.lookup(&name("a")).await.unwrap()), ["1"]);
    }
    assert_eq!((down.asked().len(), up.asked().len()), (1, 3));
    let mut watch = registry.watch(&name("a"));
    assert_eq!(ids(&watch.next().await.unwrap().unwrap()), ["1"]);
}

#[tokio::test]
async fn a_watch_turns_to_another_agent_without_a_word() {
    let fails = Server::start(|number, _| match number {
        0 => Reply::ok(7, &found(&["1"])),
        _ => Reply::status(500, "No cluster leader"),
    })
    .await;
    let other = Server::start(|_, asked| {
        if is_blocking(&asked.target) { Reply::Hang } else { Reply::ok(7, &found(&["1", "2"])) }
    })
    .await;
    let registry = builder(&fails.address).address(&other.address).build().unwrap();
    let mut watch = registry.watch(&name("a"));
    assert_eq!(ids(&within("first", watch.next()).await.unwrap().unwrap()), ["1"]);
    assert_eq!(ids(&within("second", watch.next()).await.unwrap().unwrap()), ["1", "2"]);
}

#[tokio::test]
async fn a_registration_moves_only_when_its_agent_stays_away_and_never_stays_twice() {
    let away = Arc::new(AtomicBool::new(false));
    let state = away.clone();
    let first =
        Server::start(
            move |_, _| {
                if state.load(Ordering::SeqCst) { Reply::Reset } else { Reply::status(200, "") }
            },
        )
        .await;
    let second = Server::start(|_, _| Reply::status(200, "")).await;
    let registry = builder(&first.address)
        .address(&second.address)
        .move_after(Duration::from_millis(200))
        .build()
        .unwrap();
    let one = instance("a", "1");
    registry.register(&one, &ttl(30)).await.unwrap();

    away.store(true, Ordering::SeqCst);
    assert_eq!(registry.register(&one, &ttl(30)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(second.asked().is_empty(), "one failure moves nothing");
    until("it moves", || async { registry.register(&one, &ttl(30)).await.ok() }).await;
    assert!(second.asked()[1].target.ends_with("service/register"));

    away.store(false, Ordering::SeqCst);
    let renewed = second.asked().len();
    registry.register(&one, &ttl(30)).await.unwrap();
    let last = first.asked().last().cloned().unwrap();
    assert!(last.target.contains("/deregister/1") && last.method == "PUT", "{last:?}");
    assert_eq!(second.asked().len(), renewed + 1, "it stays where it moved");
    let before = first.asked().len();
    registry.register(&one, &ttl(30)).await.unwrap();
    assert_eq!(first.asked().len(), before, "the first agent is left alone");
}

#[tokio::test]
async fn an_old_agent_is_not_asked_for_a_partition() {
    let server = Server::start(|_, asked| match asked.target.as_str() {
        target if target.starts_with("/v1/agent/self") => {
            Reply::status(200, r#"{"Config":{"Version":"1.8.7"}}"#)
        }
        _ => Reply::ok(7, "[]"),
    })
    .await;
    let registry = builder(&server.address).partition("p").build().unwrap();
    let error = registry.lookup(&name("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn options_reach_the_wire() {
    let server = Server::start(|_, _| Reply::ok(7, "[]")).await;
    let registry = builder(&server.address)
        .dc("dc2")
        .ns("n")
        .tag("x")
        .tag("y")
        .filter("Service.Port == 1")
        .near("_agent")
        .passing(true)
        .consistency(switchboard_consul::Consistency::Stale)
        .build()
        .unwrap();
    registry.lookup(&name("a/b")).await.unwrap();
    assert_eq!(
        server.asked()[0].target,
        "/v1/health/service/a%2Fb?stale=&dc=dc2&passing=true&tag=x&tag=y&filter=Service.Port+%3D%3D+1\
         &near=_agent&ns=n"
    );
}

#[tokio::test]
async fn a_dropped_watch_ends_its_query_and_a_closed_one_says_so() {
    let server = quiet().await;
    let registry = registry(&server.address);
    let mut watch = registry.watch(&name("a"));
    within("first", watch.next()).await.unwrap().unwrap();
    // Waiting in its blocking query.
    let waiting = tokio::time::timeout(Duration::from_millis(200), watch.next()).await;
    assert!(waiting.is_err() && server.asked().len() == 2 && server.open() == 1);
    drop(watch);
    until("the connection closed", || async { (server.open() == 0).then_some(()) }).await;

    let mut watch = registry.watch(&name("a"));
    within("first", watch.next()).await.unwrap().unwrap();
    registry.close().await.unwrap();
    assert_eq!(within("the end", watch.next()).await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert!(within("the end", watch.next()).await.is_none());
}

#[tokio::test]
async fn an_abandoned_registration_is_not_left_behind() {
    let server = Server::start(|_, asked| {
        // The pass hangs, after the agent took the registration.
        if asked.target.contains("/check/pass/") { Reply::Hang } else { Reply::status(200, "") }
    })
    .await;
    let registry = registry(&server.address);
    let (one, options) = (instance("a", "1"), ttl(30));
    let abandoned = tokio::time::timeout(Duration::from_millis(200), registry.register(&one, &options)).await;
    assert!(abandoned.is_err());
    registry.close().await.unwrap();
    let last = server.asked().last().cloned().unwrap();
    assert!(last.target.ends_with("/v1/agent/service/deregister/1"), "{last:?}");
}
