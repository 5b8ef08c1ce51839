//! How mDNS bears thousands of instances, and how long single steps take. Needs root, for namespaces.
//!
//! `cargo run --release -p switchboard-tests --bin mdns-scale [COUNT]…` (default 1000 and 5000) prints JSON lines:
//! a process registers that many instances, a late joiner finds them, one of them goes, and the joiner has to end with
//! the rest while it asks the network again; on loopback and across namespaces, with the default receive buffer and with
//! the one Linux gives. Then the medians of ten of each single step.
//!
//! It starts itself in the namespaces, as `register URL COUNT`, `find URL COUNT`, `time URL`.

use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use switchboard_core::{Instance, RegisterOptions, Registry, ServiceName};
use switchboard_mdns::MdnsRegistry;
use switchboard_tests::netns::{Machine, World};
use switchboard_tests::program::Program;
use switchboard_tests::usage::Usage;
use tokio::time::{Instant, timeout};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long the joiner may take.
const FIND_WITHIN: Duration = Duration::from_secs(60);

/// How long it stays after one instance has gone, in which it asks the network again.
const STAY: Duration = Duration::from_secs(20);

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments[..] {
        ["register", url, count] => runtime.block_on(register(url, count.parse()?)),
        ["find", url, count] => runtime.block_on(find(url, count.parse()?)),
        ["time", url] => runtime.block_on(time(url)),
        [] => all(&[1000, 5000]),
        ref counts => all(&counts.iter().map(|count| count.parse()).collect::<Result<Vec<_>, _>>()?),
    }
}

fn all(counts: &[usize]) -> Result<(), Failure> {
    for &count in counts {
        for (buffer, parameter) in [("4 MiB", ""), ("212,992 bytes", "&receive_buffer=212992")] {
            let world = World::new();
            let alone = world.bare("alone");
            alone.loopback_up();
            let url = format!("mdns:?port=5454&interface=lo{parameter}");
            measure("loopback", buffer, count, &url, &alone, &alone)?;
            let (here, there) = (world.machine("here", "10.0.0.1/24"), world.machine("there", "10.0.0.2/24"));
            let url = format!("mdns:?port=5353&interface=eth0{parameter}");
            measure("namespaces", buffer, count, &url, &here, &there)?;
        }
    }
    let world = World::new();
    let alone = world.bare("alone");
    alone.loopback_up();
    let mut timer = start(&alone, &["time", "mdns:?interface=lo"])?;
    let (times, _) = timer
        .until("times", Duration::from_secs(120), |event| (event["event"] == "times").then(|| event.clone()));
    print(&times);
    Ok(())
}

fn start(machine: &Machine<'_>, arguments: &[&str]) -> Result<Program, Failure> {
    Ok(Program::start(machine.netns(), machine.command(std::env::current_exe()?).args(arguments)))
}

fn measure(
    link: &str,
    buffer: &str,
    count: usize,
    url: &str,
    here: &Machine<'_>,
    there: &Machine<'_>,
) -> Result<(), Failure> {
    let event = |program: &mut Program, name: &str| {
        program
            .until(name, Duration::from_secs(180), |event| (event["event"] == name).then(|| event.clone()))
            .0
    };
    let number = count.to_string();
    let mut registrar = start(here, &["register", url, &number])?;
    let registered = event(&mut registrar, "registered");
    // Until the second announcements are out as well, so that the joiner finds a quiet link.
    std::thread::sleep(Duration::from_secs(3));
    let mut joiner = start(there, &["find", url, &number])?;
    let found = event(&mut joiner, "found");
    registrar.tell("usage");
    let served = event(&mut registrar, "usage");
    registrar.tell("drop");
    joiner.tell("stay");
    let stayed = event(&mut joiner, "stayed");
    print(&json!({
        "link": link, "buffer": buffer, "count": count,
        "registered": registered, "found": found, "served": served, "stayed": stayed,
    }));
    Ok(())
}

fn service() -> Result<ServiceName, Failure> {
    Ok(ServiceName::new("scale")?)
}

async fn open(url: &str) -> Result<Arc<MdnsRegistry>, Failure> {
    let url = url.parse().map_err(switchboard_core::Error::from)?;
    Ok(Arc::new(MdnsRegistry::from_url(&url).await?))
}

