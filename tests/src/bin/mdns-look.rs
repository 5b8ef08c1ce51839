//! How whole one look is, and how long it takes, beside `avahi-browse`. Needs root, for namespaces, and Avahi.
//!
//! `cargo run --release -p switchboard-tests --bin mdns-look [ours|avahi] [COUNT]…` (default both, with 1, 12, 200 and
//! 2000) prints a row of the table in `docs/mdns.md` for each: that many instances are announced by several hosts, of
//! ours or of Avahi's, and a host with nothing in its memory opens a registry and looks up, fifty times. On a quiet link
//! nothing was said for 2.5 s, so that everybody may answer; on a changed one another reader has asked and another host
//! has registered just before, so that nobody may multicast again (RFC 6762 §6) and there is one instance more to find.
//! Among 2,000 `avahi-browse`, which is slow there, looks ten times.
//! `SWITCHBOARD_LOOKS` is how often instead of fifty, `SWITCHBOARD_URL` adds parameters to the registry's URL.
//!
//! It starts itself in the namespaces, as `serve ADDRESS COUNT`, `look` and `change ADDRESS`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use switchboard_core::{Instance, RegisterOptions, Registry, ServiceName};
use switchboard_mdns::MdnsRegistry;
use switchboard_tests::netns::{Machine, World};
use switchboard_tests::peers::{Avahi, AvahiService};
use switchboard_tests::program::Program;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SERVICE: &str = "greeter";

const KIND: &str = "_switchboard._tcp";

/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(300);

/// After this long without a word everybody may answer again, and goodbyes have taken effect.
const QUIET: Duration = Duration::from_millis(2500);

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments[..] {
        ["serve", address, count] => runtime.block_on(serve(address, count.parse()?)),
        ["look"] => runtime.block_on(look()),
        ["change", address] => runtime.block_on(change(address)),
        ["ours", ref counts @ ..] => all(&[false], counts),
        ["avahi", ref counts @ ..] => all(&[true], counts),
        ref counts => all(&[false, true], counts),
    }
}

fn all(avahi: &[bool], counts: &[&str]) -> Result<(), Failure> {
    let counts: Vec<usize> = counts.iter().map(|count| count.parse()).collect::<Result<_, _>>()?;
    print(
        "| instances | link | whole | said to be a part | median | longest | avahi-browse whole | its median |",
    );
    print("|---|---|---|---|---|---|---|---|");
    for &avahi in avahi {
        for &count in if counts.is_empty() { &[1, 12, 200, 2000] } else { &counts[..] } {
            measure(avahi, count)?;
        }
    }
    Ok(())
}

fn measure(avahi: bool, count: usize) -> Result<(), Failure> {
    let hosts = match count {
        2000.. => 10,
        100.. => {
            if avahi {
                4
            } else {
                20
            }
        }
        12.. => {
            if avahi {
                2
            } else {
                12
            }
        }
        _ => 1,
    };
    let world = World::new();
    let machines: Vec<_> =
        (1..=hosts).map(|host| world.machine(&format!("h{host}"), &format!("10.0.0.{host}/24"))).collect();
    let (mut servers, _avahis) = announce(avahi, &machines, count / hosts)?;
    for server in &mut servers {
        until(server, "registered");
    }
    let reader = world.machine("reader", "10.0.0.250/24");
    let changer = world.machine("changer", "10.0.0.251/24");
    let browser = world.machine("browser", "10.0.0.252/24");
    let browser = Avahi::start(&browser, &[]);
    // Avahi announces one after another, which takes long where there are hundreds.
    let deadline = Instant::now() + LIMIT;
    let mut reader = start(&reader, &["look"])?;
    let expected = count / hosts * hosts;
    loop {
        std::thread::sleep(QUIET);
        reader.tell("look");
        if until(&mut reader, "looked")["count"] == expected {
            break;
        }
        assert!(Instant::now() < deadline, "they do not all come up");
    }
    let mut changer = start(&changer, &["change", "10.0.0.251:80"])?;
    for (link, changed) in [("quiet", false), ("changed", true)] {
        let expected = expected + usize::from(changed);
        let mut prepare = |done: bool| {
            if done && changed {
                changer.tell("undo");
                until(&mut changer, "undone");
            }
            if !done {
                std::thread::sleep(QUIET);
            }
            if !done && changed {
                changer.tell("change");
                until(&mut changer, "changed");
            }
        };
        let (mut ours, mut theirs) = (Looks::new(expected), Looks::new(expected));
        for look in 0..looks() {
            prepare(false);
            reader.tell("look");
            let looked = until(&mut reader, "looked");
            ours.add(looked["count"].as_u64().unwrap_or_default(), looked["ms"].as_f64().unwrap_or_default());
            ours.said += u32::from(looked["complete"] == false);
            prepare(true);
            // Among so many it takes half a minute.
            if count >= 2000 && look % 5 != 0 {
                continue;
            }
            prepare(false);
            let begun = Instant::now();
            let mut found: Vec<String> = browser
                .browse(KIND)
                .iter()
                .filter_map(|line| Some(line.split(';').nth(3)?.to_owned()))
                .collect();
            let took = begun.elapsed();
            found.sort_unstable();
            found.dedup();
            theirs.add(found.len() as u64, took.as_secs_f64() * 1000.0);
            prepare(true);
        }
        let owner = if avahi { "Avahi's" } else { "ours" };
        let on = if hosts == 1 { String::new() } else { format!(" on {hosts} hosts") };
        print(&format!(
            "| {expected} of {owner}{on} | {link} | {} | {} | {:.0} ms | {:.0} ms | {} | {:.0} ms |",
            ours.whole(),
            ours.said,
            ours.median(),
            ours.longest(),
            theirs.whole(),
            theirs.median()
        ));
    }
    Ok(())
}

