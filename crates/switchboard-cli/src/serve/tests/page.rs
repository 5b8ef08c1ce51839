//! What a person sees, in a real browser.
#![allow(clippy::print_stdout, reason = "what is measured is to be read")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::{Health, HealthReason, Instance, MemoryRegistry, RegisterOptions, Registry};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::browser::Browser;
use super::{Served, instance};

/// The text of the cells of a column, by its number.
fn column(number: u32) -> String {
    format!(
        "[...document.querySelectorAll('#rows td:nth-child({number})')].map(cell => cell.textContent).join(' ')"
    )
}

fn ids(expected: &str) -> String {
    format!("{} === '{expected}'", column(3))
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn it_lists_filters_and_tells_all_by_keyboard() {
    let served = Served::new().await;
    for (service, id) in [("orders", "o-1"), ("orders", "o-2"), ("web", "w-1"), ("web", "w-2")] {
        let one = Instance::builder(service).id(id).address("10.0.0.1:80").version("1.2");
        let one = one.metadata("zone", if id.ends_with('1') { "a" } else { "b" }).build().unwrap();
        served.register(one).await;
    }
    served.set_health("web", "w-2", Health::Critical);
    let mut browser = Browser::start().await;
    browser.open(&served.url).await;
    browser.until(&ids("w-2 o-1 o-2 w-1")).await;
    browser.shows("counts", "2 services, 4 instances, 3 healthy").await;
    browser.shows("state", "Live.").await;
    browser.until(&format!("{}.startsWith('not used: critical')", column(6))).await;
    browser.shows("news", "+ web/w-1 at 10.0.0.1:80 version 1.2 passing").await;

    // The first key goes to the row at the top, more move on from there, and others that come do not move it.
    browser.press(&["ArrowDown"]).await;
    browser.until("document.activeElement.textContent === 'w-2'").await;
    browser.press(&["ArrowDown", "ArrowDown"]).await;
    browser.until("document.activeElement.textContent === 'o-2'").await;
    served.set_health("orders", "o-1", Health::Critical);
    served.set_health("web", "w-1", Health::Warning);
    browser.until(&ids("o-1 w-2 w-1 o-2")).await;
    browser.until("document.activeElement.textContent === 'o-2'").await;
    // It moves itself.
    served.set_health("orders", "o-2", Health::Warning);
    browser.until(&ids("o-1 w-2 o-2 w-1")).await;
    browser.until("document.activeElement.textContent === 'o-2'").await;

    browser.press(&["Enter"]).await;
    browser.until("document.getElementById('details').open").await;
    browser.shows("details-head", "orders/o-2").await;
    browser.shows("fields", "zone\nb").await;
    served.set_health("orders", "o-2", Health::Maintenance);
    browser.shows("fields", "no: not used: maintenance").await;
    served.deregister("orders", "o-2").await;
    browser.shows("fields", "gone").await;
    browser.press(&["Escape"]).await;
    browser.until("!document.getElementById('details').open").await;
    browser.until("document.querySelectorAll('#rows tr.selected').length === 1").await;

    browser.press(&["/", "Z", "o", "n", "e", "=", "B"]).await;
    browser.until(&ids("w-2")).await;
    browser.shows("listed", "1 of 3").await;
    browser.press(&["x"]).await;
    browser.shows("none", "No instance has this in it.").await;
    browser.press(&["Escape"]).await;
    browser.until(&ids("o-1 w-2 w-1")).await;
    browser.press(&["Enter"]).await;
    browser.until("document.activeElement.closest('#rows') !== null").await;
    browser.eval("document.querySelectorAll('#services button')[1].click()").await;
    browser.until(&ids("w-2 w-1")).await;
    browser.press(&["Escape"]).await;
    browser.until(&ids("o-1 w-2 w-1")).await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn it_says_how_the_registry_and_the_server_are_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let world = MemoryRegistry::new();
    let mut served = Served::held(listener, world.handle(), None, &[]);
    let mut browser = Browser::start().await;
    browser.open(&served.url).await;
    browser.shows("state", "Listening to the registry.").await;
    browser.until("document.getElementById('none').textContent === ''").await;

    served.fail();
    served.hold = None;
    browser
        .shows(
            "state",
            "The registry is not heard: memory: watch: unavailable: no route to it. Nothing is known yet.",
        )
        .await;
    served.seen.heal();
    browser.shows("state", "The registry is heard again, after").await;
    browser.shows("none", "No service is registered.").await;

    served.register(instance("web", "w-1", 80)).await;
    browser.until(&ids("w-1")).await;
    served.fail();
    browser
        .shows(
            "state",
            "The registry is not heard: memory: watch: unavailable: no route to it. This is how it was.",
        )
        .await;
    browser.shows("since", "For ").await;
    browser.shows("news", "! not heard").await;
    browser.until(&ids("w-1")).await;
    served.seen.heal();
    browser.shows("state", "The registry is heard again, after").await;
    assert_eq!(browser.complaints(), [""; 0]);

    // The server ends, something else happens, and another takes its place.
    served.end().await;
    browser.shows("state", "switchboard serve has ended; trying whether it is back.").await;
    browser.until(&ids("w-1")).await;
    world.register(&instance("web", "w-2", 80), &RegisterOptions::new()).await.unwrap();
    browser.until("document.getElementById('state').textContent.includes('This is how it was')").await;
    let listener = TcpListener::bind(address).await.unwrap();
    let mut served = Served::held(listener, world, None, &[]);
    served.hold = None;
    // What the first one's handle had registered went with it.
    browser.until(&ids("w-2")).await;
    browser.until("document.getElementById('bar').dataset.look === 'good'").await;
    browser.until("!document.body.classList.contains('old')").await;
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn it_asks_for_the_token_once_and_keeps_it_out_of_the_address() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "correct-horse-battery").unwrap();
    let served = Served::with(Some(&file), &[]).await;
    served.register(instance("web", "w-1", 80)).await;
    let mut browser = Browser::start().await;
    browser.open(&served.url).await;
    browser.until("document.body.innerText.includes('a token is asked for')").await;
    browser.open(&format!("{}/?token=correct-horse-battery", served.url)).await;
    browser.until(&ids("w-1")).await;
    browser.until("location.search === '' && document.cookie === ''").await;
    browser.open(&served.url).await;
    browser.until(&ids("w-1")).await;
    browser.complaints();
    browser.call("Network.clearBrowserCookies", json!({})).await;
    browser.eval("lose(null)").await;
    browser.shows("state", "The server asks for its token").await;
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn what_others_registered_is_shown_and_does_nothing() {
    let served = Served::new().await;
    let evil = "<img src=x onerror=\"document.title='evil'\">";
    let one = Instance::builder(evil).id(evil).address("h:1").version(evil).tag(evil).metadata("x", evil);
    served.register(one.endpoint(evil).build().unwrap()).await;
    let output = format!("</script><script>{evil}");
    served.fail_check(evil, evil, HealthReason::new(evil, Health::Critical).output(&output));
    let mut browser = Browser::start().await;
    browser.open(&served.url).await;
    browser.until(&format!("{} === {}", column(3), json!(evil))).await;
    browser.press(&["ArrowDown", "Enter"]).await;
    browser.shows("details-head", evil).await;
    browser.shows("fields", &output).await;
    browser.shows("services", evil).await;
    browser.shows("news", evil).await;
    assert_eq!(browser.eval("document.title").await, "Switchboard");
    assert_eq!(browser.eval("document.querySelectorAll('img').length").await, 0);
    assert_eq!(browser.complaints(), [""; 0]);
    // Were something written into the page as HTML, its own policy would stop it.
    browser.eval("try { document.body.innerHTML = '<b>x</b>' } catch {}").await;
    assert_eq!(browser.eval("document.querySelectorAll('b').length").await, 0);
    let all = "performance.getEntriesByType('resource').every(entry => new URL(entry.name).origin === location.origin)";
    assert_eq!(browser.eval(all).await, true);
}

/// How long there is load, in seconds.
const LOAD: &str = "SWITCHBOARD_LOAD_SECONDS";

/// Notes how long it takes to draw, and what keeps the page from answering.
const MEASURE: &str = "
    window.draws = [];
    window.long = [];
    new PerformanceObserver((list) => long.push(...list.getEntries().map((entry) => entry.duration)))
        .observe({ type: 'longtask', buffered: true });
    const inner = requestAnimationFrame;
    window.requestAnimationFrame = (draw) => inner((time) => {
        const begun = performance.now();
        draw(time);
        draws.push(performance.now() - begun);
    });
    addEventListener('DOMContentLoaded', () => { window.states = 0; const parse = JSON.parse; JSON.parse = (text) => { states += 1; return parse(text); }; });";

/// What the browser counts of the page, without what is garbage.
async fn counted(browser: &mut Browser) -> BTreeMap<String, f64> {
    browser.call("HeapProfiler.collectGarbage", json!({})).await;
    let told = browser.call("Performance.getMetrics", json!({})).await;
    let metrics = told["metrics"].as_array().unwrap().iter();
    metrics
        .map(|metric| (metric["name"].as_str().unwrap().to_owned(), metric["value"].as_f64().unwrap()))
        .collect()
}

/// The memory of this process, which is the server and what is registered, in MiB: `VmRSS` now, `VmHWM` at most.
fn resident(which: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    format!("{:?} in the middle, {:?} at most", times[times.len() / 2], times[times.len() - 1])
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn it_stays_usable_with_2000_instances_and_100_changes_a_second() {
    let seconds: u64 = std::env::var(LOAD).map_or(5, |seconds| seconds.parse().unwrap());
    let served = Served::new().await;
    let service = |number: usize| format!("service-{:02}", number % 50);
    let one = |number: usize, version: usize| {
        let builder = Instance::builder(service(number))
            .id(format!("i-{number:04}-{version}"))
            .version(version.to_string());
        let builder = builder.address(format!("10.0.{}.{}:8080", number / 250, number % 250));
        builder.tag("load").metadata("zone", "eu-west-1").build().unwrap()
    };
    let mut versions = vec![0; 2000];
    for number in 0..2000 {
        served.register(one(number, 0)).await;
    }
    let mut browser = Browser::start().await;
    browser.size(1280, 800).await;
    browser.call("Page.addScriptToEvaluateOnNewDocument", json!({"source": MEASURE})).await;
    browser.open(&served.url).await;
    browser.shows("counts", "50 services, 2000 instances, 2000 healthy").await;
    // Those who ask and then take nothing.
    let mut stalled = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(served.url.strip_prefix("http://").unwrap()).await.unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        stalled.push(stream);
    }
    // Warm: what is compiled and kept once is no growth.
    let (mut answers, mut shown, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    let (mut before, mut resident_before) = (BTreeMap::new(), 0);
    let mut ticks = interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for turn in 0..(seconds + 5) * 100 {
        ticks.tick().await;
        let number = usize::try_from(turn).unwrap() * 37 % 2000;
        let id = format!("i-{number:04}-{}", versions[number]);
        let health = [Health::Passing, Health::Critical, Health::Warning];
        if turn % 5 == 0 {
            // A deployment: another instance in its place.
            versions[number] += 1;
            served.register(one(number, versions[number])).await;
            served.deregister(&service(number), &id).await;
        } else {
            served.set_health(&service(number), &id, health[usize::try_from(turn).unwrap() % 3]);
        }
        if turn == 500 {
            browser.press(&["ArrowDown"]).await;
            browser.until("document.activeElement.closest('#rows') !== null").await;
            before = counted(&mut browser).await;
            browser.eval("draws.length = long.length = states = 0").await;
            resident_before = resident("VmRSS");
        }
        if turn > 500 && turn % 100 == 50 {
            // Somebody presses a key.
            let begun = Instant::now();
            let was = browser.eval("document.activeElement.textContent").await;
            browser.press(&[if turn % 200 == 50 { "ArrowUp" } else { "ArrowDown" }]).await;
            browser.until(&format!("document.activeElement.textContent !== {was}")).await;
            answers.push(begun.elapsed());
        }
        if turn > 500 && turn % 100 == 0 {
            // Somebody waits for an instance.
            let id = format!("awaited-{turn}");
            let begun = Instant::now();
            served.register(instance("awaited", &id, 80)).await;
            browser.until(&format!("document.getElementById('news').textContent.includes('{id} ')")).await;
            shown.push(begun.elapsed());
            served.deregister("awaited", &id).await;
        }
        if turn > 500 && turn % 500 == 0 {
            memory.push(resident("VmRSS"));
        }
    }
    let after = counted(&mut browser).await;
    let script = "(() => { draws.sort((a, b) => a - b); const at = (part) => draws[Math.floor((draws.length - 1) * part)]; \
                  return { states, draws: draws.length, median: at(.5), p99: at(.99), most: at(1), long: long.length, \
                  longest: Math.max(0, ...long) }; })()";
    let measured = browser.eval(script).await;
    let spent = |name: &str| (after[name] - before[name]) * 1000.0 / measured["states"].as_f64().unwrap();
    println!("{seconds} s: {measured}");
    println!(
        "for a state {:.1} ms of processor in the page's thread; by the clock script {:.1}, style {:.1}, layout {:.1}",
        spent("ThreadTime"),
        spent("ScriptDuration"),
        spent("RecalcStyleDuration"),
        spent("LayoutDuration")
    );
    println!("a key: {}", spread(answers));
    for name in ["JSHeapUsedSize", "Nodes", "JSEventListeners"] {
        println!("{name}: {} -> {}", before[name], after[name]);
    }
    println!("a change is to be seen after {}", spread(shown));
    println!("server: {resident_before} MiB, each 5 s {memory:?}, at most {} MiB", resident("VmHWM"));

    drop(stalled);
    // The last state arrives, whatever was left out between.
    let last = Instance::builder("a-last").id("last").address("h:1").build().unwrap();
    served.register(last).await;
    browser.shows("counts", "51 services, 2001 instances").await;
    let listed = browser
        .eval("[document.querySelectorAll('#rows tr').length, document.querySelectorAll('#news li').length]")
        .await;
    assert_eq!(listed, json!([100, 100]));
    browser.eval("document.getElementById('more').click()").await;
    browser.until("document.querySelectorAll('#rows tr').length === 400").await;
    // Bounded: however much has changed, the page holds what there is.
    assert!(after["Nodes"] < 1.5 * before["Nodes"] + 5_000.0, "{before:?} {after:?}");
    assert!(after["JSHeapUsedSize"] < 1.5 * before["JSHeapUsedSize"] + 5e6, "{before:?} {after:?}");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// Axe, a checker of accessibility, as npm has it.
fn axe() -> String {
    let dir = tempfile::tempdir().unwrap();
    let script = "npm pack --silent axe-core@4.14 && tar xzf axe-core-*.tgz package/axe.min.js";
    let fetched = Command::new("sh").args(["-c", script]).current_dir(&dir).env("HOME", dir.path()).output();
    let fetched = fetched.unwrap();
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    std::fs::read_to_string(dir.path().join("package/axe.min.js")).unwrap()
}

#[tokio::test]
#[ignore = "needs chromium and npm"]
async fn axe_finds_no_serious_fault() {
    let axe = tokio::task::spawn_blocking(axe).await.unwrap();
    let served = Served::new().await;
    let mut browser = Browser::start().await;
    // It is not the page's.
    browser.call("Page.setBypassCSP", json!({"enabled": true})).await;
    browser.size(1000, 700).await;
    browser.open(&served.url).await;
    browser.shows("none", "No service is registered.").await;
    browser.eval(&axe).await;
    look(&mut browser, "empty").await;
    for (service, id, health) in [
        ("web", "w-1", Health::Passing),
        ("web", "w-2", Health::Warning),
        ("orders", "o-1", Health::Critical),
    ] {
        let one = Instance::builder(service).id(id).address("10.0.0.1:80").version("1").tag("a");
        served.register(one.metadata("zone", "b").build().unwrap()).await;
        if health != Health::Passing {
            served.fail_check(service, id, HealthReason::new("http", health).output("connection refused"));
        }
    }
    browser.until(&ids("o-1 w-2 w-1")).await;
    browser.press(&["ArrowDown"]).await;
    look(&mut browser, "live").await;
    browser.press(&["Enter"]).await;
    browser.until("document.getElementById('details').open").await;
    look(&mut browser, "details").await;
    browser.press(&["Escape"]).await;
    browser.eval("document.querySelector('#services button').click()").await;
    browser.until(&ids("o-1")).await;
    look(&mut browser, "one service").await;
    browser.press(&["/", "x", "x"]).await;
    browser.shows("none", "has this in it").await;
    look(&mut browser, "nothing found").await;
    browser.press(&["Escape"]).await;
    served.fail();
    browser.shows("state", "This is how it was").await;
    look(&mut browser, "outage").await;
    browser.size(360, 640).await;
    look(&mut browser, "narrow").await;
    served.end().await;
    browser.shows("state", "has ended").await;
    look(&mut browser, "disconnected").await;
}

async fn look(browser: &mut Browser, at: &str) {
    for scheme in ["light", "dark"] {
        browser.scheme(scheme).await;
        let script = "axe.run(document).then(({ passes, violations }) => ({ passes: passes.length, violations: violations.map( \
                      ({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map((node) => node.failureSummary + node.html) })) }))";
        let found = browser.eval(script).await;
        println!("{at}, {scheme}: {} passed, {}", found["passes"], found["violations"]);
        let violations = found["violations"].as_array().unwrap();
        let serious = |fault: &&Value| fault["impact"] == "serious" || fault["impact"] == "critical";
        let serious: Vec<_> = violations.iter().filter(serious).collect();
        assert!(serious.is_empty(), "{at}, {scheme}: {serious:#?}");
        assert!(found["passes"].as_u64().unwrap() > 10, "{found}");
    }
}

/// Where the pictures of docs/ are to be written.
const PICTURES: &str = "SWITCHBOARD_PICTURES";

#[tokio::test]
#[ignore = "needs chromium"]
async fn it_is_to_be_seen_in_light_and_dark_and_in_a_narrow_window() {
    let dir = tempfile::tempdir().unwrap();
    let to = std::env::var_os(PICTURES).map_or_else(|| dir.path().to_owned(), PathBuf::from);
    let served = Served::new().await;
    for (service, id, address, version) in [
        ("gateway", "gw-1", "10.20.1.11:8443", "3.2.0"),
        ("gateway", "gw-2", "10.20.1.12:8443", "3.2.0"),
        ("orders", "orders-1", "10.20.2.21:8080", "1.14.2"),
        ("orders", "orders-2", "10.20.2.22:8080", "1.14.2"),
        ("payments", "pay-1", "10.20.3.31:50051", "2.0.5"),
        ("payments", "pay-2", "10.20.3.32:50051", "2.0.5"),
        ("payments", "pay-3", "10.20.3.33:50051", "2.0.5"),
    ] {
        let one = Instance::builder(service).id(id).address(address).version(version);
        served.register(one.metadata("zone", "eu-west-1").build().unwrap()).await;
    }
    let mut browser = Browser::start().await;
    browser.call("Emulation.setTimezoneOverride", json!({"timezoneId": "UTC"})).await;
    browser.size(1100, 600).await;
    browser.open(&served.url).await;
    browser.shows("counts", "3 services, 7 instances, 7 healthy").await;
    let reason = HealthReason::new("grpc", Health::Critical).output("connection refused\nafter 3 attempts");
    let since = Instant::now().checked_sub(Duration::from_secs(190));
    served.fail_check("payments", "pay-2", reason.seen_since(since));
    served.set_health("orders", "orders-1", Health::Warning);
    browser.until(&format!("{}.startsWith('pay-2 orders-1 gw-1')", column(3))).await;
    browser
        .until(&format!("{}.startsWith('not used: critical; grpc for 3m+: connection refused ')", column(6)))
        .await;
    browser.press(&["ArrowDown"]).await;
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.scheme(scheme).await;
        browser.picture(&to.join(format!("serve-{scheme}.png"))).await;
        grounds.push(browser.eval("getComputedStyle(document.body).backgroundColor").await);
    }
    assert_ne!(grounds[0], grounds[1]);
    browser.size(360, 640).await;
    assert_eq!(
        browser.eval("document.documentElement.scrollWidth <= 360").await,
        true,
        "it is wider than the window"
    );
}
