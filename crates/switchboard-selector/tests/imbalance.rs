//! How evenly least request spreads calls over instances, from sixteen threads, beside exact counts and random choice.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // figures to quote; helpers of tests

#[path = "../../switchboard-watcher/tests/support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Barrier, Mutex};

use support::{Scripted, snapshot};
use switchboard_selector::{Balancer, LeastRequest, Random, Selector, Strategy};
use switchboard_watcher::Directory;

const THREADS: usize = 16;
const ROUNDS: usize = 4_000;

async fn balancer(instances: usize, strategy: impl Strategy) -> Balancer {
    let ids: Vec<String> = (0..instances).map(|index| format!("{index:02}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let registry = Scripted::new();
    registry.say(Ok(snapshot("a", &ids)));
    let selector = Selector::builder(Directory::new(registry)).strategy(strategy).build();
    let balancer = selector.service("a").unwrap();
    balancer.ready().await.unwrap();
    balancer
}

/// The mean of the highest load, when each of sixteen threads holds its part of so many calls and again and again ends the
/// oldest of them and makes another.
fn threads(balancer: &Balancer, instances: usize, calls: usize) -> f64 {
    let loads: Vec<AtomicU32> = (0..instances).map(|_| AtomicU32::new(0)).collect();
    let highest = || loads.iter().map(|load| load.load(SeqCst)).max().unwrap();
    let (sum, begin) = (Mutex::new(0.0), Barrier::new(THREADS));
    let run = || {
        let call = || {
            let pick = balancer.pick().unwrap();
            let at: usize = pick.id().as_str().parse().unwrap();
            loads[at].fetch_add(1, SeqCst);
            (pick, at)
        };
        let mut held: VecDeque<_> = (0..calls / THREADS).map(|_| call()).collect();
        let mut own = 0.0;
        begin.wait();
        for round in 0..ROUNDS {
            let (pick, at) = held.pop_front().unwrap();
            loads[at].fetch_sub(1, SeqCst);
            drop(pick);
            held.push_back(call());
            own += f64::from(highest());
            if round % 16 == 0 {
                std::thread::yield_now();
            }
        }
        *sum.lock().unwrap() += own;
        // Only together, lest the loads of the last ones be those of fewer.
        begin.wait();
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(run))));
    #[allow(clippy::cast_precision_loss)]
    let mean = sum.into_inner().unwrap() / (ROUNDS * THREADS) as f64;
    mean
}

/// The same by one thread that knows every load: what exact counts give.
fn exact(instances: usize, calls: usize) -> f64 {
    let mut random = fastrand::Rng::with_seed(1);
    let mut loads = vec![0_u32; instances];
    let mut held = VecDeque::new();
    let mut sum = 0.0;
    let rounds = ROUNDS * THREADS;
    for round in 0..rounds + calls {
        if held.len() == calls {
            let at: usize = held.pop_front().unwrap();
            loads[at] -= 1;
        }
        let first = random.usize(..instances);
        let other = (first + 1 + random.usize(..instances - 1)) % instances;
        let at = if loads[other] < loads[first] { other } else { first };
        loads[at] += 1;
        held.push_back(at);
        if round >= calls {
            sum += f64::from(*loads.iter().max().unwrap());
        }
    }
    #[allow(clippy::cast_precision_loss)]
    let mean = sum / rounds as f64;
    mean
}

#[tokio::test]
async fn sixteen_threads_balance_as_evenly_as_one_that_knows_all() {
    for (instances, calls) in [(8, 16), (16, 64), (16, 256)] {
        let least = threads(&balancer(instances, LeastRequest).await, instances, calls);
        let random = threads(&balancer(instances, Random).await, instances, calls);
        let exact = exact(instances, calls);
        println!(
            "{instances} instances, {calls} calls: mean of the highest load {least:.2}; exact counts {exact:.2}, random {random:.2}"
        );
        assert!(
            least < exact * 1.1,
            "{least} with {instances} instances and {calls} calls; exact counts give {exact}"
        );
        assert!(random > exact * 1.1, "what is measured tells them apart");
    }
}