/// Has each of `machines` announce so many instances.
fn announce<'a>(
    avahi: bool,
    machines: &'a [Machine<'a>],
    each: usize,
) -> Result<(Vec<Program>, Vec<Avahi<'a>>), Failure> {
    let (mut servers, mut avahis) = (Vec::new(), Vec::new());
    for (host, machine) in (1..).zip(machines) {
        if avahi {
            let names: Vec<String> = (0..each).map(|number| format!("i{host}-{number}")).collect();
            let txt = format!("service={SERVICE}");
            let txt = [txt.as_str()];
            let services: Vec<_> =
                names.iter().map(|name| AvahiService { name, kind: KIND, port: 80, txt: &txt }).collect();
            avahis.push(Avahi::start(machine, &services));
        } else {
            let address = format!("10.0.0.{host}:80");
            servers.push(start(machine, &["serve", &address, &each.to_string()])?);
        }
    }
    Ok((servers, avahis))
}

fn looks() -> usize {
    std::env::var("SWITCHBOARD_LOOKS").ok().and_then(|looks| looks.parse().ok()).unwrap_or(50)
}

/// What a number of looks gave.
struct Looks {
    expected: u64,
    counts: Vec<u64>,
    took: Vec<f64>,
    /// How many said themselves that they may not be the whole.
    said: u32,
}

impl Looks {
    fn new(expected: usize) -> Self {
        Self { expected: expected as u64, counts: Vec::new(), took: Vec::new(), said: 0 }
    }

    fn add(&mut self, count: u64, ms: f64) {
        self.counts.push(count);
        self.took.push(ms);
        self.took.sort_unstable_by(f64::total_cmp);
    }

    /// How many were whole, and the least that one gave where not all were.
    fn whole(&self) -> String {
        let whole = self.counts.iter().filter(|count| **count >= self.expected).count();
        let of = format!("{whole} of {}", self.counts.len());
        match self.counts.iter().min() {
            Some(least) if *least < self.expected => format!("{of}, least {least}"),
            _ => of,
        }
    }

    fn median(&self) -> f64 {
        self.took[self.took.len() / 2]
    }

    fn longest(&self) -> f64 {
        self.took[self.took.len() - 1]
    }
}

fn start(machine: &Machine<'_>, arguments: &[&str]) -> Result<Program, Failure> {
    let mut command = machine.command(std::env::current_exe()?);
    Ok(Program::start(machine.netns(), command.args(arguments).stderr(Stdio::inherit())))
}

fn until(program: &mut Program, name: &str) -> Value {
    program.until(name, LIMIT, |event| (event["event"] == name).then(|| event.clone())).0
}

async fn open() -> Result<MdnsRegistry, Failure> {
    let more = std::env::var("SWITCHBOARD_URL").unwrap_or_default();
    Ok(MdnsRegistry::from_url(&format!("mdns:?interface=eth0{more}").parse()?).await?)
}

async fn serve(address: &str, count: usize) -> Result<(), Failure> {
    let registry = open().await?;
    for _ in 0..count {
        // Without an id it gets a random one, which takes no probing.
        let instance = Instance::builder(SERVICE).address(address).build()?;
        registry.register(&instance, &RegisterOptions::new()).await?;
    }
    print(&json!({ "event": "registered" }));
    std::future::pending().await
}

async fn look() -> Result<(), Failure> {
    let service = ServiceName::new(SERVICE)?;
    for line in std::io::stdin().lines() {
        line?;
        let begun = Instant::now();
        let registry = open().await?;
        let found = registry.lookup(&service).await?;
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        print(&json!({ "event": "looked", "count": found.len(), "complete": found.is_complete(), "ms": ms }));
        registry.close().await?;
    }
    Ok(())
}

/// Asks like a reader, and registers an instance; takes it back when told.
async fn change(address: &str) -> Result<(), Failure> {
    let mut changed = None;
    for line in std::io::stdin().lines() {
        if line? == "change" {
            let registry = open().await?;
            registry.lookup(&ServiceName::new(SERVICE)?).await?;
            let instance = Instance::builder(SERVICE).address(address).build()?;
            registry.register(&instance, &RegisterOptions::new()).await?;
            changed = Some(registry);
            print(&json!({ "event": "changed" }));
        } else if let Some(registry) = changed.take() {
            // On a machine that is too busy its goodbye may come too late; then it counts as there until it lapses.
            let _ = registry.close().await;
            print(&json!({ "event": "undone" }));
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what it is for")]
fn print(line: &(impl std::fmt::Display + ?Sized)) {
    println!("{line}");
}
