//! What each strategy makes of ten unequal instances, one of them failing, on a paused clock.
//!
//! ```text
//! cargo run --release -p switchboard-selector --example simulation [-- docs/strategies.svg]
//! ```
//!
//! The instances are those of tower's published comparison (tower-rs/tower#76): each answers after a time evenly
//! distributed from zero to its own longest, 1 ms once, 10 ms, 100 ms four times, 1 s once; but one of the 10 ms fails
//! every call instead. 50 callers make 50,000 calls, each as soon as its last one is answered. Prints a table, and
//! writes the plot if told where to.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // a program to look at

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
use switchboard_selector::{
    Balancer, ConsistentHash, FailureKind, LeastRequest, PeakEwma, Random, Request, RoundRobin, Selector,
    SelectorBuilder,
};
use switchboard_watcher::Directory;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

const LONGEST_MS: [u64; 9] = [1, 10, 10, 10, 100, 100, 100, 100, 1_000];
const CALLERS: usize = 50;
const CALLS: usize = 50_000;

type Settings = fn(SelectorBuilder) -> SelectorBuilder;

const STRATEGIES: [(&str, Settings); 5] = [
    ("random", |builder| builder.strategy(Random)),
    ("round robin", |builder| builder.strategy(RoundRobin)),
    ("consistent hash", |builder| builder.strategy(ConsistentHash)),
    ("least request", |builder| builder.strategy(LeastRequest)),
    ("peak EWMA", |builder| builder.strategy(PeakEwma)),
];

struct Outcome {
    name: &'static str,
    /// Milliseconds at 50, 99 and 99.9 %.
    latency: [f64; 3],
    failed: f64,
}

fn main() -> std::io::Result<()> {
    println!("| strategy                    | p50 ms | p99 ms | p999 ms | failed | without ejection |");
    println!("|-----------------------------|-------:|-------:|--------:|-------:|-----------------:|");
    let mut outcomes = Vec::new();
    for (name, settings) in STRATEGIES {
        let (latency, failed) = simulate(settings, true);
        let (_, without) = simulate(settings, false);
        let [p50, p99, p999] = latency;
        println!(
            "| {name:<27} | {p50:>6.0} | {p99:>6.0} | {p999:>7.0} | {:>4.2} % | {:>14.2} % |",
            failed * 100.0,
            without * 100.0
        );
        outcomes.push(Outcome { name, latency, failed });
    }
    if let Some(path) = std::env::args_os().nth(1) {
        std::fs::write(path, plot(&outcomes))?;
    }
    Ok(())
}

/// The latency of all calls at three percentiles, and the part of the calls that failed.
fn simulate(settings: Settings, ejection: bool) -> ([f64; 3], f64) {
    fastrand::seed(20);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let balancer = balancer(settings, ejection).await;
        let servers: BTreeMap<String, Server> =
            (0..10).map(|index| (index.to_string(), Server::new(index))).collect();
        let (servers, results) = (Rc::new(servers), Rc::new(RefCell::new(Vec::with_capacity(CALLS))));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (balancer, servers, results) = (balancer.clone(), servers.clone(), results.clone());
                tokio::task::spawn_local(async move {
                    for _ in 0..CALLS / CALLERS {
                        let result = call(&balancer, &servers).await;
                        results.borrow_mut().push(result);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        summary(&mut results.borrow_mut())
    })
}

async fn balancer(settings: Settings, ejection: bool) -> Balancer {
    let registry = MemoryRegistry::new();
    for index in 0..10 {
        let instance = Instance::builder("s").id(index.to_string()).address(format!("h:{}", index + 1));
        registry.register(&instance.build().unwrap(), &RegisterOptions::new()).await.unwrap();
    }
    let builder = settings(Selector::builder(Directory::new(registry)));
    let builder = if ejection { builder } else { builder.without_outlier_detection() };
    let balancer = builder.build().service("s").unwrap();
    balancer.ready().await.unwrap();
    balancer
}

struct Server {
    /// `None` fails.
    longest: Option<Duration>,
}

impl Server {
    fn new(index: usize) -> Self {
        let longest = LONGEST_MS.get(index).copied().map(Duration::from_millis);
        Self { longest }
    }

    async fn serve(&self) -> bool {
        match self.longest {
            Some(longest) => sleep(longest.mul_f64(fastrand::f64())).await,
            None => sleep(Duration::from_millis(1)).await,
        }
        self.longest.is_some()
    }
}

async fn call(balancer: &Balancer, servers: &BTreeMap<String, Server>) -> (Duration, bool) {
    let begin = Instant::now();
    let pick = balancer.pick_for(&Request::new().key(fastrand::u64(..).to_le_bytes())).unwrap();
    let answered = servers[pick.id().as_str()].serve().await;
    if answered {
        pick.success();
    } else {
        pick.failure(FailureKind::Response);
    }
    (begin.elapsed(), answered)
}

#[allow(clippy::cast_precision_loss)]
fn summary(results: &mut [(Duration, bool)]) -> ([f64; 3], f64) {
    results.sort();
    let at = |per_mille: usize| results[(results.len() - 1) * per_mille / 1_000].0.as_secs_f64() * 1e3;
    let failed = results.iter().filter(|(_, answered)| !answered).count();
    ([500, 990, 999].map(at), failed as f64 / results.len() as f64)
}

/// Bars of latency on a logarithmic scale.
fn plot(outcomes: &[Outcome]) -> String {
    const LEFT: f64 = 210.0;
    const DECADE: f64 = 150.0;
    const ROW: f64 = 62.0;
    const COLOURS: [&str; 3] = ["#9ecae1", "#4292c6", "#084594"];
    #[allow(clippy::cast_precision_loss)]
    let top = |row: usize| 70.0 + ROW * row as f64;
    let x = |ms: f64| LEFT + DECADE * ms.max(1.0).log10();
    let (width, height) = (x(3_000.0) + 130.0, top(outcomes.len()) + 40.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"16\">Latency by strategy: nine instances of 1 ms to 1 s, one failing</text>\n"
    );
    for (index, (label, colour)) in ["p50", "p99", "p999"].into_iter().zip(COLOURS).enumerate() {
        let at = LEFT + 70.0 * f64::from(u32::try_from(index).unwrap());
        let _ = writeln!(
            svg,
            "<rect x=\"{at}\" y=\"38\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"49\">{label}</text>",
            at + 17.0
        );
    }
    let _ = writeln!(svg, "<text x=\"{}\" y=\"49\">failed calls</text>", x(3_000.0) + 20.0);
    for (ms, label) in [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms"), (1_000.0, "1 s")] {
        let (at, bottom) = (x(ms), top(outcomes.len()));
        let _ = writeln!(
            svg,
            "<path d=\"M{at} 60V{bottom}\" stroke=\"#ddd\"/><text x=\"{at}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 20.0
        );
    }
    for (row, outcome) in outcomes.iter().enumerate() {
        let y = top(row);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <text x=\"{}\" y=\"{}\">{:.2} %</text>",
            LEFT - 12.0,
            y + 28.0,
            outcome.name,
            x(3_000.0) + 20.0,
            y + 28.0,
            outcome.failed * 100.0
        );
        let mut top = y + 2.0;
        for (ms, colour) in outcome.latency.into_iter().zip(COLOURS) {
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{:.1}\" height=\"15\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\" font-size=\"11\">{ms:.0}</text>",
                (x(ms) - LEFT).max(1.0),
                x(ms) + 5.0,
                top + 12.0
            );
            top += 16.0;
        }
    }
    svg + "</svg>\n"
}