/// Registers `count` instances and waits for commands.
async fn register(url: &str, count: usize) -> Result<(), Failure> {
    let registry = open(url).await?;
    let (begun, start) = (Instant::now(), Usage::now());
    let address = if url.contains("interface=lo") { "127.0.0.1:80" } else { "10.0.0.1:80" };
    let instances: Vec<Instance> = (0..count)
        .map(|_| {
            Instance::builder(service()?).address(address).metadata("zone", "a").build().map_err(Into::into)
        })
        .collect::<Result<_, Failure>>()?;
    let options = RegisterOptions::new();
    let registered = stream::iter(&instances)
        .map(|instance| registry.register(instance, &options))
        .buffer_unordered(32)
        .filter(|done| std::future::ready(done.is_ok()))
        .count()
        .await;
    report("registered", begun, start, &json!({ "count": registered }));
    let start = Usage::now();
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "usage" => report("usage", begun, start, &json!({})),
            _ => registry.deregister(&instances[0].key()).await?,
        }
    }
    // Without a goodbye: nobody waits for it.
    std::process::exit(0)
}

/// Finds `count` instances; when told, stays to see one go.
async fn find(url: &str, count: usize) -> Result<(), Failure> {
    let (begun, start) = (Instant::now(), Usage::now());
    let registry = open(url).await?;
    let mut snapshots = registry.watch(&service()?);
    let (mut seen, mut states) = (0, 0);
    let until = async {
        while let Some(Ok(snapshot)) = snapshots.next().await {
            seen = snapshot.len();
            states += 1;
            if seen >= count {
                return;
            }
        }
    };
    // Running out of time is a result too: so many were seen.
    let _ = timeout(FIND_WITHIN, until).await;
    report("found", begun, start, &json!({ "count": seen, "states": states }));
    std::io::stdin().lock().read_line(&mut String::new())?;
    let (begun, start) = (Instant::now(), Usage::now());
    let (mut least, mut states) = (seen, 0);
    let staying = async {
        while let Some(Ok(snapshot)) = snapshots.next().await {
            seen = snapshot.len();
            least = least.min(seen);
            states += 1;
        }
    };
    let _ = timeout(STAY, staying).await;
    report("stayed", begun, start, &json!({ "count": seen, "least": least, "states": states }));
    std::process::exit(0)
}

/// Medians of ten, between two registries of this process.
async fn time(url: &str) -> Result<(), Failure> {
    const TIMES: usize = 10;
    let mut all: [Vec<Duration>; 5] = Default::default();
    for number in 0..TIMES {
        let (here, there) = (open(url).await?, open(url).await?);
        let service = ServiceName::new(format!("time-{number}"))?;
        let probed =
            Instance::builder(&service).id(format!("probed-{number}")).address("127.0.0.1:80").build()?;
        let random = Instance::builder(&service).address("127.0.0.1:80").build()?;
        let options = RegisterOptions::new();
        let begun = Instant::now();
        here.register(&probed, &options).await?;
        all[0].push(begun.elapsed());
        let begun = Instant::now();
        here.register(&random, &options).await?;
        all[1].push(begun.elapsed());
        // A fresh reader on a link that has been quiet for more than the second in which nobody may answer again.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let late = open(url).await?;
        let begun = Instant::now();
        let cold = late.lookup(&service).await?;
        all[2].push(begun.elapsed());
        let begun = Instant::now();
        let warm = late.lookup(&service).await?;
        all[3].push(begun.elapsed());
        let mut watch = there.watch(&service);
        let begun = Instant::now();
        here.deregister(&random.key()).await?;
        let gone = async {
            while let Some(Ok(snapshot)) = watch.next().await {
                if snapshot.get(random.id()).is_none() {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(10), gone).await?;
        all[4].push(begun.elapsed());
        if cold.len() != 2 || warm.len() != 2 {
            return Err(format!("found {} and {} of 2", cold.len(), warm.len()).into());
        }
        for registry in [here, there, late] {
            registry.close().await?;
        }
    }
    let [probed, random, cold, warm, goodbye] = all.map(|mut times| {
        times.sort_unstable();
        times[TIMES / 2].as_secs_f64() * 1000.0
    });
    let times = json!({
        "event": "times", "register_probed_ms": probed, "register_random_id_ms": random, "lookup_cold_ms": cold,
        "lookup_warm_ms": warm, "goodbye_until_removed_ms": goodbye,
    });
    print(&times);
    Ok(())
}

fn report(event: &str, begun: Instant, start: Usage, more: &Value) {
    let mut line = Usage::now().since(start);
    line["event"] = event.into();
    line["seconds"] = begun.elapsed().as_secs_f64().into();
    for (key, value) in more.as_object().into_iter().flatten() {
        line[key] = value.clone();
    }
    print(&line);
}

#[expect(clippy::print_stdout, reason = "what it is for")]
fn print(line: &Value) {
    println!("{line}");
}
